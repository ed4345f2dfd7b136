"""Reports put into docs/results.md by `benchmarks/write_results.py`."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_results import CONFIG, SEEDS, STUDY, result, results

from langalign.benchmarkgrid import BenchmarkConfig
from langalign.benchmarkreport import write_benchmark_report
from langalign.benchmarkresult import CellResult, CellStore
from langalign.storage import Storage

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "write_results.py"
COMMAND = "python jobs/benchmark.py --config jobs/configs/benchmark-x.yaml data=/home/me/rows/mini"
BEFORE = "# Results\n\n## The paper's experiments\n\nTwo lines.\n\n## After\n\nRest.\n"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """With the reports of two runs."""
    made = Storage(str(tmp_path / "storage"))
    for run in ("benchmark-x", "benchmark-y"):
        store = CellStore(made, f"runs/{run}/benchmark")
        write_benchmark_report(store, CONFIG, results(), {"command": COMMAND})
    return made


def written(
    patch: pytest.MonkeyPatch, document: Path, storage: Storage, *runs: str, text: str | None = None
) -> str:
    if text is not None:
        document.write_text(text)
    spec = importlib.util.spec_from_file_location("write_results", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    patch.setattr(script, "RESULTS", document)
    patch.setattr(sys, "argv", ["write_results.py", storage.root, *runs])
    script.main()
    return document.read_text()


def test_new_reports_go_under_the_heading_and_old_ones_are_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: Storage
) -> None:
    document = tmp_path / "results.md"
    first = written(monkeypatch, document, storage, "benchmark-x", "benchmark-y", text=BEFORE)
    marks = [line for line in first.splitlines() if line.startswith(("<!--", "## "))]
    assert marks == [
        "## The paper's experiments",
        "<!-- benchmark-x -->",
        "<!-- end of benchmark-x -->",
        "<!-- benchmark-y -->",
        "<!-- end of benchmark-y -->",
        "## After",
    ]
    assert first.startswith("# Results\n\n## The paper's experiments\n\nTwo lines.\n\n<!--")
    assert first.endswith("<!-- end of benchmark-y -->\n\n## After\n\nRest.\n")
    assert written(monkeypatch, document, storage, "benchmark-x") == first
    edited = first.replace("holds", "is old")
    assert (
        written(monkeypatch, document, storage, "benchmark-x", "benchmark-y", text=edited) == first
    )


def test_a_document_without_the_heading_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: Storage
) -> None:
    text = written(monkeypatch, tmp_path / "r.md", storage, "benchmark-x", text="# Results\n")
    assert text.startswith("# Results\n\n## The paper's experiments\n\n<!-- benchmark-x -->\n### ")


def test_what_is_written_reads_without_links_and_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: Storage
) -> None:
    text = written(monkeypatch, tmp_path / "r.md", storage, "benchmark-x", text=BEFORE)
    shown = COMMAND.replace("/home/me/rows/mini", "mini")
    assert f"Made by `{shown}`, whose whole report" in text
    assert "`runs/benchmark-x/benchmark/report.html`" in text
    assert "](" not in text
    assert "<a " not in text
    assert "/home" not in text, "a folder of the machine that ran it"
    assert "| LangAlign ae, 200 pairs | English | 70.1 ± " in text
    assert "#### Which of the paper's findings hold" in text
    assert "All cells" not in text


def test_of_six_encoders_it_shows_how_alignment_goes_with_transfer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: Storage
) -> None:
    """ALIGN-MLM's question: one point for each encoder, and its own answer beside ours."""
    store = CellStore(storage, "runs/benchmark-words/benchmark")
    config, found = of_encoders(6)
    write_benchmark_report(store, config, found, {"command": COMMAND})
    text = written(monkeypatch, tmp_path / "r.md", storage, "benchmark-words", text=BEFORE)
    (section,) = [s for s in text.split("#### ") if s.startswith("Alignment and transfer\n")]
    line = "| sentiment, Accuracy | word embeddings: cosine | English-only | +1.000 | 0.000 | 6 |"
    assert line in section.splitlines()
    assert "ALIGN-MLM gives 0.727 for word embeddings" in section
    config, found = of_encoders(5)
    write_benchmark_report(store, config, found, {"command": COMMAND})
    fewer = written(monkeypatch, tmp_path / "r.md", storage, "benchmark-words")
    assert "word embeddings: cosine" not in fewer, "five points say nothing"


def of_encoders(count: int) -> tuple[BenchmarkConfig, list[CellResult]]:
    """A study for each encoder; the nearer its words, the higher its English-only score."""
    studies, found = [], []
    for place in range(count):
        study = f"words-{place}"
        studies.append({**STUDY, "name": study, "test": "demo"})
        for seed in SEEDS:
            english = result("english", "none", None, 100, seed, 50.0 + place + seed)
            aligned = result("langalign", "ae", 200, 100, seed, 70.0)
            words = {**aligned.alignment, "words": {"cosine": place / 10}}
            for made in (english, replace(aligned, alignment=words)):
                cell = replace(made.cell, study=study)
                found.append(replace(made, cell=cell, digest=f"{study}-{made.digest}"))
    return BenchmarkConfig.model_validate({"studies": studies}), found


def test_a_mark_without_its_end_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: Storage
) -> None:
    text = "# Results\n\n<!-- benchmark-x -->\nold\n\n## After\n"
    with pytest.raises(ValueError, match="there is no <!-- end of benchmark-x -->"):
        written(monkeypatch, tmp_path / "r.md", storage, "benchmark-x", text=text)
    assert (tmp_path / "r.md").read_text() == text
