"""What a Ray Train worker does: a list of units of work, one after the other.

A unit is one thing that is trained (step 1, one aligner, one head). It is named by a digest of
all its inputs and leaves a finished step output on storage, so a unit that is done is never done
again, and one that was cut short goes on from its last checkpoint.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from ray.util.placement_group import get_current_placement_group

from cluster.checkpoints import keep_state, kept_state
from cluster.monitor import Progress
from langalign.errors import LangAlignError
from langalign.loop import EpochReport, Worker, all_sum
from langalign.outputs import StepOutput, digest_of
from langalign.storage import Storage

__all__ = ["Unit", "UnitWork", "train_units"]

POST_INTERVAL_S = 0.2
Value = TypeVar("Value")


class _OtherWorkerFailed(Exception):
    """Ends the work where nothing is wrong; the worker that failed says why."""


class Unit(ABC):
    """One thing to train. Subclasses are frozen dataclasses of plain values."""

    step: str

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name for progress lines, as in `align ae`."""

    @property
    def max_epochs(self) -> int:
        """Epochs the unit may take at most; 0 where it has none."""
        return 0

    @abstractmethod
    def identity(self) -> list[Any]:
        """Everything the result depends on, as plain values."""

    @abstractmethod
    def run(self, work: "UnitWork") -> None:
        """Train, and leave a finished output."""

    def output(self, storage: Storage) -> StepOutput:
        """Where the result lies: `steps/<step>/<digest>`."""
        digest = digest_of(self.step, *self.identity())
        return StepOutput(storage, f"steps/{self.step}/{digest}")


@dataclass
class UnitWork:
    """The surroundings of one unit on one worker."""

    storage: Storage
    output: StepOutput
    worker: Worker
    label: str
    max_epochs: int
    monitor: Any
    checkpoint_interval_s: float
    resume: Path | None
    _last_checkpoint: float = field(default_factory=time.monotonic)
    _last_post: float = 0.0

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.worker.rank == 0

    def together(self, action: Callable[[], Value]) -> Value:
        """Do something that may fail on one worker alone, and fail on all of them if it does.

        Without this the others would wait in their next all-reduce for ever.
        """
        result: list[Value] = []
        problem: LangAlignError | None = None
        try:
            result.append(action())
        except LangAlignError as error:
            problem = error
        failed = all_sum(torch.tensor(float(problem is not None), device=self.worker.device))
        if problem is not None:
            raise problem
        if failed.item():
            raise _OtherWorkerFailed
        return result[0]

    def begin(self) -> None:
        """Tell the monitor."""
        if self.is_first:
            self.monitor.post.remote(Progress(self.label, 0, self.max_epochs, ""))

    def finish(self, write: Callable[[], dict[str, Any]], info: dict[str, Any]) -> None:
        """Write the files on the first worker and then the manifest."""

        def store() -> None:
            if self.is_first:
                self.output.finish(write(), info)

        self.together(store)

    def report(self, report: EpochReport, save: Callable[[Path], None]) -> None:
        """Tell the monitor, and checkpoint when the interval has passed."""
        now = time.monotonic()
        if self.is_first and now - self._last_post > POST_INTERVAL_S:
            self._last_post = now
            text = f"loss {report.train_loss:.4f}, validation {report.score:.4f}"
            self.monitor.post.remote(Progress(self.label, report.epoch + 1, self.max_epochs, text))
        # The first worker's clock decides, so that all of them report together.
        is_due = self.is_first and now - self._last_checkpoint >= self.checkpoint_interval_s
        if all_sum(torch.tensor(float(is_due), device=self.worker.device)).item():
            # Ray's report waits for all workers, so what can fail alone comes before it.
            checkpoint = self.together(lambda: self._keep(save) if self.is_first else None)
            ray.train.report(
                {"unit": self.label, "epoch": report.epoch, "score": report.score},
                checkpoint=checkpoint,
                checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
            )
            self._last_checkpoint = time.monotonic()

    def _keep(self, save: Callable[[Path], None]) -> ray.train.Checkpoint:
        """Store a checkpoint below the run's folder, where Ray Train deletes old ones."""
        run = ray.train.get_context().get_storage()
        key = run.build_checkpoint_path_from_name(f"checkpoint-{uuid.uuid4().hex}")
        with TemporaryDirectory() as folder:
            state = Path(folder) / "state"
            save(state)
            keep_state(self.storage, key, state, self.output.prefix)
        return ray.train.Checkpoint(key, filesystem=run.storage_filesystem)


def train_units(
    units: Sequence[Unit], storage: Storage, monitor: Any, checkpoint_interval_s: float
) -> None:
    """The function each Ray Train worker runs.

    An error raised on purpose is told to the monitor and ends the run without restarts, which
    would only repeat it; anything else (a killed process, a lost node) is Ray Train's to retry.
    """
    monitor.begin.remote(get_current_placement_group())
    context = ray.train.get_context()
    worker = Worker(
        context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
    )
    checkpoint = ray.train.get_checkpoint()
    with TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        resumed = kept_state(storage, checkpoint.path, state) if checkpoint else None
        try:
            for unit in units:
                output = unit.output(storage)
                if output.is_done():
                    continue
                is_resumed = resumed == output.prefix
                work = UnitWork(
                    storage=storage,
                    output=output,
                    worker=worker,
                    label=unit.label,
                    max_epochs=unit.max_epochs,
                    monitor=monitor,
                    checkpoint_interval_s=checkpoint_interval_s,
                    resume=state if is_resumed else None,
                )
                work.begin()
                unit.run(work)
        except LangAlignError as error:
            ray.get(monitor.fail.remote(error))
        except _OtherWorkerFailed:
            return
