"""What undisturbed runs give: caching, workers, variants of the method, the published model."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from head import Head
from tiny import Finished, Run, find_step, forget, scores, write_pair_inputs

import langalign
from langalign.outputs import StepOutput
from langalign.storage import Storage

pytestmark = pytest.mark.slow

ALONE = ("compare.methods=[]", "compare.aligners=[]")


def test_a_second_run_is_cached_and_starts_no_ray(
    inputs: Path, storage: Storage, undisturbed: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    run = Run(inputs, storage)
    summary = run()
    assert scores(summary) == scores(undisturbed.summary)
    assert summary["models"] == [
        {**model, "uri": storage.uri(f"models/tiny/{model['version']}")}
        for model in undisturbed.summary["models"]
    ]
    assert [name for name, line in run.lines().items() if "cached" in line] == [
        *("tune", "embed", "align", "head")
    ]


def test_stop_after_align_leaves_step_3_alone(inputs: Path, storage: Storage) -> None:
    forget(storage, "head")
    run = Run(inputs, storage, "stop_after=align")
    summary = run()
    assert summary["status"] == "stopped after align"
    assert summary["results"] == summary["models"] == []
    assert not storage.folders("steps/head")
    assert "head" not in run.lines()


def test_the_published_model_predicts_what_the_pipeline_counted(
    inputs: Path, undisturbed: Finished
) -> None:
    model = langalign.load(undisturbed.summary["models"][0]["uri"])
    with (inputs.parent / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [row["text"] for row in rows]
    probabilities = model.predict_proba(texts)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)

    predicted = [model.labels.index(label) for label in model.predict(texts)]
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, ([int(row["label"]) for row in rows], predicted), 1)
    head = find_step(undisturbed.storage, "head", "langalign", "ae")
    counts = StepOutput(undisturbed.storage, head).info()["counts"]["test"]
    assert np.array(counts).tolist() == confusion.tolist()


def test_two_workers_run_all_steps_and_repeat_themselves(
    inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    forget(storage, "tune", "align", "head", "embeddings")
    first = Run(inputs, storage, "cluster.workers=2")()
    assert all(math.isfinite(value) for value in scores(first).values())
    assert scores(first).keys() == scores(undisturbed.summary).keys()
    aligners = weights_of(storage, "align")
    forget(storage, "align")
    assert scores(Run(inputs, storage, "cluster.workers=2")()) == scores(first)
    assert weights_of(storage, "align") == aligners


@pytest.mark.parametrize("trained", ["aligner", "encoder"])
def test_step_3_trains_more_than_the_head_where_asked(
    trained: str, inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    run = Run(inputs, storage, f"head.train=[head,{trained}]", *ALONE)
    found = scores(run())
    name = ("langalign", "ae", "xc", "test", "accuracy")
    assert 0 <= found[name] <= 1
    step = "head" if trained == "aligner" else "finetune"
    folder = _chosen(storage, step, undisturbed.storage)
    before = undisturbed.storage.folders("steps/align")
    kept = [f"steps/align/{digest}/aligner.safetensors" for digest in before]
    aligner = storage.read_bytes(f"{folder}/aligner.safetensors")
    assert (aligner in [storage.read_bytes(key) for key in kept]) == (trained == "encoder")


def test_a_head_on_moved_rows_keeps_the_aligner_and_the_baselines(
    inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    run = Run(inputs, storage, "head.residuals=true")
    found, before = scores(run()), scores(undisturbed.summary)
    assert "cached" in run.lines()["align"]
    aligned = {name for name in found if name[0] == "langalign" and name[3] == "test"}
    assert {name for name in found if found[name] != before[name]} & aligned
    baselines = {name for name in found if name[0] != "langalign"}
    assert {name: found[name] for name in baselines} == {name: before[name] for name in baselines}


def test_a_pair_task_aligned_in_reverse_runs_to_a_published_model(
    head: Head, tmp_path: Path
) -> None:
    inputs = write_pair_inputs(tmp_path, head.address)
    storage = Storage(str(tmp_path / "store"))
    summary = Run(inputs, storage, "aligner.direction=reverse")()
    found = scores(summary)
    assert ("rev-langalign", "linear", "xc", "test", "macro_f1") in found
    assert ("rev-langalign", "linear", "xc", "test", "accuracy") in found
    model = langalign.load(summary["models"][0]["uri"])
    assert model.is_pair_task
    assert model.model.direction == "reverse"
    pair = ("one thing", "another thing")
    embedding = torch.from_numpy(model.encoder.embed([pair[0]], [pair[1]]))
    with torch.inference_mode():
        plain = model.model.head(embedding).softmax(-1)
        aligned = model.model.head(model.model.aligner(embedding)).softmax(-1)
    # The target language is brought to English; English reaches the head as it is.
    assert not np.allclose(plain, aligned, atol=1e-6)
    assert model.predict_proba([pair], language="en") == pytest.approx(plain.numpy(), abs=1e-6)
    assert model.predict_proba([pair]) == pytest.approx(aligned.numpy(), abs=1e-6)


def weights_of(storage: Storage, step: str) -> dict[str, bytes]:
    """All weight files of a step, by key."""
    keys = [stored.key for stored in storage.list(f"steps/{step}")]
    return {key: storage.read_bytes(key) for key in keys if key.endswith(".safetensors")}


def _chosen(storage: Storage, step: str, before: Storage) -> str:
    (new,) = set(storage.folders(f"steps/{step}")) - set(before.folders(f"steps/{step}"))
    return f"steps/{step}/{new}"
