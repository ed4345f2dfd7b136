"""How many workers a cluster had when, and a plot of it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from langalign.errors import ClusterError
from langalign.figures import COLOURS, DPI, WIDTH_INCHES, tidy

__all__ = ["Phase", "Timeline", "plot_timeline", "repeatedly"]

HEIGHT_INCHES = 3.2
SHORTEST_LABELLED = 0.02  # of the whole; shorter phases have no room for their names


@dataclass(frozen=True)
class Phase:
    """A part of the rehearsal, from and to in seconds since its beginning, and what it found."""

    name: str
    start_s: float
    end_s: float
    text: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


@dataclass
class Timeline:
    """Phases, and (seconds, workers) whenever the number of workers changed."""

    begin: float = field(default_factory=time.monotonic)
    phases: list[Phase] = field(default_factory=list)
    workers: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])

    def now(self) -> float:
        """Seconds since its beginning."""
        return time.monotonic() - self.begin

    def note(self, workers: int) -> None:
        """So many there are now."""
        if workers != self.workers[-1][1]:
            self.workers.append((self.now(), workers))


@contextmanager
def repeatedly(do: Callable[[], None], interval_s: float) -> Iterator[None]:
    """Call `do` from a thread while the block runs; a call may fail, as while the cluster ends."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(interval_s):
            with suppress(ClusterError):
                do()

    thread = threading.Thread(target=loop, daemon=True, name="rehearsal-watch")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def plot_timeline(
    phases: Sequence[Phase], workers: Sequence[tuple[float, int]], path: Path
) -> Path:
    """Workers over time above the phases, as a PNG."""
    end = max(phase.end_s for phase in phases)
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    axes = figure.subplots()
    times, counts = zip(*workers, (end, workers[-1][1]), strict=True)
    axes.step(times, counts, where="post", color=COLOURS[0], linewidth=2)
    top = max(counts) + 1
    for number, phase in enumerate(phases):
        axes.axvspan(phase.start_s, phase.end_s, color="black", alpha=0.05 * (number % 2), lw=0)
        if phase.seconds < SHORTEST_LABELLED * end:
            continue
        middle = (phase.start_s + phase.end_s) / 2
        axes.text(middle, top, f" {phase.name}", rotation=45, fontsize=9, va="bottom")
    axes.set(xlabel="seconds", ylabel="workers", xlim=(0, end), ylim=(0, top))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    figure.savefig(path, dpi=DPI)
    return path
