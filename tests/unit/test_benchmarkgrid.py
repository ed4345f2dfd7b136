"""The grid: which cells there are, and which configs are refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from langalign.benchmarkgrid import BenchmarkConfig, Cell, cells
from langalign.configfile import load_config
from langalign.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
STUDY = {"name": "one", "target_language": "xc"}
STUDY |= dict.fromkeys(("train", "parallel", "test", "native"), "demo")


def config(**grid: Any) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate({"studies": [STUDY], "grid": grid})


def all_cells(made: BenchmarkConfig) -> list[Cell]:
    return [c for s in made.studies for seed in made.grid.seeds for c in cells(s, made.grid, seed)]


def test_every_combination_is_one_cell() -> None:
    made = config(
        rows=[100, 200, 400],
        pairs=[100, 300],
        share_pairs=[300],
        local_pairs=[300],
        seeds=[0, 1],
        aligners=["fc", "ae", "linear"],
        reverse_aligners=["ae"],
        share_aligners=["fc"],
    )
    found = all_cells(made)
    assert len(set(found)) == len(found)
    # By hand: 3 sizes and 2 seeds each; translated rows only up to the 300 pairs there are.
    assert Counter(cell.method for cell in found) == {
        "english": 6,
        "native": 6,
        "translated": 4,
        "translated-local": 6,
        "omission": 6,
        "langalign": 6 * 2 * 3,
        "rev-langalign": 6 * 2,
        "data-share": 6,
        "lora": 4,
        "simcse": 4,
    }
    assert {c.pairs for c in found if c.method in ("data-share", "translated-local")} == {300}
    without = [c for c in found if c.aligner == "none" and c.method != "translated-local"]
    assert all(cell.pairs is None for cell in without)


def test_translated_sizes_may_be_named() -> None:
    made = config(translated_rows=[150, 700], methods=["translated"])
    assert sorted({cell.rows for cell in all_cells(made)}) == [150, 700]
    assert made.grid.most_pairs == 2000
    assert config(translated_rows=[5000]).grid.most_pairs == 5000


def test_a_range_gives_every_size_of_it() -> None:
    steps = {"from": 1000, "to": 5000, "step": 1000}
    made = config(rows=steps, pairs={"from": 500, "to": 500, "step": 1})
    assert made.grid.rows == [1000, 2000, 3000, 4000, 5000]
    assert made.grid.pairs == [500]
    own = BenchmarkConfig.model_validate({"studies": [{**STUDY, "rows": steps}]})
    assert own.grid_of(own.studies[0]).rows == made.grid.rows


@pytest.mark.parametrize(
    "changed",
    [
        {"to": 5500},
        {"to": 500},
        {"step": 0},
        {"step": -1000},
        {"from": 1.5},
        {"by": 10},
        {"to": ""},
    ],
)
def test_a_range_that_is_none_is_one_clear_error(changed: dict[str, Any]) -> None:
    steps = {"from": 1000, "to": 5000, "step": 1000} | changed
    override = f"grid.rows={json.dumps(steps)}"
    with pytest.raises(ConfigError, match=r"grid\.rows=.*as \{from: 1000, to: 50000, step: 1000\}"):
        load_config(BenchmarkConfig, CONFIGS / "benchmark-demo.yaml", [override])


def test_alignment_is_measured_on_the_fewest_pairs_of_any_row_that_is_asked_for() -> None:
    assert config(pairs=[300, 900], share_pairs=[200]).grid.measured == 200
    methods = ["english", "langalign"]
    assert config(pairs=[300, 900], share_pairs=[200], methods=methods).grid.measured == 300
    assert config(pairs=[300, 900], measured_pairs=400).grid.measured == 400
    # More than any row takes: they are read all the same.
    assert config(pairs=[300], methods=methods, measured_pairs=400).grid.most_pairs == 400


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"measured_pairs": 40}, "too few are held out"),
        ({"pairs": [40], "measured_pairs": 400}, "too few are held out"),
        ({"rows": [100, 100]}, "twice"),
        ({"rows": [5]}, "10 or more"),
        ({"pairs": [40]}, "too few are held out"),
        ({"aligners": ["none"]}, "omission"),
        ({"aligner": ["fc"]}, "forbidden|Extra"),
    ],
)
def test_a_grid_that_cannot_work_is_refused(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**grid)


def test_step_3_and_step_1_are_the_papers() -> None:
    base = {"studies": [STUDY]}
    with pytest.raises(ValueError, match="frozen embeddings"):
        BenchmarkConfig.model_validate({**base, "head": {"train": ["head", "encoder"]}})
    with pytest.raises(ValueError, match="on English rows"):
        BenchmarkConfig.model_validate({**base, "tune": {"rows": "both"}})
    with pytest.raises(ValueError, match="a name of its own"):
        BenchmarkConfig.model_validate({"studies": [STUDY, STUDY]})


def test_only_local_paths_are_relative_to_the_data() -> None:
    specs = {"train": "a.csv", "parallel": "hub:x/y", "test": "s3://b/c", "native": None}
    made = BenchmarkConfig.model_validate({"studies": [{**STUDY, **specs}]}).studies[0]
    found = [made.spec(role, "root") for role in ("train", "parallel", "test", "native")]
    assert found == ["root/a.csv", "hub:x/y", "s3://b/c", None]
    assert made.spec("train", None) == "a.csv"


def test_the_demos_grid_has_about_two_hundred_cells() -> None:
    made = load_config(BenchmarkConfig, CONFIGS / "benchmark-demo.yaml")
    assert 200 <= len(all_cells(made)) <= 300
    assert len(made.grid.seeds) == 3


def test_an_unknown_key_of_a_study_is_named() -> None:
    with pytest.raises(ConfigError, match="trian"):
        load_config(BenchmarkConfig, None, ["studies=[{name: x, trian: demo}]"])


def test_a_study_may_have_sizes_of_its_own() -> None:
    own = {**STUDY, "name": "other", "rows": [70], "pairs": [90]}
    made = BenchmarkConfig.model_validate({"studies": [STUDY, own], "grid": {"rows": [100]}})
    assert made.grid_of(made.studies[0]).rows == [100]
    assert made.grid_of(made.studies[1]).rows == [70]
    assert made.grid_of(made.studies[1]).pairs == [90]
    with pytest.raises(ValueError, match="twice"):
        BenchmarkConfig.model_validate({"studies": [{**own, "rows": [70, 70]}]})
