"""Local translators of a benchmark, trained before: one that crashes leaves the others alone."""

import io
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
from langalign.errors import IntegrityError
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

    monkeypatch.setattr(benchmark_local, "translate_rows", translate)
    storage = Storage(str(tmp_path))
    rows = prepare_study(CONFIG, CONFIG.studies[0], 0, storage)
    for pairs in (80, 160):
        translator_unit(CONFIG, rows, BASE, pairs).output(storage).finish({}, {})
    display = Display(Console(file=io.StringIO()))
    local = LocalRows(CONFIG, Connection(None, storage, display))
    (found,) = local.added_to([rows], {"one": BASE})
    groups = plan_groups(CONFIG, found, BASE, storage)
    blocked = {group.members[0].cell.pairs: group.blocked for group in groups}
    assert set(blocked) == {80, 160}
    assert blocked[80].startswith(reason)
    assert not blocked[160]
