"""Steps of a job that train: what of them is left is one run of Ray Train, with a line for each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cluster.connection import Connection
from cluster.display import Display
from cluster.monitor import Progress
from cluster.train import run_units
from cluster.work import Unit
from langalign.config import ClusterConfig
from langalign.storage import Storage

__all__ = ["Step", "run_steps"]


@dataclass(frozen=True)
class Step:
    """Units that make one step of a job; without any, the step says `nothing`."""

    name: str
    units: Sequence[Unit]
    nothing: str = ""

    @property
    def text(self) -> str:
        """What the step is for, in a line."""
        labels = (unit.label.removeprefix(f"{self.name} ") for unit in self.units)
        return ", ".join(labels) or self.nothing

    def is_done(self, storage: Storage) -> bool:
        """Whether nothing is left of it."""
        return all(unit.output(storage).is_done() for unit in self.units)


def run_steps(
    connection: Connection, steps: Sequence[Step], *, run: str, cluster: ClusterConfig
) -> None:
    """Train the units that are not done, and show the steps, of which each needs those before it.

    It is one run of Ray Train: to start one takes as long as a short step.

    Raises:
        LangAlignError: see `run_units`.
    """
    left = [step for step in steps if not step.is_done(connection.storage)]
    if left:
        # Before the steps, whose lines would end with that of the connection.
        connection.connect()
    for step in steps:
        if step not in left:
            with connection.display.step(step.name) as line:
                # Without units nothing was cached either: the step is left out.
                (line.found if step.units else line.say)(step.text)
        elif step is left[0]:
            _train(connection, steps, left, run=run, cluster=cluster)


def _train(
    connection: Connection,
    steps: Sequence[Step],
    left: Sequence[Step],
    *,
    run: str,
    cluster: ClusterConfig,
) -> None:
    with _lines(connection.display, left) as show:
        run_units(
            # All of them: the first name the run, in which another driver finds its checkpoints.
            [unit for step in steps for unit in step.units],
            connection.storage,
            run=run,
            monitor=connection.monitor,
            show=show,
            workers=cluster.workers,
            gpus_per_worker=cluster.gpus_per_worker,
            cpus_per_worker=cluster.cpus_per_worker,
            max_failures=cluster.max_failures,
            checkpoint_interval_s=cluster.checkpoint_interval_s,
        )


@contextmanager
def _lines(display: Display, steps: Sequence[Step]) -> Iterator[Callable[[Progress], None]]:
    """A line for each of several steps, which ends when the next one's first unit shows."""
    left = list(steps)
    with ExitStack() as line:

        def begin() -> None:
            line.enter_context(display.step(left[0].name)).say(left[0].text)

        def go_on() -> None:
            line.close()
            left.pop(0)
            begin()

        def show(progress: Progress) -> None:
            while progress.step in {unit.label for step in left[1:] for unit in step.units}:
                go_on()
            display.show(progress)

        begin()
        yield show
        while len(left) > 1:
            go_on()
