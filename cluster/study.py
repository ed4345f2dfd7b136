"""The Optuna study of a sweep: kept on storage, continued by the next run of the same command.

A study is an Optuna journal (JSON lines, no pickle), at `runs/<run>/sweep/study.journal`; Optuna's
own tools open it. The driver writes a local copy and stores it again after every change, so that
a driver that is killed loses at most what was running.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState
from ray.tune.search import Searcher

from langalign.errors import ConfigError, ObjectMissing
from langalign.searchspace import Asker
from langalign.storage import Storage

__all__ = ["SCORE", "StudyFile", "StudySearch", "is_spent"]

SCORE = "score"
# How a member of a bundle ended, in Optuna's words.
_ENDS = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
# A trial that a killed driver left running; its parameters are asked for again.
INTERRUPTED = "interrupted: its parameters run again"


def is_spent(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial counts among those of the sweep."""
    return trial.state.is_finished() and trial.user_attrs.get("reason") != INTERRUPTED


class StudyFile:
    """The journal of one study: a local file and its place on storage."""

    def __init__(self, storage: Storage, key: str, name: str, folder: Path) -> None:
        self.storage = storage
        self.key = key
        self.path = folder / "study.journal"
        try:
            self.path.write_bytes(storage.read_bytes(key))
        except ObjectMissing:
            self.path.touch()
        # It logs every trial that ends; the display does that.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.journal = JournalStorage(JournalFileBackend(str(self.path)))
        self.study: Study = optuna.create_study(
            storage=self.journal, study_name=name, direction="maximize", load_if_exists=True
        )

    def claim(self, identity: dict[str, str]) -> None:
        """Write what the trials depend on into the study.

        Raises:
            ConfigError: the study holds trials over something else.
        """
        found = self.study.user_attrs
        for name, value in identity.items():
            if found.get(name, value) != value:
                raise ConfigError(
                    f"{self.storage.uri(self.key)} is a study over other {name}; choose another "
                    f"name=, or delete that file to start over"
                )
            self.study.set_user_attr(name, value)
        self.keep()

    def interrupted(self) -> list[dict[str, Any]]:
        """Close the trials that a killed driver left open; returns their parameters."""
        points = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.journal.set_trial_user_attr(trial._trial_id, "reason", INTERRUPTED)
            self.journal.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            points.append(trial.params or trial.system_attrs.get("fixed_params", {}))
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.journal.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            self.journal.set_trial_user_attr(trial._trial_id, "reason", INTERRUPTED)
            self.journal.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            points.append(trial.system_attrs["fixed_params"])
        return [point for point in points if point]

    def spent(self) -> int:
        """Trials that are done."""
        return sum(is_spent(trial) for trial in self.study.get_trials(deepcopy=False))

    def keep(self) -> None:
        """Store the journal."""
        self.storage.write_bytes(self.key, self.path.read_bytes())


class StudySearch(Searcher):  # type: ignore[misc]
    """Asks Optuna for bundles of up to `size` trials, and tells it what became of each trial.

    The last bundles are smaller: a large one that starts late would leave the other cores idle.
    """

    def __init__(
        self,
        file: StudyFile,
        draw: Callable[[Asker], dict[str, Any]],
        points: Sequence[dict[str, Any]],
        *,
        seed: int,
        trials: int,
        size: int,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.file = file
        self.draw = draw
        self.left = trials
        self.size = size
        # A sampler starts anew with each driver: the same seed would repeat its first draws.
        drawn = len(file.study.get_trials(deepcopy=False))
        self.study = optuna.load_study(
            study_name=file.study.study_name,
            storage=file.journal,
            sampler=TPESampler(seed=seed + drawn),
        )
        for point in points:
            self.study.enqueue_trial(point)
        self.bundles: dict[str, list[optuna.Trial]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The config of a new bundle, on storage before it runs."""
        if not self.left:
            return str(Searcher.FINISHED)
        share = -(-self.left // (len(self.bundles) + 1))
        trials = [self.study.ask() for _ in range(min(self.size, share))]
        self.left -= len(trials)
        self.bundles[trial_id] = trials
        members = [{"number": trial.number, "values": self.draw(trial)} for trial in trials]
        self.file.keep()
        return {"members": members}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is all there is to keep, and Tune's own copy would be a pickle."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report every member's epoch; tell the end of those that have ended."""
        ended = [self._take(trial_id, member) for member in result["members"]]
        if any(ended):
            self.file.keep()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The last epoch of a bundle, or its end by a fault."""
        if result:
            self.on_trial_result(trial_id, result)
        for trial in self.bundles.pop(trial_id, []):
            if error and not self._known(trial).state.is_finished():
                reason = "its worker process ended too often (sweep.max_failures)"
                trial.set_user_attr("reason", reason)
                self.study.tell(trial, state=TrialState.FAIL)
        self.file.keep()

    def _take(self, bundle: str, member: dict[str, Any]) -> bool:
        """One member's part of a result; returns whether it ended."""
        trial = next(t for t in self.bundles[bundle] if t.number == member["number"])
        known = self._known(trial)
        if known.state.is_finished():
            # The bundle's worker died, and a new one trains all its members again.
            return False
        if member["state"] == "running":
            if member["epochs"] not in known.intermediate_values:
                trial.report(member[SCORE], member["epochs"])
            return False
        for name in ("reason", "seconds", "epochs", "scores"):
            if name in member:
                trial.set_user_attr(name, member[name])
        value = float(member[SCORE]) if member["state"] == "complete" else None
        self.study.tell(trial, value, state=_ENDS[member["state"]])
        return True

    def _known(self, trial: optuna.Trial) -> optuna.trial.FrozenTrial:
        # Not `study.trials`, which copies all of them, and this is asked for every epoch.
        return self.study.get_trials(deepcopy=False)[trial.number]
