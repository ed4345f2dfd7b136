"""Cached sentence embeddings: Parquet parts of (id, embedding, label?, lang), read by id.

Rows arrive in parts in any order; ids are 0 to N-1 of the prepared data they were made from, and
English and target rows of a pair share their id, so everything here is joined on it.
Needs no torch, so that light tasks stay light.

Shapes: N rows, D embedding width.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from langalign.errors import DataError
from langalign.outputs import StepOutput

__all__ = ["EmbeddedRows", "EmbeddingSet", "part_name", "rows_of_part", "write_part"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddedRows:
    """Rows in ascending order of id: `ids` (N,), `embeddings` (N, D), `labels` (N,) or None."""

    ids: IntArray
    embeddings: npt.NDArray[np.float32]
    labels: IntArray | None


def part_name(shard: int) -> str:
    """File name of the part made from one shard of prepared data."""
    return f"part-{shard:05d}.parquet"


def write_part(
    ids: IntArray,
    embeddings: npt.NDArray[np.float32],
    labels: pa.Array | None,
    language: str,
) -> bytes:
    """Parquet bytes of one part: embeddings (N, D) as a fixed size list of float."""
    rows, width = embeddings.shape
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), width)
    columns = {"id": pa.array(ids, pa.int64()), "embedding": vectors}
    if labels is not None:
        columns["label"] = labels.cast(pa.int32())
    columns["lang"] = pa.array([language] * rows).dictionary_encode()
    sink = io.BytesIO()
    # Floats do not compress; plain encoding makes reading them a copy.
    pq.write_table(pa.table(columns), sink, compression="none", use_dictionary=["lang"])
    return sink.getvalue()


def rows_of_part(data: bytes) -> int:
    """Row count of a part, from its footer.

    Raises:
        DataError: the bytes are not a Parquet file.
    """
    try:
        return int(pq.read_metadata(io.BytesIO(data)).num_rows)
    except pa.ArrowInvalid as error:
        raise DataError(f"an embedding part is not a Parquet file: {error}") from error


@dataclass(frozen=True)
class EmbeddingSet:
    """The finished embeddings of one prepared data set, in `output`."""

    output: StepOutput

    def load(self, ids: IntArray | None = None) -> EmbeddedRows:
        """Read the rows of `ids`, or all rows, one part in memory at a time.

        Raises:
            IntegrityError: a part is truncated or altered.
            DataError: an id that is asked for is not there.
        """
        parts = [self._read(name, ids) for name in sorted(self.output.manifest()["files"])]
        found = np.concatenate([part[0] for part in parts])
        order = np.argsort(found)
        if ids is not None and not np.array_equal(found[order], np.sort(ids)):
            raise DataError(
                f"{self.output.prefix} holds {len(found)} of the {len(ids)} rows asked for; "
                f"delete this folder of the storage and run again"
            )
        vectors = np.concatenate([part[1] for part in parts])[order]
        labels = _joined([part[2] for part in parts])
        return EmbeddedRows(found[order], vectors, None if labels is None else labels[order])

    def _read(self, name: str, ids: IntArray | None) -> tuple[Any, Any, Any]:
        table = pq.read_table(io.BytesIO(self.output.read(name)))
        if ids is not None:
            table = table.filter(pa.array(np.isin(table["id"].to_numpy(), ids)))
        width = table.schema.field("embedding").type.list_size
        vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        labels = None
        if "label" in table.column_names and not table["label"].null_count:
            labels = table["label"].to_numpy().astype(np.int64)
        return table["id"].to_numpy(), vectors, labels


def _joined(labels: list[Any]) -> Any:
    return None if any(part is None for part in labels) else np.concatenate(labels)
