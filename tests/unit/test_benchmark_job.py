"""`jobs/benchmark.py` without Ray: --help, presets, one line for a mistake, and how it ends."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from benchmark_results import results
from rich.console import Console

from cluster.benchmark import Benchmark
from jobs import benchmark
from langalign.benchmarkgrid import BenchmarkConfig
from langalign.benchmarkresult import CellResult
from langalign.configfile import describe_keys, load_config
from langalign.errors import ConfigError
from langalign.storage import Storage

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


@pytest.fixture
def in_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def run(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    patch.setattr(sys, "argv", ["benchmark.py", *arguments])
    try:
        return benchmark.main()
    except SystemExit as stop:  # argparse ends --help so
        return int(stop.code or 0)
    finally:
        assert not ray.is_initialized()


def test_help_lists_every_key(
    in_folder: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(in_folder, "--help") == 0
    shown = capsys.readouterr().out
    keys = [key for key, *_ in describe_keys(BenchmarkConfig)]
    assert {"grid.rows", "lora.rank", "simcse.temperature", "costs.native_row"} <= set(keys)
    assert all(f"  {key} " in shown for key in keys)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("grid.row=[10]", "did you mean 'grid.rows'"),
        ("grid.rows=[10, 10]", "names a value twice"),
        ("grid.methods=[englich]", "Input should be"),
        ("studies=[]", "at least 1"),
    ],
)
def test_a_mistake_is_one_line(
    in_folder: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    message: str,
) -> None:
    assert run(in_folder, argument) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(Path().iterdir()), "nothing was written"


@pytest.mark.parametrize("name", ["demo", "mini", "paper", "align-mlm"])
def test_every_preset_is_whole(name: str) -> None:
    config = load_config(BenchmarkConfig, CONFIGS / f"benchmark-{name}.yaml")
    assert config.name == f"benchmark-{name}"
    assert len(config.grid.seeds) >= 3
    assert config.is_published == (name == "paper")


def test_the_papers_preset_has_its_hyper_parameters() -> None:
    config = load_config(BenchmarkConfig, CONFIGS / "benchmark-paper.yaml")
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (8, 8, 0.1)
    assert (config.simcse.temperature, config.simcse.max_epochs) == (0.05, 10)
    assert config.encoder.name == "FacebookAI/xlm-roberta-base"
    assert (config.tune.batch_size, config.aligner.batch_size, config.local.batch_size) == (
        16,
        16,
        8,
    )
    assert {study.name: study.target_language for study in config.studies} == {
        "sa-ko": "ko",
        "nli-ko": "ko",
        "nli-ja": "ja",
        "sa-zh": "zh",
        "nli-zh": "zh",
    }


def test_without_studies_there_is_nothing_to_measure() -> None:
    with pytest.raises(ConfigError, match="studies"):
        load_config(BenchmarkConfig, None, ["name=x"])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell is there, as in a grid that was run before."""
    monkeypatch.setattr(Benchmark, "_groups", lambda _: [])
    monkeypatch.setattr(Benchmark, "_cells", lambda *_: results())


STUDY = "{name: one, target_language: xc, train: demo, parallel: demo, test: demo}"


@pytest.mark.usefixtures("measured")
def test_it_ends_with_the_findings_and_the_main_scores(
    in_folder: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_folder.setenv("COLUMNS", "200")
    assert run(in_folder, "--json", "name=x", "storage=kept", f"studies=[{STUDY}]") == 0
    *shown, line = capsys.readouterr().out.splitlines()
    text = "\n".join(shown)
    for title in ("Which of the paper's findings hold", "Tables 3, 7 and 8: task fine-tuning, one"):
        assert text.count(title) == 1
    (finding,) = [each for each in shown if "LangAlign is above English-only" in each]
    assert [part.strip() for part in finding.split("│")][1::5] == ["one", "holds"]
    summary: dict[str, Any] = json.loads(line)
    assert Storage("kept").read_json("runs/x/benchmark/summary.json") == summary
    findings, scores = summary["tables"]
    assert ["one", "LangAlign is above English-only (section 4)"] in [
        r[:2] for r in findings["rows"]
    ]
    assert scores["header"] == ["method", "task rows", "100", "1,000"]
    for row in scores["rows"]:
        (printed,) = [each for each in shown if f"│ {row[0]} " in each and f" {row[2]} " in each]
        assert all(value in printed for value in row)


def test_the_report_says_what_the_runs_took_that_made_cells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = iter([len(results()) - 4, 3, 0])

    def cells(self: Benchmark, _: Any) -> list[CellResult]:
        self.made, self.cores = next(made), 2.0
        return results()

    monkeypatch.setattr(Benchmark, "_groups", lambda _: [])
    monkeypatch.setattr(Benchmark, "_cells", cells)
    config = load_config(BenchmarkConfig, None, ["name=x", f"studies=[{STUDY}]"])
    storage = Storage(str(tmp_path))
    for _ in range(3):
        Benchmark(config, storage, Console(file=io.StringIO())).run()
    runs = storage.read_json("runs/x/benchmark/summary.json")["runs"]
    assert [(run["cells"], run["cores"]) for run in runs] == [(len(results()) - 4, 2), (3, 2)]
    (line,) = [
        line
        for line in storage.read_bytes("runs/x/benchmark/report.md").decode().splitlines()
        if line.startswith("| time |")
    ]
    times = r"\d+ cells in \d+ s on 2 cores; 3 cells in \d+ s on 2 cores"
    assert re.search(rf" {times}; of the others no time is kept ", line)


@pytest.mark.usefixtures("measured")
def test_a_narrow_console_loses_no_figure(tmp_path: Path) -> None:
    """Without a terminal rich assumes 80 columns; lines are folded, not cut."""
    config = load_config(BenchmarkConfig, None, ["name=x", f"studies=[{STUDY}]"])
    sink = io.StringIO()
    console = Console(file=sink, width=80, soft_wrap=True)
    made = Benchmark(config, Storage(str(tmp_path)), console)
    made.run()
    benchmark.show_tables(made.tables[:1], console)
    lines = sink.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    last = [line.split("│")[-2].strip() for line in lines if "│" in line]
    assert " ".join(filter(None, last)) == " ".join(row[-1].text for row in made.tables[0].rows)
