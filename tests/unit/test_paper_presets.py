"""The presets of the paper's data: they look for translations where those are made."""

from pathlib import Path

from langalign.benchmarkgrid import BenchmarkConfig, cells
from langalign.configfile import load_config
from langalign.published import published_score

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
PAPER = load_config(BenchmarkConfig, CONFIGS / "benchmark-paper.yaml")
LARGE = load_config(BenchmarkConfig, CONFIGS / "benchmark-paper-300k.yaml")


def test_pairs_are_looked_for_where_the_translation_job_writes_them() -> None:
    sources = {"sa": "sst2", "nli": "mnli"}
    for study in (*PAPER.studies, *LARGE.studies):
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
    (study,) = LARGE.studies
    found = {
        (cell.method, cell.aligner, cell.pairs, cell.rows): published_score(
            cell.study, cell.method, cell.aligner, cell.pairs, cell.rows
        )
        for cell in cells(study, LARGE.grid_of(study), 0)
    }
    assert None not in found.values()
    assert found["english", "none", None, 300_000] == 76.1
    assert found["rev-langalign", "fc", 20_000, 300_000] == 81.9


def test_the_300k_preset_is_the_papers_in_all_else() -> None:
    (study,) = LARGE.studies
    (whole,) = [each for each in PAPER.studies if each.name == study.name]
    assert study == whole.model_copy(update={"native": None})
    for section in ("encoder", "tune", "aligner", "head", "cluster"):
        assert getattr(LARGE, section) == getattr(PAPER, section)
