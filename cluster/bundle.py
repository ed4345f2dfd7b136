"""Trials of a sweep as Ray Tune runs them: a few in one process, which is used again and again.

Starting Python and torch takes longer than most trials, and a trial alone spends most of its time
calling operations on batches of 16. So a Tune trial here is a bundle of trials of the study, and
Tune's scheduler judges its members one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.result import DONE, TRAINING_ITERATION
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cluster.study import SCORE
from cluster.trial import TrialGroup, assigned_device, fetched, reason_of
from langalign.config import PipelineConfig
from langalign.trials import Probe

__all__ = ["MemberScheduler", "TrialBundle"]


class TrialBundle(tune.Trainable):  # type: ignore[misc]
    """Trains the `members` of its config together; each `step` is one epoch of all of them.

    A result holds for each member that the epoch touched: `number`, `state` (running, complete,
    stopped or failed), `score`, `epochs`, and with the last one `scores` by seed, `seconds`, or
    the `reason` of a failure. Where memory ends, values make no aligner, or the process ends, the
    members begin again one at a time, and only the one at fault fails.
    """

    def setup(
        self,
        config: dict[str, Any],
        arrays: dict[str, Any],
        pipeline: PipelineConfig,
        seeds: Sequence[int],
        matmul_precision: str,
        probe: Probe,
        verdicts: Any,
    ) -> None:
        """`arrays` holds a reference to TrialArrays for each pooling."""
        torch.set_float32_matmul_precision(matmul_precision)
        # A fraction of a core still is one thread: more would take the other bundles' cores.
        cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
        torch.set_num_threads(max(1, int(cores)))
        self.arrays = fetched(arrays)
        self.pipeline = pipeline
        self.seeds = list(seeds)
        self.probe = probe
        self.verdicts = verdicts
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another bundle in the same process.

        Its process may have ended before: members that were done by then are left out, and the
        others begin one at a time.
        """
        self.values = {member["number"]: member["values"] for member in new_config["members"]}
        self.waiting = ray.get(self.verdicts.groups.remote(list(self.values)))
        self.group: TrialGroup | None = None
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        members = self._stopped()
        together = self.group.live if self.group else self._next()
        try:
            members += self._epoch(together)
        except Exception as error:  # noqa: BLE001 (the reason of the trial at fault)
            # The trial ends, the sweep does not: where memory ends, for values that break a rule.
            members += self._apart(together, error)
        if self.group and not self.group.live:
            self.group = None
        best = max((member[SCORE] for member in members), default=0.0)
        return {SCORE: best, "members": members, "done": not (self.group or self.waiting)}

    def _next(self) -> list[int]:
        """The members to begin with now; noted first, as they may end the process."""
        numbers: list[int] = self.waiting.pop(0)
        ray.get(self.verdicts.begin.remote(numbers))
        return numbers

    def _stopped(self) -> list[dict[str, Any]]:
        """Take out the members that the scheduler has stopped since the last epoch."""
        if self.group is None:
            return []
        numbers = ray.get(self.verdicts.stopped.remote(self.group.live))
        for number in numbers:
            self.group.drop(number)
        return [self._member(number, "stopped") for number in numbers]

    def _epoch(self, numbers: list[int]) -> list[dict[str, Any]]:
        if self.group is None:
            self.group = TrialGroup(
                {number: self.values[number] for number in numbers},
                self.seeds,
                pipeline=self.pipeline,
                arrays=self.arrays,
                device=assigned_device(),
                probe=self.probe,
            )
        self.group.step()
        still = self.group.live
        return [self._member(n, "running" if n in still else "complete") for n in numbers]

    def _member(self, number: int, state: str) -> dict[str, Any]:
        assert self.group is not None
        found = self.group.states[number]
        member = {"number": number, "state": state, "epochs": found.epochs, SCORE: found.score}
        if found.failure:
            # The lowest score there is: a NaN would blind the scheduler's percentiles.
            return member | {"state": "failed", SCORE: 0.0, "reason": found.failure}
        if state == "running":
            return member
        scores = [found.scores[seed] for seed in self.seeds]
        return member | {"scores": scores, "seconds": round(found.seconds, 3)}

    def _apart(self, numbers: list[int], error: Exception) -> list[dict[str, Any]]:
        """After an error: the members one at a time, or a lone one's failure."""
        self.group = None
        if len(numbers) > 1:
            self.waiting = [[number] for number in numbers] + self.waiting
            return []
        failed = {"state": "failed", "epochs": 0, SCORE: 0.0, "reason": reason_of(error)}
        return [{"number": number} | failed for number in numbers]


@dataclass(frozen=True)
class _Member:
    """What a scheduler needs of a trial."""

    trial_id: str


class MemberScheduler(FIFOScheduler):  # type: ignore[misc]
    """Has a Tune scheduler judge the members of bundles, as if each were a trial of its own.

    The `spared` (values of trials) are never stopped: the first trials are among them, so that no
    sweep ends below those. They are judged all the same, for the others to be compared with.
    """

    def __init__(
        self,
        judge: TrialScheduler,
        verdicts: Any,
        spared: Sequence[dict[str, Any]],
        before: Mapping[int, Mapping[int, float]],
    ) -> None:
        """`before` holds scores by epoch of an earlier run's trials, by number."""
        super().__init__()
        self.judge = judge
        self.verdicts = verdicts
        self.spared = list(spared)
        self.before = before

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Told to the judge, and then what earlier trials scored, which needs the metric."""
        is_set = bool(self.judge.set_search_properties(metric, mode, **spec))
        for number, scores in self.before.items():
            earlier = _Member(str(number))
            self.judge.on_trial_add(None, earlier)
            for epochs, score in scores.items():
                seen = {TRAINING_ITERATION: epochs, SCORE: score}
                self.judge.on_trial_result(None, earlier, seen)
        return is_set

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A bundle: its members are made known to the judge."""
        for member in trial.config["members"]:
            self.judge.on_trial_add(tune_controller, _Member(str(member["number"])))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge the members; the bundle itself goes on."""
        self._judge(tune_controller, trial, result["members"])
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The last epoch of a bundle, which `on_trial_result` is not told."""
        if result.get(DONE):
            self._judge(tune_controller, trial, result["members"])

    def _judge(self, tune_controller: Any, trial: Any, members: list[dict[str, Any]]) -> None:
        """Tell the judge what Tune would tell it of each member; note those that are to stop."""
        values = {member["number"]: member["values"] for member in trial.config["members"]}
        stopped = []
        for member in members:
            number, judged = member["number"], _Member(str(member["number"]))
            seen = {TRAINING_ITERATION: member["epochs"], SCORE: member[SCORE]}
            if member["state"] == "failed":
                self.judge.on_trial_error(tune_controller, judged)
            elif member["state"] != "running":
                self.judge.on_trial_complete(tune_controller, judged, seen)
            elif (
                self.judge.on_trial_result(tune_controller, judged, seen) == TrialScheduler.STOP
                and values[number] not in self.spared
            ):
                stopped.append(number)
        if stopped:
            # Before the next epoch starts, so that the same seed stops the same trials.
            ray.get(self.verdicts.stop.remote(stopped))
