"""What a replica does once its models are loaded."""

import asyncio
import gc
from collections.abc import Iterator

import pytest
import torch

from langalign.storage import Storage
from serve.replica import YOUNG_OBJECTS, start_replica
from serve.settings import Settings
from serve.telemetry import Observer


@pytest.fixture
def collector() -> Iterator[None]:
    """Python's search for cycles, and torch's threads, as they were."""
    thresholds, threads = gc.get_threshold(), torch.get_num_threads()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("collector")
def test_what_stays_is_exempt_from_the_search_for_cycles(models: Storage) -> None:
    settings = Settings(storage=models.root, device="cpu", watch_s=0)
    replica = asyncio.run(start_replica(settings, ["one"], Observer()))
    replica.check()
    # The modules of torch and transformers alone are more.
    assert gc.get_freeze_count() > 100_000
    assert gc.get_threshold()[0] == YOUNG_OBJECTS
