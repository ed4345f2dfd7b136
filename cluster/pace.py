"""How long the rest of some work takes, judged by what is done of it."""

import time

__all__ = ["Pace"]


class Pace:
    """Begun with so much `work`, in any unit; the clock starts here."""

    def __init__(self, work: float) -> None:
        self.work = work
        self.start = time.monotonic()

    def text(self, left: float) -> str:
        """The time that work `left` takes; empty before any is done."""
        done = self.work - left
        if done <= 0:
            return ""
        seconds = (time.monotonic() - self.start) * left / done
        return f"about {seconds:,.0f} s left"
