"""The Optuna study of a sweep: kept on storage, continued by the next run of the same command.

A study is an Optuna journal (JSON lines, no pickle), at `runs/<run>/sweep/study.journal`; Optuna's
own tools open it. The driver writes a local copy and stores it again after every change, so that
a driver that is killed loses at most what was running. Beside it lies the token of the driver that
started last, the only one that stores.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from langalign.errors import ConfigError, ObjectMissing, StorageError
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
# The node may be at fault, or another trial of its bundle: the trial's own worth is not known.
_ENDED = "its process ended more often than sweep.max_failures"  # how the reason has always begun
LOST = f"{_ENDED}, for want of memory or with its node; its values run again"
_REPEATED = "repeated"  # attribute of a study: numbers of lost trials that ran again


def is_spent(trial: FrozenTrial) -> bool:
    """Whether a trial counts among those of the sweep."""
    is_interrupted = trial.user_attrs.get("reason") == INTERRUPTED
    return trial.state.is_finished() and not is_interrupted and not _is_lost(trial)


def _is_lost(trial: FrozenTrial) -> bool:
    return str(trial.user_attrs.get("reason")).startswith(_ENDED)


class StudyFile:
    """The journal of one study: a local file and its place on storage.

    `fault` is why the last change is not on storage, None if it is.
    """

    def __init__(self, storage: Storage, key: str, name: str, folder: Path) -> None:
        self.storage = storage
        self.key = key
        self.name = name
        self.path = folder / "study.journal"
        self.fault: ConfigError | StorageError | None = None
        self._token = ""
        # It logs every trial that ends; the display does that.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._open()

    def _open(self) -> None:
        try:
            self.path.write_bytes(self.storage.read_bytes(self.key))
        except ObjectMissing:
            self.path.write_bytes(b"")
        self.journal = JournalStorage(JournalFileBackend(str(self.path)))
        self.study: Study = optuna.create_study(
            storage=self.journal, study_name=self.name, direction="maximize", load_if_exists=True
        )

    def claim(self, identity: dict[str, str]) -> None:
        """Make the study this driver's, and write into it what the trials depend on.

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
        self._token = uuid.uuid4().hex
        self.storage.write_bytes(self._driver_key, self._token.encode())
        # What another driver has stored since the journal was read; from now on it stores nothing.
        self._open()
        for name, value in identity.items():
            self.study.set_user_attr(name, value)
        self.keep()

    @property
    def is_taken(self) -> bool:
        """Whether another driver was found to have claimed the study."""
        return isinstance(self.fault, ConfigError)

    @property
    def _driver_key(self) -> str:
        return f"{self.key}.driver"

    def lost(self) -> list[FrozenTrial]:
        """Trials that ended with their process and have not been repeated."""
        repeated = self.study.user_attrs.get(_REPEATED, [])
        trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if _is_lost(t) and t.number not in repeated]

    def to_repeat(self) -> list[dict[str, Any]]:
        """Parameters of lost trials and of those that a killed driver left open; closes both."""
        lost = self.lost()
        if lost:
            repeated = self.study.user_attrs.get(_REPEATED, [])
            self.study.set_user_attr(_REPEATED, [*repeated, *(trial.number for trial in lost)])
        points = [trial.params for trial in lost]
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

    def curves(self) -> dict[int, dict[int, float]]:
        """Scores by epoch of the trials that were not cut short by a fault, by number."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        found = {}
        for trial in self.study.get_trials(deepcopy=False, states=states):
            last = {} if trial.value is None else {trial.user_attrs["epochs"]: trial.value}
            found[trial.number] = dict(trial.intermediate_values) | last
        return found

    def keep(self) -> None:
        """Store the journal.

        Raises:
            ConfigError: another driver has claimed the study.
            StorageError: the storage is out of reach.
        """
        if self._token and self.storage.read_bytes(self._driver_key).decode() != self._token:
            raise ConfigError(
                f"{self.storage.uri(self.key)} belongs to a run of the same name that started "
                f"later; let that one go on, or stop it and run this command again"
            )
        self.storage.write_bytes(self.key, self.path.read_bytes())

    def try_to_keep(self) -> None:
        """Store the journal, or note in `fault` why not; the next change tries again.

        For Tune's callbacks: it ends the search with a traceback where one of them raises.
        """
        try:
            self.keep()
        except (ConfigError, StorageError) as error:
            self.fault = error
        else:
            self.fault = None


class StudySearch(Searcher):  # type: ignore[misc]
    """Asks Optuna for bundles of up to `size` trials, and tells it what became of each trial."""

    def __init__(
        self,
        file: StudyFile,
        draw: Callable[[Asker], dict[str, Any]],
        points: Sequence[dict[str, Any]],
        *,
        seed: int,
        trials: int,
        size: int,
        on_end: Callable[[Iterable[int]], None],
    ) -> None:
        """`points` come first, `draw` gives the rest; `on_end` gets numbers of ended trials."""
        super().__init__(metric=SCORE, mode="max")
        self.file = file
        self.draw = draw
        self.left = trials
        self.size = size
        self.on_end = on_end
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
        trials = [self.study.ask() for _ in range(min(self.size, self.left))]
        self.left -= len(trials)
        self.bundles[trial_id] = trials
        members = [{"number": trial.number, "values": self.draw(trial)} for trial in trials]
        self.file.try_to_keep()
        return {"members": members}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is all there is to keep, and Tune's own copy would be a pickle."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report every member's epoch; tell the end of those that have ended."""
        members = result["members"]
        ended = [member["number"] for member in members if self._take(trial_id, member)]
        if ended:
            self.on_end(ended)
            self.file.try_to_keep()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The last epoch of a bundle, or its end by a fault."""
        if result:
            self.on_trial_result(trial_id, result)
        for trial in self.bundles.pop(trial_id, []):
            if error and not self._known(trial).state.is_finished():
                trial.set_user_attr("reason", LOST)
                self.study.tell(trial, state=TrialState.FAIL)
        self.file.try_to_keep()

    def _take(self, bundle: str, member: dict[str, Any]) -> bool:
        """One member's part of a result; returns whether it ended."""
        trial = next(t for t in self.bundles[bundle] if t.number == member["number"])
        known = self._known(trial)
        if known.state.is_finished():
            # Another process was to train it once more before it knew of the end.
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

    def _known(self, trial: optuna.Trial) -> FrozenTrial:
        # Not `study.trials`, which copies all of them, and this is asked for every epoch.
        return self.study.get_trials(deepcopy=False)[trial.number]
