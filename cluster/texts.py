"""Prepared rows as a training step reads them: texts of chosen ids, with their labels."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.embed import TextSet
from langalign.storage import Storage

__all__ = ["TextRows", "read_texts"]


@dataclass(frozen=True)
class TextRows:
    """Texts (N), the second texts of pairs (None in single-sentence tasks), and labels (N,).

    The label of a row that has none is -1.
    """

    texts: list[str]
    pairs: list[str | None]
    labels: npt.NDArray[np.int64]


def read_texts(storage: Storage, texts: TextSet, ids: npt.NDArray[np.int64]) -> TextRows:
    """Rows of a labelled text set in ascending order of id, one shard in memory at a time."""
    wanted = pa.array(ids)
    tables = []
    for key in texts.shards:
        table = pq.read_table(io.BytesIO(storage.read_bytes(key)))
        tables.append(table.filter(pa.compute.is_in(table["id"], value_set=wanted)))
    table = pa.concat_tables(tables)
    return TextRows(
        table[texts.column].to_pylist(),
        table[texts.pair_column].to_pylist(),
        table["label"].fill_null(-1).to_numpy().astype(np.int64),
    )
