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
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search.optuna import OptunaSearch

from langalign.errors import ConfigError, ObjectMissing
from langalign.searchspace import Asker
from langalign.storage import Storage

__all__ = ["SCORE", "StudyFile", "StudySearch", "is_spent"]

SCORE = "score"
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


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """Ray Tune's OptunaSearch over a `StudyFile`, with stopped and failed trials told apart."""

    def __init__(
        self,
        file: StudyFile,
        draw: Callable[[Asker], dict[str, Any]],
        points: Sequence[dict[str, Any]],
        seed: int,
    ) -> None:
        # A sampler starts anew with each driver: the same seed would repeat its first draws.
        drawn = len(file.study.get_trials(deepcopy=False))
        super().__init__(
            draw,
            metric=SCORE,
            mode="max",
            points_to_evaluate=list(points),
            sampler=TPESampler(seed=seed + drawn),
            study_name=file.study.study_name,
            storage=file.journal,
        )
        self.file = file

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The values of a new trial, on storage before it runs."""
        values: dict[str, Any] | None = super().suggest(trial_id)
        self.file.keep()
        return values

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is all there is to keep, and Tune's own copy would be a pickle."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch's score, once: a trial whose worker died starts from its first again."""
        trial = self._ot_trials[trial_id]
        step = result[TRAINING_ITERATION]
        reported = trial.study.trials[trial.number].intermediate_values
        if step not in reported:
            trial.report(result[SCORE], step)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna: complete with a score, pruned by the scheduler, or failed with a reason."""
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial = self._ot_trials[trial_id]
        state, value, reason = _outcome(result, error)
        if reason:
            trial.set_user_attr("reason", reason)
        if result:
            for name in ("seconds", "epochs", "scores"):
                if name in result:
                    trial.set_user_attr(name, result[name])
        self._ot_study.tell(trial, value, state=state)
        self.file.keep()


def _outcome(
    result: dict[str, Any] | None, error: bool
) -> tuple[TrialState, float | None, str | None]:
    if error or result is None:
        return TrialState.FAIL, None, "its worker process ended too often (sweep.max_failures)"
    if result.get("reason"):
        return TrialState.FAIL, None, str(result["reason"])
    if not result.get("is_final"):
        return TrialState.PRUNED, None, None
    return TrialState.COMPLETE, float(result[SCORE]), None
