"""Run units of work on Ray Train V2: any number of CPU or GPU workers, restarts, checkpoints."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util import remove_placement_group

from cluster.checkpoints import filesystem_of
from cluster.monitor import Progress, watching
from cluster.process_group import ProcessGroupConfig
from cluster.session import crash_reason
from cluster.work import Unit, train_units
from langalign.errors import LangAlignError, TrainingError
from langalign.outputs import digest_of
from langalign.storage import Storage

__all__ = ["run_units"]

ANSWER_LIMIT_S = 10.0
_NOT_NEEDED = (DatasetsCallback, PlacementGroupCleanerCallback)


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without the parts of Ray Train that a run of ours does not need, or that stand in its way."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the driver: Ray Train's handler stays after the run, and exits with 0."""

    def _create_default_callbacks(self) -> list[Any]:
        """All but two, each of which starts a process (2 s of a core) that delays the workers.

        No Ray Dataset is handed to them. And what a killed controller's workers had, once they
        worked, is freed by `_free`: what Ray Train has for it keeps every run waiting for up to a
        second, and finds nothing out where there is no dashboard.
        """
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, _NOT_NEEDED)]


def run_units(
    units: Sequence[Unit],
    storage: Storage,
    *,
    run: str,
    monitor: Any,
    show: Callable[[Progress], None],
    workers: int = 1,
    gpus_per_worker: float = 0,
    cpus_per_worker: float = 1,
    max_failures: int = 3,
    checkpoint_interval_s: float = 30.0,
) -> None:
    """Train every unit that is not done, in one Ray Train run with checkpoints on storage.

    The run is named by the units of its first step, which later ones follow from, so a driver that
    was killed finds its checkpoints again. (They say of which unit they are.)

    Raises:
        LangAlignError: whatever ended a unit on purpose.
        TrainingError: workers died more often than `max_failures` allows.
    """
    if all(unit.output(storage).is_done() for unit in units):
        return
    first = [unit for unit in units if unit.step == units[0].step]
    name = f"{units[0].step}-{digest_of(*(unit.output(storage).prefix for unit in first))[:12]}"
    trainer = _Trainer(
        # Not as train_loop_config, which the controller reads too: it would import all of them.
        partial(train_units, list(units), storage, monitor, checkpoint_interval_s),
        torch_config=ProcessGroupConfig(),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={"CPU": cpus_per_worker, "GPU": gpus_per_worker},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=f"runs/{run}/train",
            storage_filesystem=filesystem_of(storage),
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        monitor.begin.remote(None)  # or what ran before would be taken for this run's
        with watching(monitor, show):
            trainer.fit()
        problem = ray.get(monitor.take_error.remote())
    except ray.train.TrainingFailedError as error:
        raise _ended_by(error, max_failures) from error
    except ray.exceptions.RayError as error:
        _free(monitor)
        lost = " ".join(str(error).split())[:200]
        raise TrainingError(f"the Ray cluster was lost ({lost}); run again to go on") from error
    if problem is not None:
        raise problem
    missing = [unit.label for unit in units if not unit.output(storage).is_done()]
    if missing:
        raise TrainingError(f"{', '.join(missing)} ended without a result; run again to go on")


def _free(monitor: Any) -> None:
    """Give back what the workers had: Ray keeps it until the driver ends, which may go on."""
    with suppress(ray.exceptions.RayError):  # the whole cluster is gone, and with it the monitor
        if place := ray.get(monitor.place.remote(), timeout=ANSWER_LIMIT_S):
            remove_placement_group(place)


def _ended_by(error: Exception, max_failures: int) -> LangAlignError:
    """Why Ray Train gave up, as an error of ours."""
    # The controller writes a state of its own to the storage, and does not try again.
    cause = getattr(error, "controller_failure", None)
    if isinstance(cause, LangAlignError):
        return cause
    return TrainingError(
        f"training workers failed more than cluster.max_failures={max_failures} times: "
        f"{crash_reason(error)}; "
        f"set LANGALIGN_VERBOSE=1 for their logs"
    )
