"""What is known of trials outside their processes, which may end: stopped, done, how often begun.

A module of its own: the actor's process starts without torch and the rest of a trial.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["Verdicts"]


class Verdicts:
    """An actor that holds the numbers of trials that the scheduler has stopped, or that are done.

    A trial is done once the study holds its end, whatever that was. Where the process ends instead,
    as when the kernel or Ray kills it for want of memory, one trial of its bundle may be the cause:
    they begin again one at a time, those that have begun more often after the others.
    """

    def __init__(self) -> None:
        self._stopped: set[int] = set()
        self._done: set[int] = set()
        self._begun: Counter[int] = Counter()

    def stop(self, numbers: Iterable[int]) -> None:
        """Note trials to stop."""
        self._stopped.update(numbers)

    def stopped(self, numbers: Iterable[int]) -> list[int]:
        """Those of `numbers` that are to stop."""
        return [number for number in numbers if number in self._stopped]

    def finish(self, numbers: Iterable[int]) -> None:
        """Note trials that are done."""
        self._done.update(numbers)

    def begin(self, numbers: Iterable[int]) -> None:
        """Note trials that a process begins to train."""
        self._begun.update(numbers)

    def groups(self, numbers: Sequence[int]) -> list[list[int]]:
        """Those of `numbers` that are not done, by what to train together."""
        left = [number for number in numbers if number not in self._done]
        if not any(self._begun[number] for number in left):
            return [left]
        return [[number] for number in sorted(left, key=lambda number: self._begun[number])]
