"""What a run shows while it works: one line a step, with a moving bar on a terminal."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cluster import monitor
from cluster.metrics import RunGauges

__all__ = ["Display", "StepLine"]

PLAIN_INTERVAL_S = 15.0


class StepLine:
    """One step while it runs: its last words become the line that stays."""

    def __init__(self) -> None:
        self.text = ""
        self.is_cached = False

    def say(self, text: str) -> None:
        """What the step did."""
        self.text = text

    def found(self, text: str) -> None:
        """The step was done before: say what was found."""
        self.text = text
        self.is_cached = True


class _Bar(Progress):
    """A moving bar with something below it."""

    below: RenderableType = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Called by rich for each frame."""
        yield from super().get_renderables()
        yield self.below


class Display:
    """Prints steps to a rich console; without a terminal, a plain line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: _Bar | None = None
        self._gauges: RunGauges | None = None
        self._last_plain = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[StepLine]:
        """Show a step from start to end; prints `name  seconds  what it did`."""
        line = StepLine()
        start = time.monotonic()
        self._last_plain = start
        bar = _Bar(
            TextColumn(f"  [bold]{name:<8}[/bold]"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        bar.add_task("", total=None)
        with bar:
            self._bar = bar
            yield line
        self._bar = None
        mark = "[dim]cached[/dim]" if line.is_cached else f"{time.monotonic() - start:5.1f}s"
        self.console.print(f"  [bold]{name:<8}[/bold] {mark:>6}  {line.text}", highlight=False)

    def show(self, progress: monitor.Progress, below: RenderableType = "") -> None:
        """Move the bar of the step that runs; without a terminal, print its text every 15 s."""
        if self._bar is None:
            return
        self._gauges = self._gauges or RunGauges()
        self._gauges.show(progress)
        counts = f" {progress.done}/{progress.total}" if progress.total else ""
        text = f"{progress.step}{counts}  {progress.text}".rstrip()
        task = self._bar.task_ids[0]
        self._bar.update(
            task, completed=progress.done, total=progress.total or None, description=text
        )
        self._bar.below = below
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_plain > PLAIN_INTERVAL_S:
            self._last_plain = now
            self.console.print(f"    … {text}", highlight=False)
