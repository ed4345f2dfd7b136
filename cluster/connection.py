"""Ray for the length of a job, from the first step on that has work for it."""

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from cluster.display import Display
from cluster.monitor import start_monitor
from cluster.session import checked_session
from langalign.storage import Storage

__all__ = ["Connection"]


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
