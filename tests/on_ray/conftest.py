"""One undisturbed run, which all disturbed ones are compared with."""

import shutil
from pathlib import Path

import pytest
from tiny import Finished, Run, write_inputs

from langalign.storage import Storage


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file of a tiny run."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Its result on a local storage."""
    run = Run(inputs, Storage(str(tmp_path_factory.mktemp("undisturbed"))))
    summary = run()
    return Finished(run.storage, summary, run.printed.getvalue())


@pytest.fixture
def storage(undisturbed: Finished, tmp_path: Path) -> Storage:
    """A copy of the undisturbed run's storage, to forget steps of."""
    shutil.copytree(undisturbed.storage.root, tmp_path / "store")
    return Storage(str(tmp_path / "store"))
