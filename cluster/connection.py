"""Ray for the length of a job, from the first step on that has work for it."""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from cluster.display import Display
from cluster.monitor import start_monitor
from cluster.session import checked_session
from cluster.train import run_units
from cluster.work import Unit
from langalign.config import ClusterConfig
from langalign.storage import Storage

__all__ = ["Connection", "run_step"]


class Connection:
    """Connects when it is first asked to, so that a job whose steps are all done starts no Ray.

    `monitor` is the actor that steps report to, None before.
    """

    def __init__(self, address: str | None, storage: Storage, display: Display) -> None:
        self.storage = storage
        self.display = display
        self.monitor: Any = None
        self._address = address
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.monitor = None
        self._stack.__exit__(kind, error, trace)

    def connect(self) -> None:
        """See `checked_session`; nothing if it is connected."""
        if self.monitor is None:
            self._stack.enter_context(checked_session(self._address, self.storage, self.display))
            self.monitor = start_monitor()


def run_step(
    connection: Connection,
    step: str,
    units: Sequence[Unit],
    *,
    run: str,
    cluster: ClusterConfig,
    nothing: str = "",
) -> None:
    """Train the units that are not done, and show the step; without units it says `nothing`.

    Raises:
        LangAlignError: see `run_units`.
    """
    is_done = all(unit.output(connection.storage).is_done() for unit in units)
    if not is_done:
        # Before the step, whose line would end with that of the connection.
        connection.connect()
    with connection.display.step(step) as line:
        text = ", ".join(unit.label.removeprefix(f"{step} ") for unit in units) or nothing
        if is_done:
            # Without units nothing was cached either: the step is left out.
            (line.found if units else line.say)(text)
            return
        run_units(
            units,
            connection.storage,
            run=run,
            monitor=connection.monitor,
            show=connection.display.show,
            workers=cluster.workers,
            gpus_per_worker=cluster.gpus_per_worker,
            cpus_per_worker=cluster.cpus_per_worker,
            max_failures=cluster.max_failures,
            checkpoint_interval_s=cluster.checkpoint_interval_s,
        )
        line.say(text)
