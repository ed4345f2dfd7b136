"""`jobs/benchmark.py` before Ray starts: --help, presets, and one line for a mistake."""

import sys
from pathlib import Path

import pytest
import ray

from jobs import benchmark
from langalign.benchmarkgrid import BenchmarkConfig
from langalign.configfile import describe_keys, load_config
from langalign.errors import ConfigError

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
