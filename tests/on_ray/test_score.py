"""`jobs/score.py` on a tiny model of the real pipeline: same counts as training, clear refusals."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
import torch
import uvicorn
from calls import Job
from head import Head
from tiny import TEST_ROWS, Run, wait_for, write_inputs

from cluster.ports import free_ports
from cluster.published import find_model, usable_baselines
from jobs import score
from langalign import counterpart
from langalign.metrics import confusion
from langalign.model import load_model
from langalign.storage import Storage
from serve.api import create_api
from serve.replica import assemble
from serve.settings import Settings
from serve.telemetry import Observer

pytestmark = pytest.mark.slow

# Five shards: two actors on two cores have to get by without a third.
SHARD_ROWS = "cluster.shard_rows=20"


@dataclass(frozen=True)
class Trained:
    """A storage root with one run, its summary, and its test rows."""

    root: Path
    summary: dict[str, Any]
    test: Path


@pytest.fixture(scope="module")
def trained(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("score")
    overrides = [
        SHARD_ROWS,
        "cluster.embed_actors=2",
        # F1 of one class would choose a head that always says it.
        "task.metric=macro_f1",
        # English passes through the aligner and the target language does not.
        "aligner.identity_pairs=false",
        "aligner.kind=linear",
        "compare.aligners=[]",
        "head.max_epochs=20",
        "head.learning_rate=1e-2",
    ]
    root = folder / "store"
    summary = Run(write_inputs(folder, head.address), Storage(str(root)), *overrides)()
    return Trained(root, summary, folder / "test.csv")


@pytest.fixture
def job(head: Head, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(score.main, capsys, monkeypatch, f"cluster.address={head.address}")


def scored(summary: dict[str, Any], methods: set[str]) -> set[tuple[Any, ...]]:
    return {
        (row["method"], row["aligner"], row["language"], row["metric"], row["value"])
        for row in summary["results"]
        if row["split"] == "test" and row["language"] == "xc" and row["method"] in methods
    }


def test_scores_are_those_of_the_training_run(trained: Trained, job: Job) -> None:
    ended = job(trained.root, "model=tiny", f"data={trained.test}", SHARD_ROWS)
    summary = ended.summary()
    methods = {"langalign", "english", "omission"}
    expected = scored(trained.summary, methods)
    assert len(expected) == 6  # three methods by macro F1 and accuracy
    assert scored(summary, methods) == expected
    assert summary["notes"] == []
    assert summary["models"] == trained.summary["models"]

    counts = summary["confusion"]
    assert sum(map(sum, counts)) == TEST_ROWS == summary["data"]["rows"]
    assert [row["rows"] for row in summary["classes"]] == [sum(row) for row in counts]
    hits = counts[0][0] + counts[1][1]
    assert ("langalign", "linear", "xc", "accuracy", hits / TEST_ROWS) in expected
    for title in ("Scores by class", "Confusion, in rows", "English only", "LangAlign omitted"):
        assert title in ended.out

    stored = json.loads((trained.root / "runs/score/summary.json").read_text())
    assert stored == summary
    assert (trained.root / "runs/score/comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def service(trained: Trained) -> Iterator[str]:
    """The URL of a service of the model; Ray Serve would only stand between."""
    settings = Settings(storage=str(trained.root), api_keys_file=None, device="cpu")
    parts = assemble(settings, ["tiny"], Observer())
    api = create_api(parts.service, settings.limits(), None)
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started, "the service")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_a_service_scores_as_its_model_does(trained: Trained, job: Job, service: str) -> None:
    rows = ("model=tiny", f"data={trained.test}", SHARD_ROWS)
    summary = job(trained.root, *rows, f"service={service}", "name=asked").summary()
    assert scored(summary, {"langalign"}) == scored(trained.summary, {"langalign"})
    assert summary["data"]["rows"] == TEST_ROWS
    assert summary["models"] == trained.summary["models"]
    assert "a service answers with its model only" in summary["notes"][0]


def test_another_version_than_the_service_has_is_refused(
    trained: Trained, job: Job, service: str
) -> None:
    named = ("model=tiny", "version=v-000000000000")
    ended = job(trained.root, *named, f"data={trained.test}", f"service={service}")
    assert ended.status == 2
    assert "version=v-000000000000: " in ended.refusal()


def test_a_service_that_is_not_there(trained: Trained, job: Job) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    ended = job(trained.root, "model=tiny", f"data={trained.test}", f"service={url}")
    assert ended.status == 1
    assert url in ended.refusal()


def test_without_data_a_model_of_the_demo_is_scored_on_the_demos_rows(
    trained: Trained, job: Job
) -> None:
    summary = job(trained.root, "model=tiny", f"rows={TEST_ROWS}", SHARD_ROWS).summary()
    assert summary["data"]["source"] == "demo"
    # The run's test rows are the first of the demo's.
    assert scored(summary, {"langalign"}) == scored(trained.summary, {"langalign"})


def test_without_data_another_model_asks_for_rows(
    trained: Trained, job: Job, tmp_path: Path
) -> None:
    shutil.copytree(trained.root / "models", tmp_path / "models")
    (path,) = tmp_path.glob("models/tiny/*/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_language": "ko"}))
    ended = job(tmp_path, "model=tiny")
    assert ended.status == 2
    assert ended.refusal().endswith("give labelled ko rows, as in data=test.csv")


def test_english_rows_enter_on_the_english_side(trained: Trained, job: Job, tmp_path: Path) -> None:
    place = f"{trained.root}/models/tiny"
    table = counterpart.labelled_table(TEST_ROWS, 0, "en", split="test")
    pyarrow.csv.write_csv(table, tmp_path / "english.csv")
    arguments = (f"data={tmp_path / 'english.csv'}", "language=en", "baselines=false")
    summary = job(trained.root, f"model={place}", "name=english", *arguments).summary()
    assert {(row["method"], row["language"]) for row in summary["results"]} == {("langalign", "en")}
    model = load_model(place)
    said = model.predict_proba(table["text"].to_pylist(), language="en").argmax(axis=1)
    expected = confusion(torch.tensor(table["label"].to_pylist()), torch.from_numpy(said), 2)
    assert summary["confusion"] == expected.tolist()
    as_target = model.predict_proba(table["text"].to_pylist(), language="xc").argmax(axis=1)
    assert (as_target != said).any()


def test_columns_and_labels_of_the_rows_own_and_repeats_count(
    trained: Trained, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("review,mood\nfoo,bad\nfoo,bad\nfoo,good\n", encoding="utf-8")
    columns = ("task.text=review", "task.label=mood", "task.labels=[bad, good]")
    summary = job(trained.root, "model=tiny", f"data={path}", *columns).summary()
    assert [row["rows"] for row in summary["classes"]] == [2, 1]
    assert [row["label"] for row in summary["classes"]] == ["negative", "positive"]


def test_an_altered_weight_file_is_refused(trained: Trained, job: Job, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(trained.root / "models", root / "models")
    (weights,) = root.glob("models/tiny/*/head.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ended = job(root, "model=tiny", f"data={trained.test}")
    assert ended.status == 1
    line = ended.refusal()
    assert "head.safetensors has sha256" in line
    assert "publish the model again" in line


def test_baselines_that_cannot_be_compared_are_left_out_with_a_note(
    trained: Trained, tmp_path: Path
) -> None:
    model = find_model(Storage(str(trained.root)), "tiny")
    heads, notes = usable_baselines(model)
    assert set(heads) == {"english", "omission"}
    assert notes == []
    shutil.copytree(trained.root / "models", tmp_path / "models")
    moved = find_model(Storage(str(tmp_path)), "tiny")
    heads, notes = usable_baselines(moved)
    assert heads == {}
    assert [note.split(":")[0] for note in notes] == ["english", "omission"]
    assert all("is gone" in note for note in notes)

    # Step 1's own head on another encoder: the step output's encoder is not the model's.
    shutil.copytree(trained.root / "steps", tmp_path / "steps")
    manifest = tmp_path / model.manifest.parents["english"] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["encoder/model.safetensors"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    heads, notes = usable_baselines(moved)
    assert set(heads) == {"omission"}
    assert "its encoder is not the model's" in notes[0]


def test_a_model_that_does_not_exist(trained: Trained, job: Job, tmp_path: Path) -> None:
    ended = job(tmp_path)
    assert ended.status == 1
    assert "no model demo" in ended.refusal()
    assert ended.refusal().endswith("run python jobs/train.py first")
    ended = job(trained.root, "model=nope")
    assert ended.status == 1
    assert "no model nope" in ended.refusal()
    assert "choose from tiny" in ended.refusal()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["language=fr"], ["language=fr", "xc and en"]),
        (["task.labels=[a]"], ["task.labels", "negative, positive"]),
        (["task.text_pair=b"], ["task.text_pair=b", "single texts"]),
    ],
    ids=["language", "labels", "pair"],
)
def test_arguments_that_do_not_fit_the_model(
    trained: Trained, job: Job, arguments: list[str], words: list[str]
) -> None:
    ended = job(trained.root, "model=tiny", f"data={trained.test}", *arguments)
    assert ended.status == 2
    assert all(word in ended.refusal() for word in words), ended.refusal()


def test_one_version_is_named_once(trained: Trained, job: Job) -> None:
    place = trained.summary["models"][0]["uri"]
    ended = job(trained.root, f"model={place}", "version=v-1", f"data={trained.test}")
    assert ended.status == 2
    assert ended.refusal().startswith(f"error: version=v-1: model={place} names version v-")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,mood\nfoo,1\n", ["rows.csv", "no column 'label'", "task.label"]),
        ("text,label\nfoo,1\nbar,great\n", ["rows.csv row 3", "'great'", "0 negative, 1 positive"]),
        ("text,label\n", ["rows.csv", "no rows"]),
    ],
    ids=["column", "label", "empty"],
)
def test_rows_that_break_the_schema(
    trained: Trained, job: Job, tmp_path: Path, content: str, words: list[str]
) -> None:
    (tmp_path / "rows.csv").write_text(content, encoding="utf-8")
    ended = job(trained.root, "model=tiny", f"data={tmp_path / 'rows.csv'}")
    assert ended.status == 1
    assert all(word in ended.refusal() for word in words), ended.refusal()
