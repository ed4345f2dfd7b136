"""Published models to serve, and a client of a service on them without Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from local_service import client_of, parts_of
from published import publish, write_encoder

from langalign.storage import Storage


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """What a batch run in a test's own thread leaves set would hold for the next test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Storage:
    """`one` for xc and `two` for xd share an encoder; `pairs` for xe is a task on pairs."""
    root, scratch = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("scratch")
    publish(root, encoder, scratch, name="one", seed=1)
    publish(root, encoder, scratch, name="two", seed=2, target="xd")
    publish(root, encoder, scratch, name="pairs", seed=3, target="xe", is_pair_task=True)
    return Storage(str(root))


@pytest.fixture
def client(models: Storage) -> Iterator[TestClient]:
    with client_of(parts_of(models, ["one", "two", "pairs"])) as opened:
        yield opened
