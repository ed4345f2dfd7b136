"""Every row of the tables on a language whose answer is known: its words say the opposite.

`good` is translated `dull`, and `dull` is `good`; all other words stay. So a head that reads the
target language as if it were English is always wrong, and one that learned the translation, by
whatever way, is always right.
"""

import io
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_encoder import write_encoder

from cluster import benchmark_group
from cluster.benchmark import shared_step_1
from cluster.benchmark_data import prepare_study
from cluster.benchmark_embed import Embedder
from cluster.benchmark_group import GroupRun, tune_encoder
from cluster.benchmark_plan import Group, plan_groups
from cluster.embed import EncoderRule, TextSet
from cluster.encoders import store_encoder, weights_digest
from cluster.text_units import TextPart
from cluster.texts import read_texts
from langalign.benchmarkgrid import LOCAL, BenchmarkConfig
from langalign.benchmarkresult import CellResult, CellStore
from langalign.outputs import StepOutput, digest_of
from langalign.stacking import TrialStack
from langalign.storage import Storage
from langalign.trials import TrialData

OPPOSITE = {"good": "dull", "dull": "good"}
LABELS = {"good": "positive", "dull": "negative"}
FILLERS = ("film", "plot", "end", "story", "cast", "scene", "actor", "music", "i", "it", "was")
RIGHT, WRONG = 0.9, 0.1
GRID = {
    "methods": [
        *("english", "native", "translated", "omission", "langalign", "rev-langalign"),
        *("data-share", "lora", "simcse"),
    ],
    "aligners": ["fc", "ae", "linear", "procrustes", "procrustes-uncentred", "residual"],
    "rows": [120],
    "pairs": [160],
    "share_pairs": [160],
    "seeds": [0],
}
# The metric of the paper is F1; accuracy tells always wrong from always right.
STUDY = {"name": "opposite", "target_language": "xx", "task": {"metric": "accuracy"}}
SETTINGS: dict[str, Any] = {
    "encoder": {"pooling": "mean", "max_length": 16},
    "tune": {"learning_rate": 1e-3, "max_epochs": 6, "batch_size": 16},
    # No aligner can also keep the target language: its `good` is the English `good`.
    "aligner": {
        "identity_pairs": False,
        "learning_rate": 2e-3,
        "max_epochs": 60,
        "patience": 60,
        "batch_size": 16,
    },
    "head": {"learning_rate": 1e-2, "max_epochs": 10},
    "lora": {"learning_rate": 1e-2, "max_epochs": 8},
    "simcse": {"learning_rate": 1e-4, "max_epochs": 1},
}


def write_rows(folder: Path) -> dict[str, str]:
    """Files of 200 rows a role; no text is in two of them, but the first 40 pairs' in train."""
    sentences = [" ".join(words) for words in itertools.permutations(FILLERS, 3)]
    random.Random(0).shuffle(sentences)
    texts = iter(f"{word} {text}" for text, word in zip(sentences, itertools.cycle(OPPOSITE)))
    drawn = {role: list(itertools.islice(texts, 200)) for role in ("train", "native", "test", "p")}
    rows: dict[str, list[dict[str, str]]] = {
        "train": [labelled(text) for text in [*drawn["train"], *drawn["p"][:40]]],
        "native": [labelled(text) | {"text": translated(text)} for text in drawn["native"]],
        "test": [labelled(text) | {"text": translated(text)} for text in drawn["test"]],
        "parallel": [
            {"source": text, "target": translated(text), "label": labelled(text)["label"]}
            for text in drawn["p"]
        ],
    }
    for role, made in rows.items():
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return {role: str(folder / f"{role}.jsonl") for role in rows}


def labelled(text: str) -> dict[str, str]:
    return {"text": text, "label": LABELS[text.split()[0]]}


def translated(text: str) -> str:
    return " ".join(OPPOSITE.get(word, word) for word in text.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchmarkConfig, Storage, EncoderRule]:
    folder = tmp_path_factory.mktemp("opposite")
    study = {**STUDY, **write_rows(folder)}
    config = BenchmarkConfig.model_validate({"studies": [study], "grid": GRID, **SETTINGS})
    storage = Storage(str(folder / "store"))
    output = store_encoder(storage, str(write_encoder(folder / "encoder")), None)
    rule = EncoderRule(output.prefix, weights_digest(output), "mean", 16, "fp32")
    return config, storage, rule


@pytest.fixture(scope="module")
def results(made: tuple[BenchmarkConfig, Storage, EncoderRule]) -> list[CellResult]:
    config, storage, rule = made
    rows = prepare_study(config, config.studies[0], 0, storage)
    return run(plan_groups(config, rows, rule, storage), storage)


def run(groups: list[Group], storage: Storage) -> list[CellResult]:
    """The cells of groups, one group after the other in this process."""
    store = CellStore(storage, "runs/opposite/benchmark")
    silent = SimpleNamespace(post=SimpleNamespace(remote=lambda progress: None))
    found = []
    for group in groups:
        GroupRun(group, store, silent, torch.device("cpu")).run()
        found += [store.read(member.digest) for member in group.members]
    return found


def of_local_translator(
    storage: Storage, texts: TextSet, name: str, translate: Callable[[str], str]
) -> TextSet:
    """English rows as a local translator leaves them: the same shards with other texts."""
    keys = []
    for shard, key in enumerate(texts.shards):
        table = pq.read_table(io.BytesIO(storage.read_bytes(key)))
        said = pa.array([translate(text) for text in table["text"].to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index("text"), "text", said)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        keys.append(f"local/{name}-{shard}.parquet")
        storage.write_bytes(keys[-1], sink.getvalue())
    return replace(texts, name=name, digest=digest_of(name), language="xx", shards=tuple(keys))


@pytest.mark.parametrize(
    "method",
    ["native", "translated", "langalign", "rev-langalign", "data-share", "lora", "simcse"],
)
def test_a_row_that_learned_the_translation_is_right(
    method: str, results: list[CellResult]
) -> None:
    found = {r.cell.aligner: r.scores for r in results if r.cell.method == method}
    assert found
    assert all(scores["accuracy"] > RIGHT for scores in found.values()), found


@pytest.mark.parametrize("method", ["english", "omission"])
def test_a_row_that_reads_it_as_english_is_wrong(method: str, results: list[CellResult]) -> None:
    (result,) = [r for r in results if r.cell.method == method]
    assert result.scores["accuracy"] < WRONG


def test_a_local_translators_row_is_as_right_as_its_translations(
    made: tuple[BenchmarkConfig, Storage, EncoderRule],
) -> None:
    """An exact one's is always right; of one that leaves every text English, always wrong."""
    config, storage, rule = made
    grid = config.grid.model_copy(update={"methods": [LOCAL], "local_pairs": [100, 160]})
    config = config.model_copy(update={"grid": grid})
    rows = prepare_study(config, config.studies[0], 0, storage)
    english = rows.sets["train"]
    sets = {
        "local-100": of_local_translator(storage, english, "idle", lambda text: text),
        "local-160": of_local_translator(storage, english, "exact", translated),
    }
    rows = replace(rows, sets=rows.sets | sets)
    idle, exact = run(plan_groups(config, rows, rule, storage), storage)
    assert (idle.cell.pairs, exact.cell.pairs) == (100, 160)
    assert {idle.cell.method, exact.cell.method} == {LOCAL}
    assert idle.scores["accuracy"] < WRONG
    assert exact.scores["accuracy"] > RIGHT


def test_aligned_sentences_lie_nearer_to_their_translations(results: list[CellResult]) -> None:
    found = [r.alignment for r in results if r.cell.method == "langalign"]
    # A tenth of 160 pairs is held out.
    assert {alignment["before"]["pairs"] for alignment in found} == {16}
    assert all(a["after"]["cosine"] > a["before"]["cosine"] for a in found)


def test_every_cell_says_what_its_training_took(results: list[CellResult]) -> None:
    for result in results:
        assert result.seconds["tune"] > 0
        is_own_head = result.cell.method in ("english", "native", "translated", "lora", "simcse")
        assert is_own_head == ("head" not in result.seconds)
        # Step 1's own head needs no embeddings but those of the rows to test on.
        assert is_own_head == ("embed" not in result.seconds)
        assert is_own_head or result.seconds["embed"] > 0


def test_a_local_translators_cell_is_charged_for_its_own_rows(
    made: tuple[BenchmarkConfig, Storage, EncoderRule],
) -> None:
    config, storage, rule = made
    grid = config.grid.model_copy(update={"methods": [LOCAL], "local_pairs": [160], "rows": [60]})
    config = config.model_copy(update={"grid": grid})
    rows = prepare_study(config, config.studies[0], 3, storage)
    exact = of_local_translator(storage, rows.sets["train"], "charged", translated)
    for step, info in (
        ("training", {"seconds": 8.0}),
        ("translating", {"seconds": 4.0, "rows": 120}),
    ):
        StepOutput(storage, step).finish({}, info)
    made_by = {exact.name: ("training", "translating")}
    rows = replace(rows, sets=rows.sets | {"local-160": exact}, made_by=made_by)
    (result,) = run(plan_groups(config, rows, rule, storage), storage)
    assert result.seconds["translator"] == 10.0


def test_step_1_is_made_once_for_the_studies_that_share_it(
    made: tuple[BenchmarkConfig, Storage, EncoderRule],
) -> None:
    config, storage, rule = made
    methods = ["english", "native"]
    config = config.model_copy(update={"grid": config.grid.model_copy(update={"methods": methods})})
    rows = prepare_study(config, config.studies[0], 5, storage)
    groups = plan_groups(config, rows, rule, storage)
    assert shared_step_1(groups, storage) == {}
    other = replace(rows, study=rows.study.model_copy(update={"name": "other"}))
    groups += plan_groups(config, other, rule, storage)
    shared = shared_step_1(groups, storage)
    assert list(shared.values()) == groups[:2]
    silent = SimpleNamespace(post=SimpleNamespace(remote=lambda progress: None))
    tune_encoder(groups[0], storage, silent, torch.device("cpu"))
    assert list(shared_step_1(groups, storage).values()) == groups[1:2]


def test_what_ends_one_stack_leaves_the_others_alone(
    made: tuple[BenchmarkConfig, Storage, EncoderRule], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, storage, rule = made
    methods = ["omission", "langalign", "rev-langalign"]
    grid = config.grid.model_copy(update={"methods": methods, "aligners": ["linear"]})
    config = config.model_copy(update={"grid": grid})
    rows = prepare_study(config, config.studies[0], 4, storage)
    groups = plan_groups(config, rows, rule, storage)

    class Reversed(TrialStack):
        def __init__(self, options: Any, data: TrialData, *rest: Any, **named: Any) -> None:
            if data.direction == "reverse":
                raise RuntimeError("CUDA out of memory")
            super().__init__(options, data, *rest, **named)

    monkeypatch.setattr(benchmark_group, "TrialStack", Reversed)
    found = {result.cell.method: result for result in run(groups, storage)}
    assert found["rev-langalign"].reason == "RuntimeError: CUDA out of memory"
    assert all(found[method].is_done for method in ("omission", "langalign"))


def test_every_manifest_says_what_the_cell_was_made_from(
    made: tuple[BenchmarkConfig, Storage, EncoderRule], results: list[CellResult]
) -> None:
    *_, rule = made
    for result in results:
        found, cell = result.made_from, result.cell
        assert found["encoder"]["weights"] == rule.weights
        assert found["versions"]["torch"] == version("torch")
        assert found["step_1"]["options"]["options"]["seed"] == 0
        assert (found["step_1"]["lora"] is not None) == (cell.method == "lora")
        assert ("simcse" in found) == (cell.method == "simcse")
        is_own_head = cell.method in ("english", "native", "translated", "lora", "simcse")
        assert ("steps_2_and_3" in found) != is_own_head
        if not is_own_head:
            steps = found["steps_2_and_3"]
            assert steps["options"]["shape"]["kind"] == cell.aligner
            assert steps["rows"][0]["drawn"]["size"] <= cell.rows
            assert [side["texts"] for side in steps["pairs"]] == ["source", "target"]


def test_no_training_row_is_among_the_pairs(
    made: tuple[BenchmarkConfig, Storage, EncoderRule],
) -> None:
    config, storage, _ = made
    rows = prepare_study(config, config.studies[0], 1, storage)
    sides = [rows.sets[name] for name in ("train", "source")]
    train, source = (
        set(read_texts(storage, texts, np.arange(sum(texts.shard_rows))).texts) for texts in sides
    )
    assert len(train) == 120
    assert not train & source


def test_a_part_of_what_is_embedded_is_not_embedded_again(
    made: tuple[BenchmarkConfig, Storage, EncoderRule],
) -> None:
    config, storage, rule = made
    rows = prepare_study(config, config.studies[0], 2, storage)
    parts = [
        TextPart(rows.sets["train"], rows.subset("train", size), of_target=False)
        for size in (60, 120)
    ]
    before = set(storage.folders("embeddings"))
    embedder = Embedder(storage, rule, torch.device("cpu"), parts)
    few, many = (embedder.rows(part, "all").embeddings for part in parts)
    assert len(set(storage.folders("embeddings")) - before) == 1
    small, large = (part.split.ids("all") for part in parts)
    places = np.isin(large, small)
    assert torch.equal(few, many[torch.from_numpy(places)])
    assert embedder.seconds(parts[:1]) == pytest.approx(embedder.seconds(parts[1:]) / 2)
    assert embedder.seconds(parts) == embedder.seconds(parts[1:]), "each row once"
