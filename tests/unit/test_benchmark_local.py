"""Local translators of a benchmark, trained before: one that crashes leaves the others alone."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from cluster import benchmark_local
from cluster.benchmark_data import prepare_study
from cluster.benchmark_local import LocalRows
from cluster.benchmark_plan import plan_groups, translator_unit
from cluster.connection import Connection
from cluster.display import Display
from cluster.embed import EncoderRule, TextSet
from cluster.local_translation import TranslatorUnit
from langalign.benchmarkgrid import BenchmarkConfig
from langalign.errors import IntegrityError, TrainingError
from langalign.storage import Storage

BASE = EncoderRule("steps/encoder/x", "weights", "mean", 48, "fp32")
STUDY = {"name": "one", "target_language": "xc"}
STUDY |= dict.fromkeys(("train", "parallel", "test"), "demo")
CONFIG = BenchmarkConfig.model_validate(
    {
        "studies": [STUDY],
        "grid": {"methods": ["translated-local"], "rows": [60], "local_pairs": [80, 160]},
        "local": {"model": "demo"},
    }
)
NO_MEMORY = "Traceback (most recent call last):\n  here\nOutOfMemoryError: CUDA out of memory"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ray.exceptions.RayTaskError("call", NO_MEMORY, MemoryError(), ip="here"),
            "RayTaskError: OutOfMemoryError: CUDA out of memory",
        ),
        (ray.exceptions.WorkerCrashedError(), "WorkerCrashedError: The worker died unexpectedly"),
        (IntegrityError("the translator is altered"), "the translator is altered"),
    ],
)
def test_a_crash_while_translating_is_the_reason_of_its_cells(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def translate(unit: TranslatorUnit, texts: TextSet, storage: Storage, **_: Any) -> None:
        if unit.source.split.ids("all").size == 80:
            raise error

    storage = Storage(str(tmp_path))
    rows = prepare_study(CONFIG, CONFIG.studies[0], 0, storage)
    for pairs in (80, 160):
        translator_unit(CONFIG, rows, BASE, pairs).output(storage).finish({}, {})
    found = added(monkeypatch, tmp_path, translate_rows=translate)
    assert set(found) == {80, 160}
    assert found[80].startswith(reason)
    assert not found[160]


@pytest.mark.parametrize("error", [TrainingError("its loss is not finite"), None])
def test_training_that_fails_is_the_reason_of_its_cells_and_the_other_goes_on(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_units(units: Sequence[TranslatorUnit], storage: Storage, **_: Any) -> None:
        (unit,) = units
        if error and unit.source.split.ids("all").size == 80:
            raise error
        unit.output(storage).finish({}, {})

    found = added(monkeypatch, tmp_path, run_units=run_units)
    assert {unit for unit, reason in found.items() if not reason} == ({160} if error else {80, 160})
    assert not error or found[80] == "its loss is not finite"


def test_a_defect_in_training_ends_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run_units(units: Sequence[TranslatorUnit], storage: Storage, **_: Any) -> None:
        raise KeyError("no such key")

    with pytest.raises(KeyError):
        added(monkeypatch, tmp_path, run_units=run_units)


def added(
    monkeypatch: pytest.MonkeyPatch, folder: Path, **stand_ins: Callable[..., None]
) -> dict[int, str]:
    """Reasons by number of pairs; `stand_ins` are for `run_units` and `translate_rows`."""
    for name, stand_in in ({"translate_rows": lambda *_, **__: None} | stand_ins).items():
        monkeypatch.setattr(benchmark_local, name, stand_in)
    monkeypatch.setattr(benchmark_local, "start_monitor", lambda: None)
    monkeypatch.setattr(benchmark_local, "default_actors", lambda **_: 1)
    storage = Storage(str(folder))
    rows = prepare_study(CONFIG, CONFIG.studies[0], 0, storage)
    connection = Connection(None, storage, Display(Console(file=io.StringIO())))
    monkeypatch.setattr(connection, "connect", lambda: None)
    (found,) = LocalRows(CONFIG, connection).added_to([rows], {"one": BASE})
    groups = plan_groups(CONFIG, found, BASE, storage)
    return {group.members[0].cell.pairs or 0: group.blocked for group in groups}
