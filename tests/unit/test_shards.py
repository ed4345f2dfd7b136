"""Shards, the digest of rows whatever file they come from, and splits."""

import csv
import hashlib
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langalign.data import (
    LABELLED_SCHEMA,
    PreparedData,
    RowStream,
    read_labelled,
    read_parallel,
    split_by_label,
    split_rows,
    write_shards,
)
from langalign.errors import ConfigError, DataError
from langalign.storage import Storage
from langalign.tasks import PRESETS, Task

SENTIMENT, NLI = PRESETS["sentiment"], PRESETS["nli"]


def prepare(
    spec: Path,
    folder: Path,
    *,
    task: Task = SENTIMENT,
    shard_rows: int = 1000,
    to_train: bool = False,
) -> PreparedData:
    rows = read_labelled(str(spec), task, language="ja", require_all_labels=to_train)
    return write_shards(rows, Storage(str(folder)), prefix="rows/x", shard_rows=shard_rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("shard_rows", "sizes"), [(1000, (1000, 1000, 500)), (2500, (2500,)), (9999, (2500,))]
)
def test_shards_have_exactly_the_rows_asked_for(
    tmp_path: Path, shard_rows: int, sizes: tuple[int, ...]
) -> None:
    rows = [{"text": f"本 {n}", "label": n % 2} for n in range(2500)]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, rows[0], {"text": "本 1", "label": 0}])
    done = prepare(tmp_path / "rows.jsonl", tmp_path / "out", shard_rows=shard_rows, to_train=True)
    assert done.shard_rows == sizes
    assert done.shards == tuple(f"rows/x/shard-{n:05d}.parquet" for n in range(len(sizes)))
    tables = [pq.read_table(tmp_path / "out" / key) for key in done.shards]
    assert tuple(table.num_rows for table in tables) == sizes
    metadata = pq.ParquetFile(tmp_path / "out" / done.shards[0]).metadata
    assert metadata.row_group(0).column(1).compression == "ZSTD"
    whole = pa.concat_tables(tables)
    assert whole.schema == LABELLED_SCHEMA
    assert whole["text"].to_pylist() == [row["text"] for row in rows]
    assert whole["id"].to_pylist() == list(range(2500))
    summary = done.summary
    assert (summary.rows, summary.duplicates_dropped, summary.conflicts_dropped) == (2500, 1, 1)
    assert summary.label_counts == {"negative": 1250, "positive": 1250}
    assert (summary.languages, summary.files) == (("ja",), (str(tmp_path / "rows.jsonl"),))


def test_the_digest_is_sha256_over_one_json_line_per_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": 'a"b', "label": 1}, {"text": "は", "label": 0}])
    lines = '["a\\"b", null, 1, "ja"]\n["は", null, 0, "ja"]\n'
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert prepare(tmp_path / "rows.jsonl", tmp_path / "out").summary.digest == expected


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() != "" and not text.startswith("\ufeff")
)
PAIRS = st.lists(st.tuples(TEXT, TEXT, st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None)
@given(pairs=PAIRS, shard_rows=st.integers(1, 13))
def test_one_digest_for_all_formats_and_shard_sizes(
    pairs: list[tuple[str, str, int]], shard_rows: int
) -> None:
    unique = {(premise, hypothesis): label for premise, hypothesis, label in pairs}
    rows = [
        # digits first, so that no two texts meet in NFC and count as repeats
        {"premise": f"{n}{premise}", "hypothesis": hypothesis, "label": label}
        for n, ((premise, hypothesis), label) in enumerate(unique.items())
    ]
    with TemporaryDirectory() as folder:
        here = Path(folder)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        (here / "rows.csv").write_bytes(table.getvalue().encode())
        lines = ["\t".join(map(str, row.values())) for row in rows]
        tabs = "\n".join(["premise\thypothesis\tlabel", *lines]) + "\n"
        (here / "rows.tsv").write_bytes(tabs.encode())
        write_jsonl(here / "rows.jsonl", rows)
        pq.write_table(pa.Table.from_pylist(rows), here / "rows.parquet")
        sizes = {"csv": shard_rows, "tsv": 7, "jsonl": 5, "parquet": 1000}
        done = [
            prepare(here / f"rows.{name}", here / name, task=NLI, shard_rows=size).summary
            for name, size in sizes.items()
        ]
    assert {summary.rows for summary in done} == {len(rows)}
    assert len({summary.digest for summary in done}) == 1


@pytest.mark.parametrize(
    "changed",
    [
        [("a", 0), ("b", 0)],  # a label
        [("a", 0), ("b ", 1)],  # a text
        [("b", 1), ("a", 0)],  # the order
        [("a", 0)],  # a row
    ],
)
def test_the_digest_changes_with_the_rows(tmp_path: Path, changed: list[tuple[str, int]]) -> None:
    digests = set()
    for name, rows in {"one": [("a", 0), ("b", 1)], "two": changed}.items():
        path = tmp_path / f"{name}.jsonl"
        write_jsonl(path, [{"text": text, "label": label} for text, label in rows])
        digests.add(prepare(path, tmp_path / name).summary.digest)
    assert len(digests) == 2


def test_parallel_rows_are_sharded_alike(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("source,target,label\ngood,良い,1\nso,そう,\n", encoding="utf-8")
    rows = read_parallel(str(path), source_language="en", target_language="ja", task=SENTIMENT)
    done = write_shards(rows, Storage(str(tmp_path / "out")), prefix="pairs", shard_rows=1)
    assert done.shard_rows == (1, 1)
    assert done.summary.label_counts == {"negative": 0, "positive": 1}
    assert done.summary.languages == ("en", "ja")


def test_a_stream_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows to write under rows/x"):
        write_shards(RowStream([]), Storage(str(tmp_path)), prefix="rows/x", shard_rows=5)


# --- splits ------------------------------------------------------------------------------------


@given(rows=st.integers(2, 300), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**32 - 1))
def test_a_split_parts_the_rows(rows: int, fraction: float, seed: int) -> None:
    train, validation = split_rows(rows, validation_fraction=fraction, seed=seed)
    assert sorted([*train, *validation]) == list(range(rows))
    assert len(validation) == min(max(1, round(rows * fraction)), rows - 1)
    again = split_rows(rows, validation_fraction=fraction, seed=seed)
    assert np.array_equal(train, again[0])


def test_a_split_is_random_and_ascending() -> None:
    train, validation = split_rows(1000, validation_fraction=0.1, seed=1)
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(validation) > 0)
    assert 350 < validation.mean() < 650  # mean 499.5, standard error 27
    other = split_rows(1000, validation_fraction=0.1, seed=2)[1]
    assert not np.array_equal(validation, other)


def test_a_split_by_label_takes_the_share_of_each_label() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 2 + [3])
    train, validation = split_by_label(labels, validation_fraction=0.1, seed=3)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert np.bincount(labels[validation], minlength=4).tolist() == [90, 9, 1, 0]
    again = split_by_label(labels, validation_fraction=0.1, seed=3)[1]
    assert np.array_equal(validation, again)


def test_splits_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match="1 rows cannot be split"):
        split_rows(1, validation_fraction=0.1, seed=0)
    with pytest.raises(DataError, match="no label has 2 rows"):
        split_by_label(np.array([0, 1, 2]), validation_fraction=0.1, seed=0)
    with pytest.raises(ConfigError, match=r"validation_fraction is 1\.5"):
        split_rows(10, validation_fraction=1.5, seed=0)
    with pytest.raises(ConfigError, match="validation_fraction is 0"):
        split_by_label(np.array([0, 0]), validation_fraction=0, seed=0)
