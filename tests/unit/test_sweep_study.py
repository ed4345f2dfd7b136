"""The study of a sweep without Ray: sizes of bundles, what is repeated, two drivers, no storage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from cluster.study import INTERRUPTED, LOST, SCORE, StudyFile, StudySearch, is_spent
from langalign.errors import ConfigError, StorageError
from langalign.searchspace import Asker
from langalign.storage import Storage

KEY = "runs/swept/sweep/study.journal"
IDENTITY = {"data": "d", "embeddings": "e"}
# The reason as studies from before it named memory have it.
OLDER_LOST = "its process ended more often than sweep.max_failures; the next run repeats it"


def draw(trial: Asker) -> dict[str, Any]:
    return {"rate": trial.suggest_float("rate", 0.0, 1.0)}


def opened(storage: Storage, folder: Path, **identity: str) -> StudyFile:
    folder.mkdir(exist_ok=True)
    file = StudyFile(storage, KEY, "swept", folder)
    file.claim(IDENTITY | identity)
    return file


def searching(
    file: StudyFile,
    *,
    trials: int = 4,
    size: int = 4,
    points: Sequence[dict[str, Any]] = (),
    ended: list[int] | None = None,
) -> StudySearch:
    on_end = [] if ended is None else ended
    return StudySearch(file, draw, points, seed=0, trials=trials, size=size, on_end=on_end.extend)


def numbers(bundle: Any) -> list[int]:
    return [member["number"] for member in bundle["members"]]


def member(number: int, state: str, score: float = 0.5, epochs: int = 1) -> dict[str, Any]:
    return {"number": number, "state": state, SCORE: score, "epochs": epochs, "seconds": 0.1}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def file(storage: Storage, tmp_path: Path) -> StudyFile:
    return opened(storage, tmp_path / "first")


# --- bundles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("trials", "size"), [(64, 8), (17, 8), (5, 4), (3, 8), (9, 1), (7, 6)])
def test_bundles_hold_all_trials(file: StudyFile, trials: int, size: int) -> None:
    search = searching(file, trials=trials, size=size)
    sizes: list[int] = []
    while not isinstance(bundle := search.suggest(str(len(sizes))), str):
        sizes.append(len(bundle["members"]))
    assert sum(sizes) == trials
    assert all(count == size for count in sizes[:-1])


def test_a_trial_that_has_ended_is_told_of_once_and_marked(file: StudyFile) -> None:
    ended: list[int] = []
    search = searching(file, ended=ended)
    assert numbers(search.suggest("a")) == [0, 1, 2, 3]
    first = [member(0, "complete", 0.7), member(1, "stopped"), member(2, "running")]
    search.on_trial_result("a", {"members": first})
    assert ended == [0, 1]
    # As a process would that has not heard of it.
    search.on_trial_result("a", {"members": [member(0, "complete", 0.1)]})
    assert ended == [0, 1]
    assert file.study.trials[0].value == 0.7


def test_scores_by_epoch_hold_the_last_one_too(file: StudyFile) -> None:
    search = searching(file)
    search.suggest("a")
    search.on_trial_result("a", {"members": [member(n, "running", 0.2, 1) for n in range(3)]})
    ends = [member(0, "complete", 0.7, 2), member(1, "stopped"), member(2, "failed", 0.0)]
    search.on_trial_result("a", {"members": ends})
    assert file.curves() == {0: {1: 0.2, 2: 0.7}, 1: {1: 0.2}}


# --- the next run ------------------------------------------------------------------------------


def test_trials_that_were_lost_with_their_process_are_repeated_once(
    storage: Storage, file: StudyFile, tmp_path: Path
) -> None:
    search = searching(file)
    search.suggest("a")
    search.on_trial_result("a", {"members": [member(0, "complete")]})
    search.on_trial_complete("a", error=True)
    lost = file.study.trials[1:]
    assert [(t.state, t.user_attrs["reason"]) for t in lost] == [(TrialState.FAIL, LOST)] * 3
    assert file.spent() == 1
    assert len(file.lost()) == 3

    second = opened(storage, tmp_path / "second")
    points = second.to_repeat()
    assert points == [trial.params for trial in lost]
    assert second.lost() == []
    again = searching(second, trials=3, points=points)
    bundle = again.suggest("b")
    assert isinstance(bundle, dict)
    assert [m["values"] for m in bundle["members"]] == points
    again.on_trial_result("b", {"members": [member(n, "complete") for n in numbers(bundle)]})
    assert second.spent() == 4
    assert opened(storage, tmp_path / "third").to_repeat() == []


@pytest.mark.parametrize(("end", "spent"), [(LOST, False), (OLDER_LOST, False), ("nan", True)])
def test_trials_of_older_studies_are_known_as_lost_too(end: str, spent: bool) -> None:
    trial = create_trial(state=TrialState.FAIL, user_attrs={"reason": end})
    assert is_spent(trial) == spent


def test_trials_that_a_killed_driver_left_open_are_repeated(
    storage: Storage, file: StudyFile, tmp_path: Path
) -> None:
    searching(file, points=[{"rate": 0.25}]).suggest("a")
    second = opened(storage, tmp_path / "second")
    points = second.to_repeat()
    assert points == [trial.params for trial in file.study.trials]
    assert points[0] == {"rate": 0.25}
    assert {t.user_attrs["reason"] for t in second.study.trials} == {INTERRUPTED}
    assert not any(map(is_spent, second.study.trials))


@pytest.mark.parametrize("name", ["data", "embeddings"])
def test_a_study_over_something_else_is_refused_and_left_to_its_driver(
    storage: Storage, file: StudyFile, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"is a study over other {name}"):
        opened(storage, tmp_path / "second", **{name: "another"})
    file.keep()


# --- two drivers, and no storage ---------------------------------------------------------------


def test_the_driver_that_started_first_overwrites_nothing(
    storage: Storage, file: StudyFile, tmp_path: Path
) -> None:
    search = searching(file)
    opened(storage, tmp_path / "second")
    stored = storage.read_bytes(KEY)
    search.suggest("a")
    assert file.is_taken
    assert storage.read_bytes(KEY) == stored
    with pytest.raises(ConfigError, match="started later; let that one go on, or stop it"):
        file.keep()


def test_a_driver_begins_with_what_the_other_stored_before_its_claim(
    storage: Storage, file: StudyFile, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    second = StudyFile(storage, KEY, "swept", tmp_path / "second")
    searching(file).suggest("a")
    second.claim(IDENTITY)
    assert [t.params for t in second.study.trials] == [t.params for t in file.study.trials]


class Away(Storage):
    """A storage that can be out of reach."""

    is_away = False

    def write_bytes(self, key: str, data: bytes) -> None:
        """As ever, or StorageError."""
        if self.is_away:
            raise StorageError(f"{key}: out of reach")
        super().write_bytes(key, data)


def test_a_storage_that_is_away_for_a_moment_ends_no_search(tmp_path: Path) -> None:
    storage = Away(str(tmp_path / "store"))
    file = opened(storage, tmp_path / "first")
    search = searching(file)
    storage.is_away = True
    search.suggest("a")
    search.on_trial_result("a", {"members": [member(0, "complete")]})
    assert "out of reach" in str(file.fault)
    with pytest.raises(StorageError, match="out of reach"):
        file.keep()
    storage.is_away = False
    search.on_trial_result("a", {"members": [member(1, "complete")]})
    assert file.fault is None
    assert not file.is_taken
    assert opened(storage, tmp_path / "second").spent() == 2
