"""One cluster, and one undisturbed run on it, which all disturbed ones are compared with."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from head import Head
from tiny import Finished, Run, write_inputs

from langalign.storage import Storage


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A cluster that the runs join, unless they ask for one of their own (`OWN_CLUSTER`)."""
    head = Head()
    with pytest.MonkeyPatch.context() as patch:
        # It asks of each node whether its cloud takes it away, with a process for each step.
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        try:
            head.start()
            yield head
        finally:
            head.close()


@pytest.fixture(scope="session")
def inputs(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file of a tiny run."""
    return write_inputs(tmp_path_factory.mktemp("inputs"), head.address)


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Its result on a local storage."""
    storage = Storage(str(tmp_path_factory.mktemp("undisturbed")))
    return Finished(storage, Run(inputs, storage)())


@pytest.fixture
def storage(undisturbed: Finished, tmp_path: Path) -> Storage:
    """A copy of the undisturbed run's storage, to forget steps of."""
    shutil.copytree(undisturbed.storage.root, tmp_path / "store")
    return Storage(str(tmp_path / "store"))
