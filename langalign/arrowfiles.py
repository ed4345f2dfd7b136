"""Rows of Parquet files and of other Arrow batches, as `langalign.textfiles` has those of text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from langalign.errors import DataError
from langalign.textfiles import CHUNK_ROWS, PickColumns, RawRows

__all__ = ["arrow_rows", "read_parquet"]


def read_parquet(file: str, path: Path, pick: PickColumns) -> Iterator[RawRows]:
    """The rows of the file at `path`, called `file` in messages.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            columns = pick(file, parquet.schema_arrow.names)
            batches = parquet.iter_batches(CHUNK_ROWS, columns=list(columns.values()))
            yield from arrow_rows(file, columns, batches, {})
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error}); write it again") from error


def arrow_rows(
    file: str,
    columns: Mapping[str, str],
    batches: Iterable[Any],
    class_names: Mapping[str, Sequence[str]],
) -> Iterator[RawRows]:
    """The `columns` of Arrow batches, with the names that stand for the numbers of some."""
    first = 1
    for batch in batches:
        values = {name: _values(batch.column(column)) for name, column in columns.items()}
        yield RawRows(file, range(first, first + batch.num_rows), columns, values, class_names)
        first += batch.num_rows


def _values(column: Any) -> list[Any]:
    # As bytes, so that text that is not UTF-8 is found by the check that knows its row
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values
