"""The presets' grids against the sizes of the sets that they name: every cell has its rows."""

import re
from pathlib import Path

import pytest

from cluster.benchmark_data import StudyRows
from cluster.benchmark_plan import plan_groups
from cluster.embed import EncoderRule, TextSet
from langalign.benchmarkgrid import BenchmarkConfig, Cell, StudyConfig, cells
from langalign.configfile import load_config
from langalign.errors import DataError
from langalign.storage import Storage
from langalign.tasks import build_task

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
# `num_examples` on the dataset card of nyu-mll/glue.
TRAIN_ROWS = {"hub:nyu-mll/glue:sst2@train": 67_349, "hub:nyu-mll/glue:mnli@train": 392_702}
# Repeats are dropped: of SST-2 0.6 %.
KEPT = 0.99
# Of the demo and of files, enough.
OTHERS = 100_000
BASE = EncoderRule("steps/encoder/x", "weights", "cls", 128, "fp32")


def preset(name: str) -> BenchmarkConfig:
    return load_config(BenchmarkConfig, CONFIGS / f"benchmark-{name}.yaml")


def made_up(config: BenchmarkConfig, study: StudyConfig, train: int, pairs: int) -> StudyRows:
    """Sets of these sizes with nothing in them; all pairs are labelled, and no row is native."""
    grid = config.grid_of(study)
    counts = {"train": train, "source": pairs, "target": pairs, "test": grid.test_rows}
    counts |= {f"local-{size}": train for size in grid.local_pairs}
    sets = {
        name: TextSet(name, f"of {name}", "xx", (), (count,), "text", "text_pair")
        for name, count in counts.items()
    }
    task = build_task(**study.task.model_dump())
    return StudyRows(study, 0, task, sets, True, grid.validation_fraction)


def planned(config: BenchmarkConfig, study: StudyConfig) -> dict[Cell, str]:
    """The digests of a study's cells, of the rows that its set has beside the pairs."""
    pairs = config.grid_of(study).most_pairs
    train = int(TRAIN_ROWS.get(study.train, OTHERS) * KEPT) - pairs
    groups = plan_groups(config, made_up(config, study, train, pairs), BASE, Storage("nowhere"))
    return {m.cell: m.digest for group in groups for m in group.members}


@pytest.mark.parametrize("name", ["paper", "paper-50k", "paper-300k"])
def test_every_cell_of_the_papers_presets_has_its_rows(name: str) -> None:
    config = preset(name)
    for study in config.studies:
        wanted = set(cells(study, config.grid_of(study), 0))
        assert set(planned(config, study)) == {cell for cell in wanted if cell.method != "native"}


def test_sst2_has_too_few_rows_for_all_sizes_of_the_grid() -> None:
    config = preset("paper")
    (study,) = [each for each in config.studies if each.name == "sa-ko"]
    with pytest.raises(DataError, match="asks for 50,000"):
        planned(config, study.model_copy(update={"rows": None}))


def test_more_rows_are_translated_than_pairs_are_drawn() -> None:
    text = (CONFIGS / "benchmark-paper.yaml").read_text()
    (asked,) = re.findall(r" rows=(\d+) target_language", text)
    config = preset("paper")
    for study in config.studies:
        # A service may refuse some.
        assert config.grid_of(study).most_pairs <= 0.96 * int(asked)


@pytest.mark.parametrize("name", ["demo", "mini", "paper", "paper-50k", "paper-300k"])
def test_the_presets_measure_alignment_on_their_fewest_pairs(name: str) -> None:
    """Naming the number changes no cell of theirs; it only keeps it where a size is added."""
    config = preset(name)
    assert config.grid.measured_pairs is not None
    unset = {"measured_pairs": None}
    free = config.model_copy(update={"grid": config.grid.model_copy(update=unset)})
    for study in config.studies:
        assert planned(config, study) == planned(free, study.model_copy(update=unset))
