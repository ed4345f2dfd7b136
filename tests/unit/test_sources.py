"""Parallel text, line-aligned files, saved data sets and hub data sets."""

from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from seaweed import SeaweedServer

from langalign.data import PARALLEL_SCHEMA, read_labelled, read_parallel
from langalign.errors import DataError, StorageError
from langalign.storage import Storage
from langalign.tasks import PRESETS, Task

SENTIMENT, NLI = PRESETS["sentiment"], PRESETS["nli"]


def parallel(spec: object, **options: Any) -> list[dict[str, Any]]:
    stream = read_parallel(str(spec), source_language="en", target_language="ko", **options)
    batches = list(stream)
    assert all(batch.schema == PARALLEL_SCHEMA for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def labelled(spec: object, task: Task = SENTIMENT) -> list[tuple[str, int]]:
    batches = read_labelled(str(spec), task, language="en", require_all_labels=False)
    return [(row["text"], row["label"]) for batch in batches for row in batch.to_pylist()]


def message(spec: object, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        parallel(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- parallel rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["source,target", "en,ko", "translation.en,translation.ko"])
def test_the_two_sides_may_be_named_by_role_or_language(tmp_path: Path, header: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"{header}\nhello,안녕\nhello,여보세요\nhello,안녕\n", encoding="utf-8")
    rows = parallel(path)
    assert [(row["id"], row["source"], row["target"]) for row in rows] == [
        (0, "hello", "안녕"),
        (1, "hello", "여보세요"),  # two translations of one sentence are both kept
    ]
    assert {row["source_pair"] for row in rows} == {row["label"] for row in rows} == {None}


def test_labels_are_read_where_a_row_has_one(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("source,target,label\ngood,좋다,positive\nbad,나쁘다,0\nso,그래,\n")
    assert [row["label"] for row in parallel(path, task=SENTIMENT)] == [1, 0, None]
    assert [row["label"] for row in parallel(path)] == [None, None, None]
    path.write_text("source,target,label\ngood,좋다,fine\n")
    assert "row 2, column 'label': label 'fine'" in message(path, task=SENTIMENT)


def test_a_task_on_pairs_needs_both_pair_columns(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("source,source_pair,target,target_pair\na,b,ㄱ,ㄴ\n")
    (row,) = parallel(path, task=NLI)
    assert [row[name] for name in PARALLEL_SCHEMA.names] == [0, "a", "ㄱ", "b", "ㄴ", None]
    path.write_text("source,target,target_pair\na,ㄱ,ㄴ\n")
    assert "no column 'source_pair'" in message(path, task=NLI)


def test_a_parallel_file_with_other_columns_names_what_it_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("english,korean\nhello,안녕\n")
    text = message(path)
    assert "no column 'source' or 'en' or 'translation.en' (found: english, korean)" in text
    assert "rename" in text


def test_line_aligned_files(tmp_path: Path) -> None:
    source, target = tmp_path / "a.en.txt", tmp_path / "b.ko.txt"
    source.write_bytes("one\u2028line\r\n\ufefftwo\n".encode())  # only \n ends a line
    target.write_bytes("하나\n둘".encode())
    rows = parallel(f"{source}|{target}")
    assert [(row["source"], row["target"]) for row in rows] == [
        ("one\u2028line", "하나"),
        ("\ufefftwo", "둘"),
    ]
    target.write_text("하나\n둘\n셋\n")
    text = message(f"{source}|{target}")
    assert f"{source} has 2 lines and {target} has 3" in text
    target.write_text("하나\n\n")
    assert "row 2, column 'target': the text is blank" in message(f"{source}|{target}")
    assert "no such file" in message(f"{source}|{target}.gone")
    assert "names 3 files" in message("a|b|c")


# --- data sets of the datasets library ---------------------------------------------------------


def reviews(names: list[str]) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    rows = {"text": ["좋은 영화", "나쁜 영화"], "label": [0, 1]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_data_set_and_its_class_names(tmp_path: Path) -> None:
    reviews(["Positive", "Negative"]).save_to_disk(tmp_path / "named")
    assert labelled(tmp_path / "named") == [("좋은 영화", 1), ("나쁜 영화", 0)]
    reviews(["pos", "neg"]).save_to_disk(tmp_path / "other")  # other names: the numbers count
    assert labelled(tmp_path / "other") == [("좋은 영화", 0), ("나쁜 영화", 1)]


def test_a_split_of_a_saved_data_set(tmp_path: Path) -> None:
    both = datasets.DatasetDict(
        {"train": reviews(["negative", "positive"]), "test": reviews(["positive", "negative"])}
    )
    both.save_to_disk(tmp_path / "saved")
    assert labelled(tmp_path / "saved")[0] == ("좋은 영화", 0)
    assert labelled(f"{tmp_path}/saved@test")[0] == ("좋은 영화", 1)
    assert "no split 'dev' (found: train, test)" in message(f"{tmp_path}/saved@dev")


def test_a_missing_file_is_not_the_data_set_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews(["negative", "positive"]).save_to_disk(tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    assert "missing.csv: no such file" in message("missing.csv")


def test_the_translation_struct_of_hub_data_sets(tmp_path: Path) -> None:
    pairs = [{"en": "hello", "ko": "안녕"}, {"en": "thanks", "ko": "고마워"}]
    datasets.Dataset.from_dict({"translation": pairs}).save_to_disk(tmp_path / "opus")
    assert [(r["source"], r["target"]) for r in parallel(tmp_path / "opus")] == [
        ("hello", "안녕"),
        ("thanks", "고마워"),
    ]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No hub, an empty cache, and a working directory of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_config_and_split_of_a_hub_name_reach_the_datasets_library(offline: Path) -> None:
    # The library takes a folder of that name for the repository, with the configs of its card
    repository = offline / "owner" / "reviews"
    repository.mkdir(parents=True)
    card = (
        "---\nconfigs:\n- config_name: plain\n  data_files: plain.jsonl\n- config_name: ko\n"
        "  data_files:\n  - split: train\n    path: train.jsonl\n"
        "  - split: test\n    path: test.jsonl\n---\n"
    )
    (repository / "README.md").write_text(card)
    for name in ("plain", "train", "test"):
        (repository / f"{name}.jsonl").write_text(f'{{"text": "{name}", "label": 1}}\n')
    assert labelled("hub:owner/reviews:ko@test") == [("test", 1)]
    assert labelled("hub:owner/reviews:ko") == [("train", 1)]
    assert labelled("hub:owner/reviews:plain") == [("plain", 1)]
    assert "owner/reviews:ko@dev" in message("hub:owner/reviews:ko@dev")


@pytest.mark.parametrize("spec", ["hub:nobody/nothing", "nobody/nothing@test", "glue:sst2@train"])
def test_an_unknown_hub_name_without_a_network(offline: Path, spec: str) -> None:
    text = message(spec)
    assert "no local path" in text
    assert "HF_HUB_OFFLINE" in text


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 (discard) of this machine refuses; load_dataset would retry for half a minute
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked anyway"))
    assert "the hub is out of reach" in message("owner/name")


def test_a_name_that_no_hub_data_set_can_have() -> None:
    assert "write hub:owner/name:config@split" in message("hub:/a/b/c")


# --- s3:// -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_folders_and_globs_on_s3(
    seaweedfs: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    root = f"s3://{seaweedfs.bucket}/sources"
    storage = Storage(root)
    storage.write_bytes("a.csv", "text,label\n좋다,1\n".encode())
    storage.write_bytes("b.jsonl", '{"text": "나쁘다", "label": 0}\n'.encode())
    storage.write_bytes("deeper/c.csv", b"text,label\nnot read,1\n")
    storage.write_bytes("en.txt", b"good\n")
    storage.write_bytes("ko.txt", "좋다\n".encode())
    both = [("좋다", 1), ("나쁘다", 0)]
    assert labelled(f"{root}/a.csv") == both[:1]
    assert labelled(root) == labelled(f"{root}/") == both
    assert labelled(f"{root}/*.jsonl") == both[1:]
    (pair,) = parallel(f"{root}/en.txt|{root}/ko.txt")
    assert (pair["source"], pair["target"]) == ("good", "좋다")
    assert f"{root}/a.csv: no column 'source'" in message(f"{root}/a.csv")
    assert "no data file here" in message(f"{root}/*.parquet")
    with pytest.raises(StorageError, match=r"gone\.csv"):
        parallel(f"{root}/gone.csv")
