"""Steps that one run of Ray Train does: which of them, and what is shown of each."""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import RunConfig
from rich.console import Console

from cluster import steps as cluster_steps
from cluster import train
from cluster.connection import Connection
from cluster.display import Display
from cluster.monitor import Progress
from cluster.steps import Step, run_steps
from cluster.work import Unit, UnitWork
from langalign.config import ClusterConfig
from langalign.errors import TrainingError
from langalign.storage import Storage


@dataclass(frozen=True)
class _Named(Unit):
    step: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.step} {self.name}"

    def identity(self) -> list[Any]:
        return [self.name]

    def run(self, work: UnitWork) -> None:
        raise NotImplementedError


ALIGN = Step("align", [_Named("align", "ae"), _Named("align", "fc")])
HEAD = Step("head", [_Named("head", "ae"), _Named("head", "omission")])
NO_ALIGNER = Step("align", [], "left out")


@dataclass
class Steps:
    """Runs steps with a stand-in for Ray Train, which notes the labels of the units it is given."""

    storage: Storage
    monkeypatch: pytest.MonkeyPatch
    shows: Sequence[str] = ()
    error: Exception | None = None
    runs: list[list[str]] = field(default_factory=list)
    connected: int = 0
    printed: io.StringIO = field(default_factory=io.StringIO)

    def run(self, *steps: Step) -> None:
        self.monkeypatch.setattr(cluster_steps, "run_units", self._run_units)
        self.monkeypatch.setattr(Connection, "connect", self._connect)
        display = Display(Console(file=self.printed, width=200))
        joined = Connection(None, self.storage, display)
        run_steps(joined, steps, run="x", cluster=ClusterConfig())

    def lines(self) -> list[str]:
        """What was printed, without the seconds."""
        printed = self.printed.getvalue().splitlines()
        return [re.sub(r" +([0-9.]+s)? *", " ", line).strip() for line in printed]

    def _connect(self) -> None:
        self.connected += 1

    def _run_units(
        self, units: Sequence[Unit], storage: Storage, *, show: Callable[[Progress], None], **_: Any
    ) -> None:
        self.runs.append([unit.label for unit in units])
        for label in self.shows:
            show(Progress(label, 1, 2, ""))
        if self.error:
            raise self.error


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(Storage(str(tmp_path)), monkeypatch)


def finish(storage: Storage, step: Step) -> None:
    for unit in step.units:
        unit.output(storage).finish({}, {})


# Of units that are done between two looks nothing shows.
@pytest.mark.parametrize("shows", [[], ["align ae", "head ae"], ["head omission", "head omission"]])
def test_both_steps_are_one_run_with_a_line_each(shows: list[str], steps: Steps) -> None:
    steps.shows = shows
    steps.run(ALIGN, HEAD)
    assert steps.runs == [["align ae", "align fc", "head ae", "head omission"]]
    assert steps.lines() == ["align ae, fc", "head ae, omission"]
    assert steps.connected == 1


def test_what_is_done_names_the_run_too(steps: Steps) -> None:
    finish(steps.storage, ALIGN)
    steps.run(ALIGN, HEAD)
    assert steps.runs == [["align ae", "align fc", "head ae", "head omission"]]
    assert steps.lines() == ["align cached ae, fc", "head ae, omission"]


def test_a_later_step_that_is_done_is_shown_after_the_earlier(steps: Steps) -> None:
    finish(steps.storage, HEAD)
    steps.run(ALIGN, HEAD)
    assert steps.lines() == ["align ae, fc", "head cached ae, omission"]


def test_where_nothing_is_left_nothing_runs(steps: Steps) -> None:
    finish(steps.storage, HEAD)
    steps.run(NO_ALIGNER, HEAD)
    assert steps.runs == []
    assert steps.connected == 0
    assert steps.lines() == ["align left out", "head cached ae, omission"]


@pytest.mark.parametrize(("shown", "lines"), [("align ae", []), ("head ae", ["align ae, fc"])])
def test_an_error_leaves_no_line_of_the_step_that_it_ends(
    shown: str, lines: list[str], steps: Steps
) -> None:
    steps.shows, steps.error = [shown], TrainingError("its loss is not finite")
    with pytest.raises(TrainingError, match="not finite"):
        steps.run(ALIGN, HEAD)
    assert steps.lines() == lines


def test_a_run_is_named_by_its_first_step(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    class Trainer:
        def __init__(self, *_: Any, run_config: RunConfig, **__: Any) -> None:
            names.append(run_config.name)

        def fit(self) -> None:
            raise TrainingError("interrupted")

    monkeypatch.setattr(train, "_Trainer", Trainer)
    monkeypatch.setattr(train, "watching", lambda *_: nullcontext())
    monitor = SimpleNamespace(begin=SimpleNamespace(remote=lambda place: None))
    other_head = Step("head", [_Named("head", "fc")])
    later = Step("align", [_Named("align", "linear")])
    for asked in ([ALIGN], [ALIGN, HEAD], [ALIGN, other_head], [later, HEAD]):
        units = [unit for step in asked for unit in step.units]
        with pytest.raises(TrainingError):
            train.run_units(units, steps.storage, run="x", monitor=monitor, show=lambda _: None)
    # In it a driver finds its checkpoints, also where heads are asked for that were not before.
    assert names[0] == names[1] == names[2] != names[3]
