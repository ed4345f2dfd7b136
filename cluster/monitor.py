"""One small actor that workers tell their progress, their place, and their reason for stopping.

Ray Train consumes one report of a worker at a time, at its polling interval, so epochs that take
milliseconds must not go through `ray.train.report`; they are posted here without waiting.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from langalign.errors import LangAlignError

__all__ = ["Monitor", "Progress", "drivers_node", "start_monitor", "watching"]

POLL_INTERVAL_S = 0.25


@dataclass(frozen=True)
class Progress:
    """Where a step stands: `done` of `total` units (`total` 0: not known), and a short text.

    `score` is the best so far of a search, 0 to 1.
    """

    step: str
    done: int
    total: int
    text: str
    score: float | None = None


class Monitor:
    """The actor: keeps the latest progress, and the first error that ended a step on purpose.

    And the placement group of the workers, which the driver may have to free.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._error: LangAlignError | None = None
        self._place: PlacementGroup | None = None

    def post(self, progress: Progress) -> None:
        """Replace the progress."""
        self._progress = progress

    def begin(self, place: PlacementGroup | None) -> None:
        """Keep the placement group in which the work has begun."""
        self._place = place

    def place(self) -> PlacementGroup | None:
        """That of the workers that began last."""
        return self._place

    def fail(self, error: LangAlignError) -> None:
        """Keep the first error."""
        self._error = self._error or error

    def latest(self) -> Progress | None:
        """The progress posted last."""
        return self._progress

    def take_error(self) -> LangAlignError | None:
        """The first error, once."""
        error, self._error = self._error, None
        return error


def drivers_node() -> NodeAffinitySchedulingStrategy:
    """The place of an actor that is to outlive worker nodes: where the driver runs."""
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(node_id=here, soft=False)


def start_monitor() -> Any:
    """Start the actor on the driver's node."""
    return (
        ray.remote(num_cpus=0, max_concurrency=4)(Monitor)
        .options(scheduling_strategy=drivers_node())
        .remote()
    )


@contextmanager
def watching(monitor: Any, show: Callable[[Progress], None]) -> Iterator[None]:
    """Pass the monitor's progress to `show` from a thread while the block runs."""
    stop = threading.Event()
    shown: Progress | None = ray.get(monitor.latest.remote())  # of what ran before

    def poll() -> None:
        nonlocal shown
        while not stop.wait(POLL_INTERVAL_S):
            try:
                progress = ray.get(monitor.latest.remote())
            except ray.exceptions.RayError:
                # The cluster is gone: the step that is watched says so.
                return
            if progress is not None and progress != shown:
                show(progress)
                shown = progress

    thread = threading.Thread(target=poll, daemon=True, name="langalign-progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
