"""What the driver of a sweep does beside the search, without Ray: faults of what it asks for."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import ray
from rich.console import Console

from cluster import confirm, session, tune
from cluster.display import Display
from cluster.pipeline import Pipeline
from cluster.study import StudyFile
from cluster.tune import Sweep
from cluster.watch import TakenStopper, Watch
from langalign.configfile import load_config
from langalign.errors import ConfigError, IntegrityError, StorageError, TrainingError
from langalign.outputs import StepOutput
from langalign.searchspace import SweepConfig
from langalign.storage import Storage

EMBEDDED = "embeddings/e"
PREFIXES = {"train": "a", "source": "b", "target": EMBEDDED, "test": "d"}
IDENTITY = {"data": "d", "space": "s"}


class Eager:
    """Ray's tasks in this process; as there, only `get` raises what a task raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("remote", "get", "wait"):
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
    def identity(target: str, *overrides: str) -> dict[str, str]:
        roles = {role: SimpleNamespace(summary=SimpleNamespace(digest=role)) for role in PREFIXES}
        prefixes = {"cls": {"train": "a", "source": "b", "target": target}}
        data: Any = SimpleNamespace(roles=roles)
        return make_sweep(storage, *overrides)._identity(data, prefixes)

    def differing(other: dict[str, str]) -> set[str]:
        return {name for name, value in identity("t").items() if other[name] != value}

    assert differing(identity("t")) == set()
    assert differing(identity("other")) == {"embeddings"}
    assert differing(identity("t", "data.validation_fraction=0.2")) == {"held-out rows"}


# --- the comparison at the end -----------------------------------------------------------------


def test_a_gain_that_cannot_be_measured_is_said_and_the_best_published(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(values: dict[str, Any], seeds: list[int], **_: Any) -> list[float]:
        if "aligner.learning_rate" in values:
            raise TrainingError("seed 1000: head: epoch 2 gave loss nan")
        return [0.5 for _ in seeds]

    Eager(monkeypatch)
    best = optuna.trial.create_trial(
        params={"aligner.learning_rate": 0.5},
        distributions={"aligner.learning_rate": optuna.distributions.FloatDistribution(0, 1)},
        value=0.8,
    )
    published = {"models": [{"name": "swept"}], "notes": ["native: left out"]}
    monkeypatch.setattr(session, "checked_session", lambda *_: nullcontext())
    monkeypatch.setattr(confirm, "fit_seeds", fit)
    monkeypatch.setattr(Sweep, "_embedded", lambda _: (None, {}, {}))
    monkeypatch.setattr(Sweep, "_identity", lambda *_: IDENTITY)
    monkeypatch.setattr(Sweep, "_searched", lambda *_: None)
    monkeypatch.setattr(Sweep, "_best", lambda *_: best)
    monkeypatch.setattr(Sweep, "_published", lambda *_: published)
    sweep = make_sweep(storage)
    summary = sweep.run()
    assert summary["gain"] is None
    assert summary["models"] == published["models"]
    note, *others = summary["notes"]
    assert others == published["notes"]
    assert "not measured" in note
    assert "the best on fresh seeds: seed 1000: head: epoch 2 gave loss nan" in note
    assert note in sweep.console.file.getvalue()  # type: ignore[attr-defined]
    assert storage.read_json("runs/swept/sweep/summary.json")["notes"] == summary["notes"]


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
