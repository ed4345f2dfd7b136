"""The sweep on a real cluster: results, resume, faults."""

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from tiny import kill_worker, wait_for

import langalign
from cluster.study import INTERRUPTED, LOST, StudySearch, is_spent
from cluster.tune import Sweep
from langalign.configfile import load_config
from langalign.errors import ConfigError, TrainingError
from langalign.searchspace import SweepConfig
from langalign.storage import Storage

pytestmark = pytest.mark.slow

TRIALS = 4
FAST = (f"sweep.trials={TRIALS}", "sweep.confirm_seeds=0", "publish=false", "name=swept")
JOURNAL = "runs/swept/sweep/study.journal"


def sweep(inputs: Path, storage: Storage, *overrides: str) -> dict[str, Any]:
    config = load_config(SweepConfig, inputs, (*FAST, *overrides))
    return Sweep(config, storage, Console(file=io.StringIO(), width=200)).run()


def trials(storage: Storage, folder: Path) -> list[FrozenTrial]:
    """Those of the study on storage, as Optuna's own tools read them."""
    path = folder / "copy.journal"
    path.write_bytes(storage.read_bytes(JOURNAL))
    journal = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="swept", storage=journal).get_trials()


def test_a_sweep_publishes_its_best_and_a_second_run_trains_nothing(
    inputs: Path, storage: Storage, tmp_path: Path
) -> None:
    options = ("sweep.seeds=2", "sweep.confirm_seeds=2", "publish=true")
    summary = sweep(inputs, storage, *options)
    found = trials(storage, tmp_path)
    assert [t.params["aligner.kind"] for t in found[:2]] == ["ae", "fc"], "its own kind comes first"
    assert {t.state for t in found[:2]} == {TrialState.COMPLETE}, "and are never stopped early"
    assert sum(map(is_spent, found)) == TRIALS
    assert summary["best"]["score"] >= max(t.value or 0 for t in found[:2])
    assert len(summary["gain"]["best"]) == 2
    published = summary["models"][0]
    assert set(langalign.load(published["uri"]).predict(["a", "b"])) <= {"negative", "positive"}
    gain = summary["gain"]
    chosen = summary["best"]["trial"] if gain["difference"] >= 0 else gain["defaults_trial"]
    parents = storage.read_json(f"models/swept/{published['version']}/manifest.json")["parents"]
    assert parents["study"] == f"{JOURNAL}#trial={chosen}"
    aligner = storage.read_json(parents["config"])["aligner"]
    assert aligner["learning_rate"] == found[chosen].params["aligner.learning_rate"]
    assert parents["data"] in storage.read_bytes("runs/swept/sweep/report.html").decode()
    for name in ("summary.json", "report.html", "history.png", "parallel.png"):
        assert storage.exists(f"runs/swept/sweep/{name}")
    again = sweep(inputs, storage, *options)
    assert trials(storage, tmp_path) == found
    assert again["models"] == summary["models"]


def test_the_same_seed_draws_the_same_trials(
    inputs: Path, storage: Storage, tmp_path: Path
) -> None:
    drawn = []
    for _ in range(2):
        sweep(inputs, storage, "sweep.stack=2", "sweep.max_concurrent=2")
        drawn.append([(t.params, t.value, t.state) for t in trials(storage, tmp_path)])
        storage.delete_folder("runs/swept")
    assert drawn[0] == drawn[1]


def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(
    inputs: Path, storage: Storage, tmp_path: Path
) -> None:
    sweep(inputs, storage, "space.kind=[linear, fc]", "space.learning_rate={low: 1e30, high: 1e31}")
    found = trials(storage, tmp_path)
    failed = [t for t in found if t.state is TrialState.FAIL]
    assert failed
    assert all("learning rate" in t.user_attrs["reason"] for t in failed)
    assert any(t.state is TrialState.COMPLETE for t in found)


def test_a_trial_for_which_memory_ends_fails_alone(
    inputs: Path, storage: Storage, tmp_path: Path
) -> None:
    beyond = 2**23  # a layer of more bytes than a process has addresses
    sweep(inputs, storage, "space.kind=[ae]", "space.depth=", f"space.hidden=[64, {beyond}]")
    found = trials(storage, tmp_path)
    assert {t.params["aligner.hidden"] for t in found} == {64, beyond}
    for t in found:
        if t.params["aligner.hidden"] == beyond:
            assert t.state is TrialState.FAIL
            assert "memory" in t.user_attrs["reason"]
        else:
            assert t.state in (TrialState.COMPLETE, TrialState.PRUNED)


def test_every_pooling_has_embeddings_of_its_own(
    inputs: Path, storage: Storage, tmp_path: Path
) -> None:
    sweep(inputs, storage, "space.kind=[linear]", "space.pooling=[cls, mean]")
    values = {t.params["encoder.pooling"]: t.value for t in trials(storage, tmp_path)}
    assert set(values) == {"cls", "mean"}
    assert values["cls"] != values["mean"]


def test_a_sweep_without_any_score_publishes_nothing(inputs: Path, storage: Storage) -> None:
    published = storage.folders("models/tiny")
    diverging = ("space.kind=[fc]", "space.learning_rate={low: 1e30, high: 1e31}")
    with pytest.raises(TrainingError, match="no trial of 4 reached a score"):
        sweep(inputs, storage, *diverging, "publish=true", "model=tiny")
    assert storage.folders("models/tiny") == published


def test_another_space_does_not_join_the_study(inputs: Path, storage: Storage) -> None:
    sweep(inputs, storage, "sweep.trials=1")
    with pytest.raises(ConfigError, match="is a study over other space"):
        sweep(inputs, storage, "space.depth={low: 2, high: 3}")


def test_a_trial_whose_worker_dies_runs_again_and_no_finished_one_does(
    inputs: Path, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: dict[int, list[int]] = {}  # of each trial, in the order in which they came
    finished: list[int] = []  # when the worker was killed
    take = StudySearch.on_trial_result

    def disturbed(search: StudySearch, trial_id: str, result: dict[str, Any]) -> None:
        take(search, trial_id, result)
        for member in result["members"]:
            epochs.setdefault(member["number"], []).append(member["epochs"])
        ended = [m["number"] for m in result["members"] if m["state"] != "running"]
        if ended and not finished:
            finished.extend(ended)
            # Its bundle waits for the driver, with others that have not ended.
            kill_worker("TrialBundle")

    monkeypatch.setattr(StudySearch, "on_trial_result", disturbed)
    # A linear aligner has no epochs of its own, so its trials end before those of the other kind.
    sweep(inputs, storage, "space.kind=[linear, fc]", "sweep.scheduler=none")
    found = trials(storage, tmp_path)
    assert {t.state for t in found} == {TrialState.COMPLETE}
    assert finished
    assert all(epochs[number] == sorted(set(epochs[number])) for number in finished)
    others = epochs.keys() - set(finished)
    assert any(epochs[number].count(1) == 2 for number in others), "no worker was killed"


def test_trials_that_are_lost_with_their_process_are_repeated_in_the_same_run(
    inputs: Path, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_killed = False
    take = StudySearch.on_trial_result

    def disturbed(search: StudySearch, trial_id: str, result: dict[str, Any]) -> None:
        nonlocal is_killed
        take(search, trial_id, result)
        if not is_killed:
            is_killed = True
            kill_worker("TrialBundle")

    monkeypatch.setattr(StudySearch, "on_trial_result", disturbed)
    # Of one bundle of four, whose process may not end once.
    summary = sweep(inputs, storage, "sweep.max_failures=0", "sweep.scheduler=none")
    found = trials(storage, tmp_path)
    lost = [t.params for t in found if t.user_attrs.get("reason") == LOST]
    done = [t.params for t in found if t.state is TrialState.COMPLETE]
    assert lost
    assert all(params in done for params in lost)
    assert len(done) == TRIALS
    assert summary["notes"] == []


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_ends_continues_and_repeats_no_finished_trial(
    inputs: Path, storage: Storage, tmp_path: Path, end: signal.Signals
) -> None:
    command = [sys.executable, "-m", "jobs.sweep", "--config", str(inputs)]
    command += [f"storage={storage.root}", *FAST]

    def has_finished_one() -> bool:
        return storage.exists(JOURNAL) and any(map(is_spent, trials(storage, tmp_path)))

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        wait_for(has_finished_one, "a finished trial")
        driver.send_signal(end)
        printed, _ = driver.communicate()
    if end is signal.SIGINT:
        assert driver.returncode == 130
        assert "Top ten" in printed
    before = [t for t in trials(storage, tmp_path) if is_spent(t)]
    sweep(inputs, storage)
    after = trials(storage, tmp_path)
    assert [after[t.number] for t in before] == before
    assert sum(map(is_spent, after)) == TRIALS
    for stopped in (t for t in after if t.user_attrs.get("reason") == INTERRUPTED):
        assert any(t.params == stopped.params for t in after if is_spent(t))
