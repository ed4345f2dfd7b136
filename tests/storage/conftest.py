"""Every test that takes `storage` runs twice: on a local folder and on a real S3 server."""

import uuid
from pathlib import Path

import pytest
from model_folder import write_model
from seaweed import SeaweedServer

from langalign.storage import Storage


@pytest.fixture
def s3(seaweedfs: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty place of its own in the server's bucket."""
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    return Storage(f"s3://{seaweedfs.bucket}/{uuid.uuid4().hex}")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "root"))
    s3: Storage = request.getfixturevalue("s3")
    return s3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model as training leaves it."""
    folder = tmp_path / "model"
    write_model(folder)
    return folder
