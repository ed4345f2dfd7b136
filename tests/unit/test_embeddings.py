"""Embedding parts: written, joined by id whatever their order, refused when damaged."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langalign.embeddings import EmbeddingSet, part_name, rows_of_part, write_part
from langalign.errors import DataError, IntegrityError
from langalign.outputs import StepOutput
from langalign.storage import Storage

ROWS, WIDTH = 10, 4


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def stored(folder: Path, vectors: np.ndarray, *, labels: bool) -> EmbeddingSet:
    """Three parts, ids out of order within and between them."""
    output = StepOutput(Storage(str(folder)), "embeddings/abc")
    order = np.array([7, 1, 9, 0, 4, 3, 8, 2, 6, 5])
    records = {}
    for number, ids in enumerate(np.split(order, [3, 4])):
        column = pa.array(ids % 3) if labels else None
        data = write_part(ids, vectors[ids], column, "en")
        records[part_name(number)] = output.write(part_name(number), data)
    output.finish(records, {})
    return EmbeddingSet(output)


def test_a_part_holds_a_fixed_size_list_of_float(vectors: np.ndarray) -> None:
    data = write_part(np.arange(ROWS), vectors, pa.array([1] * ROWS), "xc")
    table = pq.read_table(io.BytesIO(data))
    assert table.column_names == ["id", "embedding", "label", "lang"]
    assert table.schema.field("embedding").type.equals(pa.list_(pa.float32(), WIDTH))
    assert set(table["lang"].to_pylist()) == {"xc"}
    assert rows_of_part(data) == ROWS
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), vectors)


def test_rows_come_back_by_id(tmp_path: Path, vectors: np.ndarray) -> None:
    rows = stored(tmp_path, vectors, labels=True).load()
    np.testing.assert_array_equal(rows.ids, np.arange(ROWS))
    np.testing.assert_array_equal(rows.embeddings, vectors)
    assert rows.labels is not None
    np.testing.assert_array_equal(rows.labels, np.arange(ROWS) % 3)


def test_some_rows_come_back_in_ascending_order(tmp_path: Path, vectors: np.ndarray) -> None:
    rows = stored(tmp_path, vectors, labels=False).load(np.array([8, 0, 3]))
    np.testing.assert_array_equal(rows.ids, [0, 3, 8])
    np.testing.assert_array_equal(rows.embeddings, vectors[[0, 3, 8]])
    assert rows.labels is None


def test_an_id_that_is_not_there_is_an_error(tmp_path: Path, vectors: np.ndarray) -> None:
    with pytest.raises(DataError, match="holds 1 of the 2 rows asked for"):
        stored(tmp_path, vectors, labels=False).load(np.array([3, ROWS]))


def test_a_truncated_part_is_refused(tmp_path: Path, vectors: np.ndarray) -> None:
    embeddings = stored(tmp_path, vectors, labels=False)
    path = tmp_path / "embeddings" / "abc" / part_name(1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=part_name(1)) as caught:
        embeddings.load()
    assert caught.value.folder == "embeddings/abc"


def test_bytes_that_are_no_parquet_file_have_no_rows(vectors: np.ndarray) -> None:
    whole = write_part(np.arange(ROWS), vectors, None, "en")
    for data in (b"", b"PAR1", whole[:-20], whole[: len(whole) // 2]):
        with pytest.raises(DataError, match="not a Parquet file"):
            rows_of_part(data)


def test_an_empty_part_is_a_part() -> None:
    data = write_part(np.zeros(0, np.int64), np.zeros((0, WIDTH), np.float32), None, "en")
    assert rows_of_part(data) == 0
