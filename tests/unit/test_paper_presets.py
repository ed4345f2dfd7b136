"""The presets of the paper's data: they look for translations where those are made."""

from pathlib import Path

import pytest

from langalign.benchmarkgrid import BenchmarkConfig, cells
from langalign.configfile import load_config
from langalign.published import published_score

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
PAPER = load_config(BenchmarkConfig, CONFIGS / "benchmark-paper.yaml")
LARGE = load_config(BenchmarkConfig, CONFIGS / "benchmark-paper-300k.yaml")
SENTIMENT = load_config(BenchmarkConfig, CONFIGS / "benchmark-paper-50k.yaml")


def test_pairs_are_looked_for_where_the_translation_job_writes_them() -> None:
    sources = {"sa": "sst2", "nli": "mnli"}
    for study in (*PAPER.studies, *LARGE.studies, *SENTIMENT.studies):
        run = f"{sources[study.name.split('-')[0]]}-en-{study.target_language}"
        assert study.spec("parallel", "/rows") == f"/rows/runs/{run}/translate/pairs.parquet"


def test_a_local_translator_is_told_the_languages_name() -> None:
    assert "{language}" in PAPER.local.prefix
    assert {study.name: study.language for study in PAPER.studies} == {
        "sa-ko": "Korean",
        "nli-ko": "Korean",
        "nli-ja": "Japanese",
        "sa-zh": "Chinese",
        "nli-zh": "Chinese",
    }


def test_every_cell_of_the_300k_preset_stands_beside_a_figure_of_the_paper() -> None:
    found = figures(LARGE)
    assert None not in found.values()
    assert found["english", "none", None, 300_000] == 76.1
    assert found["rev-langalign", "fc", 20_000, 300_000] == 81.9


def test_the_50k_preset_gives_the_sizes_that_the_other_has_no_rows_for() -> None:
    found = figures(SENTIMENT)
    # The paper shows LangAlign for 5,000 and 15,000 pairs only.
    without = {key[:3] for key, score in found.items() if score is None}
    assert without == {("langalign", "fc", 10_000), ("langalign", "ae", 10_000)}
    assert found["english", "none", None, 50_000] == 75.4
    assert found["langalign", "ae", 15_000, 50_000] == 82.0


@pytest.mark.parametrize("config", [LARGE, SENTIMENT], ids=lambda config: config.name)
def test_the_other_presets_are_the_papers_in_all_else(config: BenchmarkConfig) -> None:
    (study,) = config.studies
    (whole,) = [each for each in PAPER.studies if each.name == study.name]
    assert study == whole.model_copy(update={"native": None, "rows": None})
    for section in ("encoder", "tune", "aligner", "head", "cluster"):
        assert getattr(config, section) == getattr(PAPER, section)


def figures(preset: BenchmarkConfig) -> dict[tuple[str, str, int | None, int], float | None]:
    """The paper's figure, if it has one, by method, aligner, pairs and rows of the only study."""
    (study,) = preset.studies
    found = (
        (cell.method, cell.aligner, cell.pairs, cell.rows)
        for cell in cells(study, preset.grid_of(study), 0)
    )
    return {key: published_score(study.name, *key) for key in found}
