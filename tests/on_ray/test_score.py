"""`jobs/score.py` on a tiny model of the real pipeline: same counts as training, clear refusals."""

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.pipeline import Pipeline
from cluster.score import find_model, usable_baselines
from jobs import score
from langalign import counterpart
from langalign.config import PipelineConfig, load_config
from langalign.metrics import confusion
from langalign.model import load_model
from langalign.pretraining import pretrain
from langalign.storage import Storage

pytestmark = pytest.mark.slow

TEST_ROWS = 150


@dataclass(frozen=True)
class Trained:
    """A storage root with one run, its summary, and files of rows beside it."""

    root: Path
    summary: dict[str, Any]
    test: Path
    english: Path


def write_rows(path: Path, language: counterpart.Language) -> Path:
    table = counterpart.labelled_table(TEST_ROWS, 0, language, split="test")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("score")
    texts = [counterpart.unpaired_texts(400, 0, code) for code in ("en", "xc")]
    encoder = folder / "encoder"
    pretrain(
        *texts, encoder, mlm_steps=20, contrastive_steps=20, batch_size=32, hidden_size=32, layers=1
    )
    test = write_rows(folder / "test.csv", counterpart.COUNTERPART)
    english = write_rows(folder / "english.csv", counterpart.ENGLISH)
    overrides = [
        "name=tiny",
        f"encoder.name={encoder}",
        "encoder.pooling=mean",
        "encoder.max_length=64",
        "data.target_language=xc",
        f"data.test={test}",
        "data.train_rows=300",
        "data.parallel_rows=200",
        "tune.max_epochs=2",
        "tune.learning_rate=1e-3",
        "aligner.kind=linear",
        "head.max_epochs=10",
        "head.learning_rate=1e-2",
        "compare.aligners=[]",
        # Two actors on two cores have to get by without a third.
        "cluster.shard_rows=64",
    ]
    config = load_config(PipelineConfig, None, overrides)
    root = folder / "store"
    summary = Pipeline(config, Storage(str(root)), Console(quiet=True)).run()
    return Trained(root, summary, test, english)


class Ended:
    """Exit status and output of one call of the job in this process."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def summary(self) -> dict[str, Any]:
        assert self.status == 0, self.err
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    def refusal(self) -> str:
        """The line of an ended run without a result."""
        lines = [line for line in self.err.splitlines() if line.startswith(("failed:", "error:"))]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err + self.out
        return lines[0]


class Job:
    """Calls `main` with a storage and arguments."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.capsys, self.patch = capsys, patch

    def __call__(self, root: Path, *arguments: str) -> Ended:
        argv = ["score.py", "--json", f"storage={root}", *arguments]
        self.patch.setattr(sys, "argv", argv)
        status = score.main()
        return Ended(status, *self.capsys.readouterr())


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    yield Job(capsys, monkeypatch)


def test_rows(summary: dict[str, Any], methods: set[str], language: str) -> set[tuple[Any, ...]]:
    return {
        (row["method"], row["aligner"], row["metric"], row["value"])
        for row in summary["results"]
        if row["split"] == "test" and row["method"] in methods and row["language"] == language
    }


test_rows.__test__ = False  # type: ignore[attr-defined]


def test_scores_are_those_of_the_training_run(trained: Trained, job: Job) -> None:
    ended = job(trained.root, "model=tiny", f"data={trained.test}", "cluster.shard_rows=64")
    summary = ended.summary()
    methods = {"langalign", "english", "omission"}
    expected = test_rows(trained.summary, methods, "xc")
    assert len(expected) == 6  # three methods by F1 and accuracy
    assert test_rows(summary, methods, "xc") == expected
    assert summary["notes"] == []
    assert summary["models"] == trained.summary["models"]

    counts = summary["confusion"]
    assert sum(map(sum, counts)) == TEST_ROWS == summary["data"]["rows"]
    assert [row["rows"] for row in summary["classes"]] == [sum(row) for row in counts]
    hits = counts[0][0] + counts[1][1]
    assert ("langalign", "linear", "accuracy", hits / TEST_ROWS) in expected
    for title in ("Scores by class", "Confusion, in rows", "English only", "LangAlign omitted"):
        assert title in ended.out

    stored = json.loads((trained.root / "runs/score/summary.json").read_text())
    assert stored == summary
    assert (trained.root / "runs/score/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_english_rows_enter_on_the_english_side(trained: Trained, job: Job) -> None:
    place = f"{trained.root}/models/tiny"
    summary = job(
        trained.root,
        f"model={place}",
        f"data={trained.english}",
        "language=en",
        "baselines=false",
        "name=english",
    ).summary()
    assert {(row["method"], row["language"]) for row in summary["results"]} == {("langalign", "en")}
    table = counterpart.labelled_table(TEST_ROWS, 0, counterpart.ENGLISH, split="test")
    model = load_model(place)
    said = model.predict_proba(table["text"].to_pylist(), language="en").argmax(axis=1)
    import torch

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
        (["version=v-1", "model=ROOT/models/tiny/latest-but-not"], []),
    ],
    ids=["language", "labels", "pair", "version"],
)
def test_arguments_that_cannot_work(
    trained: Trained, job: Job, arguments: list[str], words: list[str]
) -> None:
    version = trained.summary["models"][0]["version"]
    place = f"{trained.root}/models/tiny"
    if not words:
        arguments, words = [f"model={place}/{version}", "version=v-1"], ["version=v-1", version]
    ended = job(trained.root, f"model={place}", f"data={trained.test}", *arguments)
    assert ended.status == 2
    assert all(word in ended.refusal() for word in words), ended.refusal()


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
