"""The job on a disk that is full, and once more when there is space again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import Job
from tiny import OFTEN, Finished, Run, assert_same_embeddings, forget, scores

from jobs import train
from langalign.storage import Storage

pytestmark = pytest.mark.slow

DISK_BYTES = 16 * 2**20
LEFT_BYTES = 64 * 2**10  # for the prepared rows, which are written anew, and for no step's result


class Disk:
    """A storage on a small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder / "store"))
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave LEFT_BYTES."""
        found = os.statvfs(self._ballast.parent)
        self._ballast.write_bytes(bytes(found.f_bavail * found.f_frsize - LEFT_BYTES))

    def free(self) -> None:
        """Make space again."""
        self._ballast.unlink()


@pytest.fixture
def disk(storage: Storage, tmp_path: Path) -> Iterator[Disk]:
    """With a copy of the undisturbed run's storage."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs root, to mount a small file system: {mounted.stderr.strip()}")
    try:
        disk = Disk(folder)
        shutil.copytree(storage.root, disk.storage.root)
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def job(inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(train.main, capsys, monkeypatch, "--config", str(inputs))


def assert_no_space(job: Job, disk: Disk, *overrides: str) -> None:
    """The job ends with exit status 1 and one line that says why."""
    ended = job(disk.storage.root, *overrides)
    assert ended.status == 1
    assert ended.refusal().startswith(f"failed: storage {disk.storage.root}/")
    assert "no space left: free space" in ended.refusal()


def test_a_disk_that_is_full_in_a_step_leaves_nothing_that_is_trusted(
    disk: Disk, job: Job, inputs: Path, undisturbed: Finished
) -> None:
    forget(disk.storage, "tune")
    disk.fill()
    # At a checkpoint; of two workers, only one has the error.
    assert_no_space(job, disk, OFTEN)
    assert_no_space(job, disk, OFTEN, "cluster.workers=2")
    # At the result.
    assert_no_space(job, disk)
    disk.free()
    summary = Run(inputs, disk.storage)()
    assert scores(summary) == pytest.approx(scores(undisturbed.summary), abs=1e-6)


def test_a_disk_that_is_full_while_embedding_leaves_nothing_that_is_trusted(
    disk: Disk, job: Job, inputs: Path, undisturbed: Finished
) -> None:
    forget(disk.storage, "embeddings")
    disk.fill()
    assert_no_space(job, disk)
    disk.free()
    Run(inputs, disk.storage)()
    assert_same_embeddings(disk.storage, undisturbed.storage)
