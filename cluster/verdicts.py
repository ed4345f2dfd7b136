"""What the driver has decided about trials, where their processes can ask for it.

A module of its own: the actor's process starts without torch and the rest of a trial.
"""

from collections.abc import Iterable

__all__ = ["Verdicts"]


class Verdicts:
    """An actor that holds the numbers of trials that the scheduler has stopped, or that are done.

    A trial is done once the study holds its end, whatever that was.
    """

    def __init__(self) -> None:
        self._stopped: set[int] = set()
        self._done: set[int] = set()

    def stop(self, numbers: Iterable[int]) -> None:
        """Note trials to stop."""
        self._stopped.update(numbers)

    def stopped(self, numbers: Iterable[int]) -> list[int]:
        """Those of `numbers` that are to stop."""
        return [number for number in numbers if number in self._stopped]

    def finish(self, numbers: Iterable[int]) -> None:
        """Note trials that are done."""
        self._done.update(numbers)

    def unfinished(self, numbers: Iterable[int]) -> list[int]:
        """Those of `numbers` that are not done."""
        return [number for number in numbers if number not in self._done]
