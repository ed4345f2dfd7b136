"""The benchmark on a real cluster: every cell, resume after kills, failures that stay visible."""

import io
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from head import Head
from rich.console import Console
from tiny import kill_worker, wait_for, write_encoder

from cluster.benchmark import Benchmark
from langalign.benchmarkgrid import BenchmarkConfig, cells
from langalign.benchmarkresult import CellResult, CellStore
from langalign.configfile import load_config
from langalign.errors import ConfigError, DataError
from langalign.storage import Storage

pytestmark = pytest.mark.slow

FOLDER = "runs/tiny/benchmark"
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "studies": [
        {"name": "one", "target_language": "xc"}
        | dict.fromkeys(("train", "parallel", "test", "native"), "demo")
    ],
    "grid": {
        "rows": [60],
        "pairs": [80, 160],
        "share_pairs": [80],
        "local_pairs": [80],
        "seeds": [0, 1],
        "aligners": ["ae", "linear", "procrustes-uncentred"],
        "reverse_aligners": ["ae"],
        "share_aligners": ["linear"],
        "test_rows": 100,
    },
    "encoder": {"pooling": "mean", "max_length": 48},
    "tune": {"learning_rate": 1e-3, "max_epochs": 1},
    "aligner": {"learning_rate": 1e-3, "max_epochs": 4},
    "head": {"learning_rate": 1e-3, "max_epochs": 4},
    "local": {"model": "demo", "learning_rate": 1e-3, "max_epochs": 2, "max_length": 48},
}


@pytest.fixture(scope="module")
def inputs(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file of a tiny grid."""
    folder = tmp_path_factory.mktemp("benchmark")
    encoder = {**CONFIG["encoder"], "name": str(write_encoder(folder / "encoder"))}
    path = folder / "tiny.yaml"
    path.write_text(
        yaml.safe_dump({**CONFIG, "encoder": encoder, "cluster": {"address": head.address}})
    )
    return path


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """The storage of a run that nothing disturbed."""
    storage = Storage(str(tmp_path_factory.mktemp("whole")))
    run(inputs, storage)
    return storage


def run(inputs: Path, storage: Storage, *overrides: str) -> dict[str, Any]:
    config = load_config(BenchmarkConfig, inputs, overrides)
    return Benchmark(config, storage, Console(file=io.StringIO(), width=200)).run()


def results(storage: Storage) -> dict[str, CellResult]:
    store = CellStore(storage, FOLDER)
    return {digest: store.read(digest) for digest in store.digests()}


def scores(storage: Storage) -> dict[str, Any]:
    return {d: (r.status, r.counts, r.alignment) for d, r in results(storage).items()}


def test_every_cell_of_the_grid_is_there(inputs: Path, whole: Storage) -> None:
    config = load_config(BenchmarkConfig, inputs)
    wanted = {c for s in config.studies for n in (0, 1) for c in cells(s, config.grid, n)}
    found = results(whole)
    assert {result.cell for result in found.values()} == wanted
    assert len(found) == len(wanted)
    for result in found.values():
        assert result.is_done
        assert sum(map(sum, result.counts)) == 100, "test rows"
        wanted_measures: set[str] = (
            set() if result.cell.aligner == "none" else {"before", "after", "moved"}
        )
        assert set(result.alignment) == wanted_measures
    page = whole.read_bytes(f"{FOLDER}/report.html").decode()
    assert all(f'href="cells/{digest}.json"' in page for digest in found)
    summary = whole.read_json(f"{FOLDER}/summary.json")
    assert summary["cells"] == {"done": len(wanted), "failed": 0}
    assert {row["cell"] for row in summary["results"]} == set(found)
    assert summary["runs"][0]["cells"] == len(wanted)
    assert summary["runs"][0]["cores"] >= 1
    assert f"| time | {len(wanted)} cells in " in whole.read_bytes(f"{FOLDER}/report.md").decode()


def test_cells_of_one_encoder_share_it(whole: Storage) -> None:
    # English of 2 seeds tunes the encoders of LangAlign too; then native rows, translated rows in
    # three ways, the shared data, which is other rows, and those of the local translator.
    assert len(whole.folders("steps/tune")) == 2 * 7
    assert len(whole.folders("steps/simcse")) == 2
    assert len(whole.folders("steps/translator")) == 2, "one for each seed"


def test_a_second_run_makes_no_cell_and_a_larger_grid_only_the_new_ones(
    inputs: Path, whole: Storage
) -> None:
    before = results(whole)
    run(inputs, whole)
    assert results(whole) == before, "their seconds too"
    summary = run(inputs, whole, "grid.reverse_aligners=[ae, linear]")
    after = results(whole)
    assert {digest: after[digest] for digest in before} == before
    added = {r.cell.aligner for digest, r in after.items() if digest not in before}
    assert added == {"linear"}
    assert summary["cells"]["done"] == len(after)


def test_a_study_of_another_name_shares_cells_and_is_shown_by_its_own(
    inputs: Path, whole: Storage
) -> None:
    before = set(results(whole))
    study = yaml.safe_dump({**CONFIG["studies"][0], "name": "other"}, default_flow_style=True)
    summary = run(inputs, whole, f"studies=[{study}]", "grid.seeds=[0]")
    assert {row["study"] for row in summary["results"]} == {"other"}
    assert {row["cell"] for row in summary["results"]} <= before
    assert set(results(whole)) == before


def has_cells(store: CellStore, least: int) -> bool:
    return len(store.digests()) >= least


def test_killed_twice_it_gives_the_same_numbers(
    inputs: Path, whole: Storage, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    few = ("grid.seeds=[0]", "grid.methods=[english, native, translated-local, langalign]")
    command = [sys.executable, "-m", "jobs.benchmark", "--config", str(inputs), *few]
    store = CellStore(storage, FOLDER)
    for least in (1, 6):
        with subprocess.Popen([*command, f"storage={storage.root}"]) as driver:
            wait_for(partial(has_cells, store, least), f"{least} cells")
            driver.kill()
    before = scores(storage)
    run(inputs, storage, *few)
    assert len(before) < len(scores(storage)), "it was over before it was killed"
    wanted = scores(whole)
    assert scores(storage) == {digest: wanted[digest] for digest in scores(storage)}
    page = storage.read_bytes(f"{FOLDER}/report.html").decode()
    assert all(digest in page for digest in scores(storage))


def test_a_cell_that_fails_is_shown_with_its_reason(inputs: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    few = ("grid.seeds=[0]", "grid.rows=[60]", "grid.methods=[english, langalign]")
    summary = run(inputs, storage, *few, "aligner.learning_rate=1e30")
    failed = [result for result in results(storage).values() if not result.is_done]
    assert {(r.cell.method, r.cell.aligner) for r in failed} == {("langalign", "ae")}
    assert all("learning rate" in result.reason for result in failed)
    assert summary["cells"]["failed"] == len(failed) == 2
    assert summary["status"] == "done, with failed cells"
    assert not {row["cell"] for row in summary["results"]} & {r.digest for r in failed}
    text = storage.read_bytes(f"{FOLDER}/report.md").decode()
    assert "failed (1 of 1)" in text
    assert failed[0].reason in text


def test_altered_embeddings_and_encoders_are_made_again(inputs: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    few = ("grid.seeds=[0]", "grid.rows=[60]", "grid.methods=[english, langalign]")
    run(inputs, storage, *few)
    wanted = scores(storage)
    keys = [item.key for item in storage.list() if item.key.endswith(("parquet", "safetensors"))]
    for key in keys:
        if key.startswith(("embeddings/", "steps/tune/")):
            storage.write_bytes(key, b"altered")
    storage.delete_folder(f"{FOLDER}/cells")
    run(inputs, storage, *few)
    assert scores(storage) == wanted


def test_a_translator_that_fails_leaves_the_other_rows_alone(inputs: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    few = ("grid.seeds=[0]", "grid.rows=[60]", "grid.methods=[english, translated-local]")
    summary = run(inputs, storage, *few, f"local.model={tmp_path}")
    assert summary["cells"] == {"done": 1, "failed": 1}
    assert summary["runs"][0]["cells"] == 1
    (failed,) = [result for result in results(storage).values() if not result.is_done]
    assert failed.cell.method == "translated-local"
    assert "is no sequence-to-sequence model" in failed.reason


def test_a_group_whose_process_dies_runs_again(
    inputs: Path, whole: Storage, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    few = ("grid.seeds=[0]", "grid.methods=[english, langalign]")
    config = load_config(BenchmarkConfig, inputs, few)
    killer = threading.Thread(target=kill_worker, args=("run_group",), daemon=True)
    killer.start()
    Benchmark(config, storage, Console(file=io.StringIO())).run()
    killer.join(1)
    assert not killer.is_alive(), "no worker was killed"
    wanted = scores(whole)
    assert scores(storage) == {digest: wanted[digest] for digest in scores(storage)}


def test_without_step_1_heads_are_trained_on_the_plain_encoder(
    inputs: Path, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    few = ("grid.seeds=[0]", "grid.rows=[60]", "grid.translated_rows=[60]")
    methods = "grid.methods=[english, native, translated, omission, langalign]"
    run(inputs, storage, *few, methods, "tune.rows=none")
    found = {result.cell.method for result in results(storage).values() if result.is_done}
    assert found == {"english", "native", "translated", "langalign"}, "omission is english here"
    assert not storage.folders("steps/tune")
    assert all("head" in result.epochs for result in results(storage).values())


def test_rows_that_are_not_there_are_a_users_mistake(inputs: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    study = {**CONFIG["studies"][0], "target_language": "ko"}
    with pytest.raises(ConfigError, match="demo's language is xc"):
        run(inputs, storage, f"studies=[{yaml.safe_dump(study, default_flow_style=True)}]")
    few = tmp_path / "few.csv"
    few.write_text("text,label\n" + "".join(f"row {n},{n % 2}\n" for n in range(50)))
    study = {**CONFIG["studies"][0], "train": str(few)}
    text = yaml.safe_dump(study, default_flow_style=True)
    with pytest.raises(DataError, match="has 50 train rows that are not among its pairs, and"):
        run(inputs, storage, f"studies=[{text}]", "grid.methods=[english]")
