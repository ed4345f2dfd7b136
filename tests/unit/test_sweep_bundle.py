"""Bundles of trials and their scheduler without Ray: faults, restarts, and what ASHA is told.

Shapes: 40 rows, D = 12 wide embeddings, 2 classes.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.tune.schedulers import ASHAScheduler

from cluster import bundle, trial
from cluster.arrays import TrialArrays
from cluster.bundle import MemberScheduler, TrialBundle
from cluster.study import SCORE
from cluster.trial import TrialGroup, fit_seeds, reason_of
from cluster.verdicts import Verdicts
from langalign.config import PipelineConfig
from langalign.errors import TrainingError
from langalign.trials import WATCHED

STEPS = {"max_epochs": 2, "batch_size": 16}
PIPELINE = PipelineConfig.model_validate({"aligner": {**STEPS, "hidden": 16}, "head": STEPS})
LINEAR = {"aligner.kind": "linear"}


class Local:
    """An actor of this process: what its methods return is what `ray.get` is given."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.actor, name))


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> Verdicts:
    monkeypatch.setattr(ray, "get", lambda result: result)
    for module in (bundle, trial):
        monkeypatch.setattr(module, "assigned_device", lambda: torch.device("cpu"))
    return Verdicts()


def make_arrays() -> TrialArrays:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 12)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(np.int64)
    return TrialArrays(
        source=rows,
        target=rows[::-1].copy(),
        held_out_source=rows[:8],
        held_out_target=rows[8:16],
        rows=rows,
        labels=labels,
        held_out=rows,
        held_out_labels=labels,
        held_out_is_target=True,
        classes=2,
        metric="accuracy",
    )


def make_bundle(verdicts: Verdicts, *members: dict[str, Any]) -> TrialBundle:
    """As `setup` leaves it, which asks Ray for the cores of the process."""
    made = TrialBundle.__new__(TrialBundle)
    made.arrays = {"cls": make_arrays()}
    made.pipeline, made.seeds, made.probe = PIPELINE, [0], WATCHED
    made.verdicts = Local(verdicts)
    made.reset_config(config(*members))
    return made


def config(*members: dict[str, Any]) -> dict[str, Any]:
    return {"members": [{"number": n, "values": values} for n, values in enumerate(members)]}


def ends(made: TrialBundle) -> dict[int, dict[str, Any]]:
    """How each member ended."""
    found: dict[int, dict[str, Any]] = {}
    is_done = False
    while not is_done:
        result = made.step()
        is_done = result["done"]
        ended = [member for member in result["members"] if member["state"] != "running"]
        assert not found.keys() & {member["number"] for member in ended}
        found |= {member["number"]: member for member in ended}
    return found


# --- bundles -----------------------------------------------------------------------------------


def test_values_that_break_a_rule_fail_alone_and_say_which(verdicts: Verdicts) -> None:
    culprit = {"aligner.kind": "fc", "aligner.dropout": 6.0}
    found = ends(make_bundle(verdicts, LINEAR, culprit, {"aligner.kind": "fc"}))
    assert {n: end["state"] for n, end in found.items()} == {
        **{0: "complete", 1: "failed", 2: "complete"}
    }
    assert "aligner.dropout Input should be less than 1" in found[1]["reason"]


def test_an_error_without_words_is_a_reason_too() -> None:
    assert reason_of(MemoryError()) == "MemoryError"


def test_a_bundle_that_starts_again_trains_only_what_is_not_done(verdicts: Verdicts) -> None:
    members = (LINEAR, {"aligner.kind": "fc"}, LINEAR)
    first = make_bundle(verdicts, *members)
    assert ends(first).keys() == {0, 1, 2}
    verdicts.finish([0, 2])
    assert ends(make_bundle(verdicts, *members)).keys() == {1}
    verdicts.finish([1])
    assert ends(make_bundle(verdicts, *members)) == {}


def test_a_trial_that_ends_its_process_again_and_again_takes_no_other_along(
    verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for the end of the process: nothing handles it."""

    step = TrialGroup.step
    ended: list[int] = []

    def killed_by_the_first(group: TrialGroup) -> None:
        if 0 in group.states:
            raise Killed
        step(group)

    def process() -> None:
        made = make_bundle(verdicts, LINEAR, LINEAR, LINEAR)
        while True:
            members = made.step()["members"]
            numbers = [member["number"] for member in members if member["state"] != "running"]
            verdicts.finish(numbers)
            ended.extend(numbers)

    monkeypatch.setattr(TrialGroup, "step", killed_by_the_first)
    for expected in ([], [], [1, 2]):  # together; one at a time; the culprit last
        with pytest.raises(Killed):
            process()
        assert ended == expected


def test_memory_that_ends_on_fresh_seeds_is_an_error_of_training(
    verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(group: TrialGroup) -> None:
        raise MemoryError("40 TiB")

    monkeypatch.setattr(trial, "fetched", lambda arrays: arrays)
    arrays = {"cls": make_arrays()}
    assert len(fit_seeds(LINEAR, [1, 2], arrays=arrays, pipeline=PIPELINE)) == 2
    monkeypatch.setattr(TrialGroup, "step", out_of_memory)
    with pytest.raises(TrainingError, match="MemoryError: 40 TiB"):
        fit_seeds(LINEAR, [1], arrays=arrays, pipeline=PIPELINE)


# --- the scheduler -----------------------------------------------------------------------------

RUNG = 2  # epochs


class Judged:
    """A bundle of five under ASHA with rungs at 2 and 4 epochs; trial 0 is spared."""

    def __init__(self, verdicts: Verdicts, before: dict[int, dict[int, float]]) -> None:
        asha = ASHAScheduler(max_t=8, grace_period=RUNG, reduction_factor=2)
        members = [{"aligner.depth": depth} for depth in range(5)]
        self.scheduler = MemberScheduler(asha, Local(verdicts), members[:1], before)
        self.scheduler.set_search_properties(SCORE, "max")
        self.trial = SimpleNamespace(config=config(*members))
        self.scheduler.on_trial_add(None, self.trial)

    def result(self, number: int, state: str, score: float, epochs: int = RUNG) -> None:
        member = {"number": number, "state": state, SCORE: score, "epochs": epochs}
        self.scheduler.on_trial_result(None, self.trial, {"members": [member], "done": False})

    def last(self, number: int, score: float) -> None:
        """The last result of a bundle, as Tune tells it."""
        member = {"number": number, "state": "complete", SCORE: score, "epochs": RUNG}
        self.scheduler.on_trial_complete(None, self.trial, {"members": [member], "done": True})


@pytest.fixture
def judged(verdicts: Verdicts) -> Judged:
    return Judged(verdicts, {})


def test_spared_trials_are_compared_with_and_never_stopped(
    judged: Judged, verdicts: Verdicts
) -> None:
    judged.result(0, "running", 0.9)
    judged.result(1, "running", 0.1)
    assert verdicts.stopped(range(5)) == [1]
    judged.result(2, "running", 0.95, epochs=2 * RUNG)
    judged.result(0, "running", 0.0, epochs=2 * RUNG)
    assert verdicts.stopped(range(5)) == [1]


@pytest.mark.parametrize("is_last", [False, True])
def test_trials_are_compared_with_completed_ones(
    judged: Judged, verdicts: Verdicts, is_last: bool
) -> None:
    if is_last:
        judged.last(1, 0.9)
    else:
        judged.result(1, "complete", 0.9)
    judged.result(2, "running", 0.1)
    judged.result(3, "running", 0.95)
    assert verdicts.stopped(range(5)) == [2]


def test_failed_trials_are_no_measure(judged: Judged, verdicts: Verdicts) -> None:
    for number in (1, 2, 3):
        judged.result(number, "failed", 0.0)
    judged.result(0, "running", 0.5)
    judged.result(4, "running", 0.4)
    assert verdicts.stopped(range(5)) == [4]


def test_trials_are_compared_with_those_of_an_earlier_run(verdicts: Verdicts) -> None:
    judged = Judged(verdicts, {11: {1: 0.3, RUNG: 0.9}})
    judged.result(1, "running", 0.1)
    judged.result(2, "running", 0.95)
    assert verdicts.stopped(range(5)) == [1]
