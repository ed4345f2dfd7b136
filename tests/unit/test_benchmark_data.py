"""A benchmark's rows: subsets, columns and labels of public data sets, and the planned work."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import pytest

from cluster.benchmark_data import StudyRows, Subset, prepare_study
from cluster.benchmark_plan import Group, left_out, plan_groups, translator_unit
from cluster.embed import EncoderRule
from cluster.texts import read_texts
from langalign.benchmarkgrid import LOCAL, BenchmarkConfig, RowName
from langalign.configfile import load_config
from langalign.errors import ConfigError, DataError
from langalign.storage import Storage

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
ROWS = 120
NLI = ["entailment", "neutral", "contradiction"]
# The schemas of the public sets, as their cards give them: columns, and names of the labels in
# the order of their ints (None: the file has bare ints).
SCHEMAS: dict[str, tuple[list[str], list[str] | None]] = {
    "hub:nyu-mll/glue:sst2@train": (["sentence"], ["negative", "positive"]),
    "hub:nyu-mll/glue:mnli@train": (["premise", "hypothesis"], NLI),
    "nsmc/ratings_test.tsv": (["document"], None),
    "nsmc/ratings_train.tsv": (["document"], None),
    "hub:klue/klue:nli@validation": (["premise", "hypothesis"], NLI),
    "hub:klue/klue:nli@train": (["premise", "hypothesis"], NLI),
    "hub:zenless-lab/jnli@test": (["premise", "hypothesis"], NLI),
    "hub:zenless-lab/jnli@train": (["premise", "hypothesis"], NLI),
    "douban/test.csv": (["text"], None),
    "douban/train.csv": (["text"], None),
    "hub:clue/clue:ocnli@validation": (
        ["sentence1", "sentence2"],
        ["neutral", "entailment", "contradiction"],
    ),
    "hub:clue/clue:ocnli@train": (
        ["sentence1", "sentence2"],
        ["neutral", "entailment", "contradiction"],
    ),
}


def paper(folder: Path, study: str) -> BenchmarkConfig:
    """The paper's preset for one study, its sources replaced by small ones of the same schema."""
    made = load_config(BenchmarkConfig, CONFIGS / "benchmark-paper.yaml")
    (found,) = [s for s in made.studies if s.name == study]
    values = found.model_dump(exclude_none=True, exclude={"rows"})
    for role in ("train", "test", "native"):
        values[role] = write_source(folder / role, values[role])
    columns = ["source", "target"]
    columns += ["source_pair", "target_pair"] if "nli" in study else []
    names = NLI if "nli" in study else ["negative", "positive"]
    pairs = {name: [f"{name} {n}" for n in range(ROWS)] for name in columns}
    pairs["label"] = [names[n % len(names)] for n in range(ROWS)]
    values["parallel"] = str(folder / "pairs.jsonl")
    datasets.Dataset.from_dict(pairs).to_json(values["parallel"])
    grid = {"rows": [60], "pairs": [80], "share_pairs": [80], "local_pairs": [80], "seeds": [0]}
    return BenchmarkConfig.model_validate({"studies": [values], "grid": grid})


def write_source(folder: Path, spec: str) -> str:
    """Texts say which class they are of by name; the label is the set's own int for it."""
    columns, names = SCHEMAS[spec]
    shown = names or ["negative", "positive"]
    rows: dict[str, list[Any]] = {
        name: [f"{name} {n} {shown[n % len(shown)]}" for n in range(ROWS)] for name in columns
    }
    rows["label"] = [n % len(shown) for n in range(ROWS)]
    rows["idx"] = list(range(ROWS))
    if not spec.startswith("hub:"):
        folder.mkdir(parents=True)
        path = folder / Path(spec).name
        datasets.Dataset.from_dict(rows).to_csv(path, sep="\t" if "tsv" in spec else ",")
        return str(path)
    texts = {name: datasets.Value("string") for name in columns}
    features = {**texts, "label": datasets.ClassLabel(names=shown), "idx": datasets.Value("int64")}
    split = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    datasets.DatasetDict({"train": split}).save_to_disk(folder)
    return f"{folder}@train"


@pytest.mark.parametrize("study", ["sa-ko", "nli-ko", "nli-ja", "sa-zh", "nli-zh"])
def test_every_set_of_the_papers_preset_maps_to_our_columns(study: str, tmp_path: Path) -> None:
    config = paper(tmp_path, study)
    storage = Storage(str(tmp_path / "store"))
    rows = prepare_study(config, config.studies[0], 0, storage)
    for name in ("train", "test", "native"):
        texts = rows.sets[name]
        found = read_texts(storage, texts, np.arange(rows.rows(name)))
        for text, second, label in zip(found.texts, found.pairs, found.labels, strict=True):
            assert text.endswith(rows.task.labels[label])
            assert (second is not None) == ("nli" in study)
            assert second is None or second.endswith(rows.task.labels[label])
    assert rows.has_labelled_pairs
    assert rows.task.metric == ("accuracy" if "nli" in study else "f1")


def test_ints_in_another_order_are_renumbered_and_other_names_refused(tmp_path: Path) -> None:
    config = paper(tmp_path, "nli-zh")
    (study,) = config.studies
    # The same rows as bare ints: only the config says what they mean.
    bare = tmp_path / "bare.csv"
    names = ["neutral", "entailment", "contradiction"]
    lines = [f"a {n} {names[n % 3]},b {n},{n % 3}" for n in range(ROWS)]
    bare.write_text("\n".join(["sentence1,sentence2,label", *lines]))
    storage = Storage(str(tmp_path / "store"))
    changed = study.model_copy(update={"test": str(bare)})
    rows = prepare_study(config, changed, 0, storage)
    found = read_texts(storage, rows.sets["test"], np.arange(rows.rows("test")))
    assert {(t.split()[2], NLI[n]) for t, n in zip(found.texts, found.labels, strict=True)} == {
        (name, name) for name in NLI
    }
    columns = study.target.model_copy(update={"labels": ["yes", "no", "maybe"]})
    with pytest.raises(ConfigError, match="which are not the task's"):
        prepare_study(config, study.model_copy(update={"target": columns}), 0, storage)


def test_smaller_subsets_lie_in_larger_ones_with_their_held_out_rows() -> None:
    large, small = Subset(500, 0.1, 3, 200), Subset(500, 0.1, 3, 70)
    assert len(large.ids("held_out")) == 20
    assert len(small.ids("held_out")) == 7
    for part in ("train", "held_out", "all"):
        assert set(small.ids(part)) < set(large.ids(part))
    assert not set(large.ids("held_out")) & set(large.ids("train"))
    assert set(Subset(500, 0.1, 4, 70).ids("all")) != set(small.ids("all"))


def demo(storage: Storage, **grid: Any) -> tuple[StudyRows, list[Group]]:
    study = {"name": "one", "target_language": "xc"}
    study |= dict.fromkeys(("train", "parallel", "test", "native"), "demo")
    small: dict[str, Any] = {"rows": [60, 120], "pairs": [80, 160], "share_pairs": [80]}
    small |= {"test_rows": 40, "methods": [name for name in get_args(RowName) if name != LOCAL]}
    config = BenchmarkConfig.model_validate({"studies": [study], "grid": {**small, **grid}})
    rows = prepare_study(config, config.studies[0], 0, storage)
    base = EncoderRule("steps/encoder/x", "weights", "mean", 48, "fp32")
    return rows, plan_groups(config, rows, base, storage)


def test_shared_data_trains_on_the_sources_of_the_very_pairs(tmp_path: Path) -> None:
    rows, groups = demo(Storage(str(tmp_path)), methods=["data-share"], rows=[60, 120])
    assert len(groups) == 2
    for group in groups:
        (stack,) = group.stacks
        assert stack.pairs is not None
        pair_ids = set(stack.pairs[0].split.ids("all"))
        shared = stack.train[0]
        assert shared.texts.name == "source"
        assert set(shared.split.ids("all")) <= pair_ids
        assert set(shared.split.ids("held_out")) <= set(stack.pairs[0].split.ids("held_out"))
        sizes = [len(part.split.ids("all")) for part in stack.train]
        size = group.members[0].cell.rows
        # 80 pairs: of 120 rows, the last 40 are others.
        assert sizes == ([60] if size == 60 else [80, 40])
        assert group.tune is not None
        assert group.tune.parts == stack.train, "step 1 as well"
    assert rows.has_labelled_pairs


def test_all_else_is_equal_where_langalign_is_omitted(tmp_path: Path) -> None:
    _, groups = demo(Storage(str(tmp_path)), methods=["omission", "langalign"], rows=[60])
    (group,) = groups
    stacks = {
        frozenset((m.cell.method, m.cell.pairs) for m in stack.members): stack
        for stack in group.stacks
    }
    assert frozenset({("omission", None), ("langalign", 160)}) in stacks
    assert group.own is None


def test_baselines_are_step_1s_own_head_and_langalign_uses_the_english_encoder(
    tmp_path: Path,
) -> None:
    _, groups = demo(
        Storage(str(tmp_path)), methods=["english", "native", "translated", "langalign"], rows=[60]
    )
    own = {group.own.cell.method: group for group in groups if group.own}
    assert set(own) == {"english", "native", "translated"}
    assert own["english"].stacks
    assert not own["native"].stacks
    names = {name: [p.texts.name for p in g.tune.parts] for name, g in own.items() if g.tune}
    assert names == {"english": ["train"], "native": ["native"], "translated": ["target"]}


def test_a_digest_covers_what_a_result_depends_on(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))

    def digests(**grid: Any) -> set[str]:
        return {m.digest for g in demo(storage, **grid)[1] for m in g.members}

    every = digests()
    assert digests() == every
    assert digests(aligners=["fc"]) < every
    assert not digests(methods=["english"], test_rows=39) & every
    assert len(every) == sum(len(g.members) for g in demo(storage)[1])


def test_smaller_numbers_of_pairs_add_to_the_cells_that_are_there(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))

    def digests(pairs: list[int], **grid: Any) -> set[str]:
        return {m.digest for g in demo(storage, pairs=pairs, **grid)[1] for m in g.members}

    fixed: dict[str, Any] = {"share_pairs": [160], "measured_pairs": 100}
    before = digests([160], **fixed)
    assert before < digests([80, 160], **fixed)
    # Without the key alignment is measured on other rows.
    assert not before <= digests([80, 160], share_pairs=[160])


def test_no_aligner_is_trained_on_rows_that_alignment_is_measured_on(tmp_path: Path) -> None:
    _, groups = demo(Storage(str(tmp_path)), pairs=[80, 120, 160], measured_pairs=120)
    stacks = [stack for group in groups for stack in group.stacks if stack.pairs]
    assert {len(s.pairs[0].split.ids("all")) for s in stacks if s.pairs} == {80, 120, 160}
    for stack in stacks:
        measured = set(stack.measured[0].split.ids("held_out"))
        assert len(measured) == 12
        trained = [*(stack.pairs or ()), *(p for p in stack.train if p.texts.name == "source")]
        assert not any(measured & set(part.split.ids("train")) for part in trained)


def test_rows_that_are_left_out_have_their_reason(tmp_path: Path) -> None:
    config = paper(tmp_path, "sa-ko")
    storage = Storage(str(tmp_path / "store"))
    grid = config.grid.model_copy(update={"rows": [60, 5000]})
    larger = config.model_copy(update={"grid": grid})
    rows = prepare_study(larger, larger.studies[0], 0, storage)
    assert left_out(config, rows) == ""
    assert left_out(larger, rows) == "native: sizes above the 120 rows that there are"
    unlabelled = replace(rows, has_labelled_pairs=False)
    assert left_out(config, unlabelled) == (
        "translated, data-share, lora, simcse: the pairs have no labels"
    )
    without = {name: texts for name, texts in rows.sets.items() if name != "native"}
    assert left_out(config, replace(rows, sets=without)) == "native: the study names no such rows"
    plain = config.model_copy(update={"tune": config.tune.model_copy(update={"rows": "none"})})
    assert left_out(plain, rows) == (
        "translated-local: it is a tuned encoder, and tune.rows=none; "
        "omission: without step 1 it is the row english"
    )


def test_the_work_of_a_group_is_that_of_its_cells_and_of_step_1(tmp_path: Path) -> None:
    _, groups = demo(Storage(str(tmp_path)), methods=["english", "langalign"], rows=[60])
    (group,) = groups
    assert group.own is not None
    assert group.work_of(set()) == 0
    # Step 1 on 54 rows.
    assert group.work_of({group.own.digest}) == pytest.approx(3 * 54)
    digests = [member.digest for member in group.members]
    so_far = [group.work_of(set(digests[:count])) for count in range(len(digests) + 1)]
    assert so_far == sorted(set(so_far)), "each cell adds to it"
    assert so_far[-1] == group.weight


def test_simcse_and_lora_come_before_the_head_that_is_scored(tmp_path: Path) -> None:
    _, groups = demo(Storage(str(tmp_path)), methods=["lora", "simcse", "translated"], rows=[60])
    found = {group.own.cell.method: group for group in groups if group.own}
    tuned = {name: group.tune for name, group in found.items()}
    assert tuned["lora"] is not None
    assert tuned["lora"].lora is not None
    assert (tuned["lora"].lora.rank, tuned["lora"].lora.alpha) == (8, 8)
    assert tuned["simcse"] is not None
    assert found["simcse"].before is not None
    assert tuned["simcse"].rule.prefix == found["simcse"].before.output(Storage("x")).prefix
    assert found["translated"].before is None


def test_more_rows_than_there_are_is_an_error_but_native_rows_may_run_out(tmp_path: Path) -> None:
    config = paper(tmp_path, "sa-ko")
    storage = Storage(str(tmp_path / "store"))
    base = EncoderRule("steps/encoder/x", "weights", "mean", 48, "fp32")
    grid = config.grid.model_copy(update={"rows": [60, 5000]})
    larger = config.model_copy(update={"grid": grid})
    rows = prepare_study(larger, larger.studies[0], 0, storage)
    with pytest.raises(DataError, match="120 train rows that are not among its pairs, and"):
        plan_groups(larger, rows, base, storage)
    natives = larger.model_copy(update={"grid": grid.model_copy(update={"methods": ["native"]})})
    (group,) = plan_groups(natives, rows, base, storage)
    assert [m.cell.rows for m in group.members] == [60]


def test_a_local_translators_rows_carry_the_english_labels(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    rows, _ = demo(storage, methods=["english"])
    base = EncoderRule("steps/encoder/x", "weights", "mean", 48, "fp32")
    config = BenchmarkConfig.model_validate(
        {
            "studies": [rows.study],
            "grid": {"methods": ["translated-local"], "rows": [60], "local_pairs": [80]},
            "local": {"model": "demo"},
        }
    )
    unit = translator_unit(config, rows, base, 80)
    assert unit.source.split == unit.target.split
    # The rows that it would translate, under the name that the plan looks for.
    translated = replace(rows, sets={**rows.sets, "local-80": rows.sets["train"]})
    (group,) = plan_groups(config, translated, base, storage)
    assert group.tune is not None
    assert [part.of_target for part in group.tune.parts] == [True]
    assert [member.cell.pairs for member in group.members] == [80]
