"""What the driver of a sweep does beside the search, without Ray: faults of what it asks for."""

import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import ray
from optuna.trial import TrialState
from rich.console import Console

from cluster import confirm, session, tune
from cluster.display import Display
from cluster.pipeline import Pipeline
from cluster.study import LOST, StudyFile
from cluster.tune import Sweep
from cluster.watch import TakenStopper, Watch
from langalign import sweepreport
from langalign.config import PipelineConfig
from langalign.configfile import load_config
from langalign.errors import ConfigError, IntegrityError, StorageError, TrainingError
from langalign.outputs import StepOutput
from langalign.searchspace import SweepConfig, suggest
from langalign.storage import Storage

EMBEDDED = "embeddings/e"
PREFIXES = {"train": "a", "source": "b", "target": EMBEDDED, "test": "d"}
IDENTITY = {"data": "d", "space": "s"}
READ = ("train", "parallel")  # roles of rows that trials read


class Eager:
    """Ray's tasks in this process; as there, only `get` raises what a task raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cancelled: list[Any] = []
        for name in ("remote", "get", "wait", "cancel"):
            monkeypatch.setattr(ray, name, getattr(self, name))

    def remote(self, num_returns: int = 1, **_: Any) -> Callable[..., Any]:
        """A decorator for tasks."""

        def run(task: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            try:
                found = task(*arguments, **named)
            except Exception as error:  # noqa: BLE001 (raised again by `get`)
                found = error if num_returns == 1 else [error] * num_returns
            return found

        return lambda task: SimpleNamespace(remote=lambda *a, **named: run(task, *a, **named))

    def get(self, reference: Any) -> Any:
        """The result of a task, or its error."""
        if isinstance(reference, Exception):
            raise reference
        return reference

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        """All are done."""
        return references, []

    def cancel(self, reference: Any) -> None:
        """Note it: what is done cannot be cancelled."""
        self.cancelled.append(reference)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def make_sweep(storage: Storage, *overrides: str) -> Sweep:
    config = load_config(SweepConfig, overrides=["name=swept", *overrides])
    return Sweep(config, storage, Console(file=io.StringIO(), width=300))


# --- embeddings --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [IntegrityError("altered", EMBEDDED), StorageError("away")])
def test_arrays_that_cannot_be_read_end_the_run_before_a_trial_is_spent(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def unreadable(*_: Any) -> None:
        raise error

    Eager(monkeypatch)
    monkeypatch.setattr(tune, "load_arrays", unreadable)
    monkeypatch.setattr(Pipeline, "embedded", lambda _: (SimpleNamespace(), PREFIXES))
    embedded = StepOutput(storage, EMBEDDED)
    embedded.finish({}, {})
    with pytest.raises(type(error), match=str(error)):
        make_sweep(storage)._embedded()
    # Altered ones are made anew by the next run.
    assert embedded.is_done() == isinstance(error, StorageError)


def test_other_held_out_rows_or_embeddings_are_another_study(storage: Storage) -> None:
    def identity(target: str, *overrides: str, rows: Sequence[str] = READ) -> dict[str, str]:
        roles = {role: SimpleNamespace(summary=SimpleNamespace(digest=role)) for role in rows}
        prefixes = {"cls": {"train": "a", "source": "b", "target": target}}
        data: Any = SimpleNamespace(roles=roles)
        return make_sweep(storage, *overrides)._identity(data, prefixes)

    def differing(other: dict[str, str]) -> set[str]:
        return {name for name, value in identity("t").items() if other[name] != value}

    assert differing(identity("t")) == set()
    # No trial reads the others.
    assert differing(identity("t", rows=(*READ, "test", "native"))) == set()
    assert differing(identity("other")) == {"embeddings"}
    assert differing(identity("t", "data.validation_fraction=0.2")) == {"held-out rows"}


# --- the end -----------------------------------------------------------------------------------

FOUND = 1e-3  # the learning rate of the search's best


class Searched:
    """A search that found three trials: ae and fc as the config has them, and a better ae.

    `fresh` are scores on fresh seeds of the best, of fc and of ae; or errors. `made` is what the
    pipeline was told to train, with the lineage, and `fault` the error that it ends with.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_labelled: bool = True) -> None:
        self.fresh: list[float | BaseException] = [0.8, 0.7, 0.6]
        self.made: list[tuple[PipelineConfig, dict[str, str]]] = []
        self.fault: Exception | None = None
        self.tasks = Eager(monkeypatch)
        data = SimpleNamespace(has_labelled_pairs=is_labelled)
        monkeypatch.setattr(session, "checked_session", lambda *_: nullcontext())
        monkeypatch.setattr(Sweep, "_embedded", lambda _: (data, {}, {}))
        monkeypatch.setattr(Sweep, "_identity", lambda *_: IDENTITY)
        monkeypatch.setattr(Sweep, "search", _tell_three)
        monkeypatch.setattr(confirm, "fit_seeds", self.fit)
        monkeypatch.setattr(tune, "Pipeline", self.pipeline)
        # Drawn by tests of their own.
        monkeypatch.setattr(sweepreport, "plots", lambda _: {})

    def fit(self, values: dict[str, Any], seeds: list[int], **_: Any) -> list[float]:
        """Stands for training on fresh seeds."""
        is_best = values["aligner.learning_rate"] == FOUND
        fresh = self.fresh[0 if is_best else ["", "fc", "ae"].index(values["aligner.kind"])]
        if isinstance(fresh, BaseException):
            raise fresh
        return [fresh for _ in seeds]

    def pipeline(self, config: PipelineConfig, *_: Any, parents: dict[str, str]) -> Any:
        """Stands for the pipeline's class."""

        def run() -> dict[str, Any]:
            if self.fault:
                raise self.fault
            self.made.append((config, parents))
            return {"models": [{"name": "swept"}], "results": [], "chosen": {}, "notes": ["other"]}

        return SimpleNamespace(run=run)


def _tell_three(sweep: Sweep, file: StudyFile, _: Any, __: Any, points: Any, trials: int) -> None:
    assert trials == 3
    ae, fc = points
    found = ae | {"aligner.learning_rate": FOUND}
    for point, score in ((ae, 0.6), (fc, 0.7), (found, 0.8)):
        file.study.enqueue_trial(point)
        trial = file.study.ask()
        suggest(trial, sweep.config.space, sweep.pipeline.aligner)
        file.study.tell(trial, score)
    file.keep()


def printed(sweep: Sweep) -> str:
    return str(sweep.console.file.getvalue())  # type: ignore[attr-defined]


def test_the_best_is_compared_with_the_better_of_the_configs_own_kinds(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = Searched(monkeypatch)
    sweep = make_sweep(storage, "sweep.trials=3")
    assert sweep.config.aligner.kind == "ae"
    summary = sweep.run()
    # fc, which the search scored higher, though the config's kind is ae.
    assert summary["gain"]["defaults"] == (0.7,) * 5
    assert summary["gain"]["defaults_trial"] == 1
    assert summary["gain"]["difference"] == pytest.approx(0.1)
    assert summary["status"] == "done"
    assert summary["notes"] == ["other"]
    assert "config's own values" in printed(sweep)
    assert len(searched.made) == 1


def test_the_lineage_names_study_trial_data_and_the_whole_configuration(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    searched = Searched(monkeypatch)
    make_sweep(storage, "sweep.trials=3", "cluster.workers=2").run()
    ((config, lineage),) = searched.made
    assert lineage["study"] == "runs/swept/sweep/study.journal#trial=2"
    assert lineage["data"] == IDENTITY["data"]
    path = tmp_path / "config.json"
    path.write_bytes(storage.read_bytes(lineage["config"]))
    kept = load_config(PipelineConfig, path)
    assert kept.aligner.learning_rate == FOUND
    # All but where it ran, so that another place gives the same digest, and so the same model.
    assert kept.model_copy(update={"cluster": config.cluster}) == config
    make_sweep(storage, "sweep.trials=3").run()
    assert searched.made[1][1] == lineage
    assert storage.read_json("runs/swept/sweep/summary.json")["lineage"] == lineage


@pytest.mark.parametrize(("fresh", "chosen"), [(0.6, 1), (0.7, 2)])
def test_a_best_that_is_worse_on_fresh_seeds_is_not_published(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, fresh: float, chosen: int
) -> None:
    searched = Searched(monkeypatch)
    searched.fresh[0] = fresh
    summary = make_sweep(storage, "sweep.trials=3").run()
    ((config, lineage),) = searched.made
    assert lineage["study"].endswith(f"#trial={chosen}")
    assert config.aligner.kind == ("fc" if chosen == 1 else "ae")
    assert summary["best"]["trial"] == 2
    notes = [note for note in summary["notes"] if "10.00 points below" in note]
    assert len(notes) == (chosen == 1)
    page = storage.read_bytes("runs/swept/sweep/report.html").decode()
    assert ("10.00 points below" in page) == (chosen == 1)


def test_a_gain_that_cannot_be_measured_is_said_and_the_best_published(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = Searched(monkeypatch)
    searched.fresh[0] = TrainingError("seed 1000: head: epoch 2 gave loss nan")
    sweep = make_sweep(storage, "sweep.trials=3")
    summary = sweep.run()
    assert summary["gain"] is None
    assert searched.made[0][1]["study"].endswith("#trial=2")
    note, *others = summary["notes"]
    assert others == ["other"]
    assert "not measured" in note
    assert "the best on fresh seeds: seed 1000: head: epoch 2 gave loss nan" in note
    assert note in printed(sweep)
    assert storage.read_json("runs/swept/sweep/summary.json")["notes"] == summary["notes"]
    # The other would hold its core while the pipeline trains.
    assert [0.7] * 5 in searched.tasks.cancelled


def test_own_values_without_a_score_are_compared_with_nothing() -> None:
    failed = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    other = optuna.trial.create_trial(value=0.5)
    with pytest.raises(TrainingError, match="no trial of the config's own values"):
        confirm.own_trial([{"aligner.kind": "fc"}], [failed, other])


def test_a_model_that_cannot_be_made_leaves_what_was_found(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = Searched(monkeypatch)
    searched.fault = StorageError("away")
    sweep = make_sweep(storage, "sweep.trials=3")
    with pytest.raises(StorageError, match="away"):
        sweep.run()
    assert "Top ten" in printed(sweep)
    assert "+10.00" in printed(sweep)
    assert storage.exists("runs/swept/sweep/report.html")
    summary = storage.read_json("runs/swept/sweep/summary.json")
    assert (summary["status"], summary["models"]) == ("searched", [])


def test_a_sweep_that_is_stopped_while_it_compares_has_shown_the_best(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = Searched(monkeypatch)
    searched.fresh[0] = KeyboardInterrupt()
    sweep = make_sweep(storage, "sweep.trials=3")
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    assert "Best: trial 2, 80.00 points" in printed(sweep)


@pytest.mark.parametrize("losses", [1, 2])
def test_lost_trials_are_repeated_once_and_then_noted(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, losses: int
) -> None:
    Searched(monkeypatch)
    asked: list[tuple[list[dict[str, Any]], int]] = []

    def lose(sweep: Sweep, file: StudyFile, _: Any, __: Any, points: Any, trials: int) -> None:
        asked.append((points, trials))
        if len(asked) == 1:
            _tell_three(sweep, file, _, __, points, 3)
            points = [{"aligner.learning_rate": 0.005}]
        file.study.enqueue_trial(points[0])
        trial = file.study.ask()
        suggest(trial, sweep.config.space, sweep.pipeline.aligner)
        if len(asked) <= losses:
            trial.set_user_attr("reason", LOST)
            file.study.tell(trial, state=TrialState.FAIL)
        else:
            file.study.tell(trial, 0.1)

    monkeypatch.setattr(Sweep, "search", lose)
    sweep = make_sweep(storage, "sweep.trials=4", "publish=false")
    summary = sweep.run()
    (_, first), (points, second) = asked
    assert (first, second) == (4, 1)
    assert points[0]["aligner.learning_rate"] == 0.005
    assert "1 repeated" in printed(sweep)
    assert [note.startswith("1 trials were lost") for note in summary["notes"]] == [True] * (
        losses - 1
    )


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_trials_without_labelled_pairs_are_said_to_be_compared_on_english_rows(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    searched = Searched(monkeypatch, is_labelled=False)
    options = ("sweep.trials=3", "publish=false", f"aligner.direction={direction}")
    summary = make_sweep(storage, *options).run()
    assert searched.made == []
    assert summary["status"] == "done"
    (note,) = summary["notes"]
    assert "held-out English rows" in note
    assert ("pass no aligner" in note) == (direction == "reverse")
    assert storage.read_json("runs/swept/sweep/summary.json")["notes"] == [note]


# --- while it searches -------------------------------------------------------------------------


def test_a_study_that_cannot_be_stored_is_said_once(storage: Storage, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=300)
    file = StudyFile(storage, "study.journal", "swept", tmp_path)
    watch, stopper = Watch(file, Display(console), 4), TakenStopper(file)
    for fault in (None, StorageError("[s3] away"), StorageError("[s3] away"), None):
        file.fault = fault
        watch.on_trial_result()
        assert not stopper.stop_all()
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("not stored") == 1
    assert "[s3] away" in printed
    file.fault = ConfigError("another driver")
    assert stopper.stop_all()
