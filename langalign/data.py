"""Labelled and parallel text as checked streams of Arrow batches; shards, digests and splits.

The rules of `read_labelled` and `read_parallel`, for every format of `langalign.readers`:

- text is put into Unicode NFC and loses its NUL characters; one of more than
  `MAX_TEXT_CHARACTERS` is cut there and counted (an encoder reads a few hundred tokens of it);
- a text that is missing or blank, bytes that are not UTF-8 and an unknown label are errors;
- a row seen before (same texts, same label) is dropped and counted;
- a row whose texts were seen with another label is dropped and counted, the first one stays; where
  more than 5% of the rows are such, the labels cannot be trusted and it is an error;
- rows that are only scored (`require_all_labels=False`) keep every repeat and contradiction, so
  that a score is over the row count its data set was published with.

Errors come while the stream is read. Memory is one batch, and for each row to train on a 16-byte
hash and its place, which Python keeps in about 140 bytes.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from langalign.errors import DataError
from langalign.rowchecks import (
    MAX_TEXT_CHARACTERS,
    Field,
    Row,
    RowCounts,
    RowSchema,
    checked_rows,
)
from langalign.splits import split_by_label, split_rows
from langalign.storage import Storage
from langalign.tasks import Task
from langalign.textfiles import CHUNK_ROWS

__all__ = [
    "LABELLED_SCHEMA",
    "MAX_TEXT_CHARACTERS",
    "PARALLEL_SCHEMA",
    "DatasetSummary",
    "LabelledSource",
    "PreparedData",
    "RowCounts",
    "RowStream",
    "read_labelled",
    "read_parallel",
    "split_by_label",
    "split_rows",
    "write_shards",
]

LABELLED_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("text_pair", pa.string()),
        ("label", pa.int32()),
        ("lang", pa.string()),
    ]
)
PARALLEL_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("source_pair", pa.string()),
        ("target_pair", pa.string()),
        ("label", pa.int32()),
    ]
)


class RowStream(Iterator[pa.RecordBatch]):
    """Record batches of one schema, read once, with what is known of them besides.

    `labels` are the class names, `languages` the codes of the languages in the rows, `counts` what
    the checks have done so far.
    """

    def __init__(
        self,
        batches: Iterable[pa.RecordBatch],
        *,
        labels: Sequence[str] = (),
        languages: Sequence[str] = (),
        counts: RowCounts | None = None,
    ) -> None:
        self._batches = iter(batches)
        self.labels = tuple(labels)
        self.languages = tuple(languages)
        self.counts = counts if counts is not None else RowCounts()

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)


@dataclass(frozen=True)
class LabelledSource:
    """All that names a set of labelled rows, in plain values, so that a worker can be sent it."""

    spec: str
    task: Task
    language: str
    limit: int | None = None
    sample_seed: int | None = None

    def read(self, *, require_all_labels: bool = True) -> RowStream:
        """See `read_labelled`."""
        return read_labelled(
            self.spec,
            self.task,
            language=self.language,
            limit=self.limit,
            sample_seed=self.sample_seed,
            require_all_labels=require_all_labels,
        )


def read_labelled(
    spec: str,
    task: Task,
    *,
    language: str,
    limit: int | None = None,
    sample_seed: int | None = None,
    require_all_labels: bool = True,
    excluded: Collection[tuple[str, ...]] = (),
) -> RowStream:
    """Labelled rows of `spec` (see `langalign.readers`) in `LABELLED_SCHEMA`.

    `id` counts the rows that passed from 0; `text_pair` is null for a task on single texts. The
    columns are the task's; labels are class numbers or names. `limit` keeps the first so many rows
    that pass, or, with `sample_seed`, a uniform sample of that size in file order (the source is
    read twice). A source to train on needs `require_all_labels`: every label of the task on at
    least one row. Without it the rows are to be scored only, and repeats stay. Rows whose texts,
    (text,) or (text, text_pair), are among the `excluded` are left out. The stream raises
    `DataError`, and `StorageError` for s3://.
    """
    texts = tuple(map(_field, ("text", "text_pair"), task.text_columns))
    schema = RowSchema(
        texts=texts,
        label=_field("label", task.label_column),
        task=task,
        remedy="rename it, or name yours with task.text, task.text_pair and task.label",
        drops_repeats=require_all_labels,
        excluded=excluded,
    )
    counts = RowCounts()
    rows = checked_rows(spec, schema, counts, limit=limit, sample_seed=sample_seed)
    if require_all_labels:
        rows = _with_all_labels(rows, spec, task)
    batches = _batches(rows, texts, LABELLED_SCHEMA, {"lang": language})
    return RowStream(batches, labels=task.labels, languages=[language], counts=counts)


def read_parallel(
    spec: str,
    *,
    source_language: str,
    target_language: str,
    limit: int | None = None,
    sample_seed: int | None = None,
    task: Task | None = None,
) -> RowStream:
    """Pairs (d, T(d)) of `spec` (see `langalign.readers`) in `PARALLEL_SCHEMA`.

    The texts stand in columns `source` and `target`, or under the two language codes, or in the
    `translation` struct of hub data sets. With `task` given, its label column is read where there
    is one (null on a row without a label), and a task on pairs also needs the columns `source_pair`
    and `target_pair`. `limit`, `sample_seed` and errors are those of `read_labelled`.
    """
    languages = {"source": source_language, "target": target_language}
    texts = tuple(
        Field(side, (side, language, f"translation.{language}"))
        for side, language in languages.items()
    )
    if task is not None and len(task.text_columns) == 2:
        texts += tuple(_field(name, name) for name in ("source_pair", "target_pair"))
    schema = RowSchema(
        texts=texts,
        label=None if task is None else Field("label", (task.label_column,), required=False),
        task=task,
        remedy="rename the columns of the translated texts to source and target (for a task on "
        "pairs also source_pair and target_pair)",
    )
    counts = RowCounts()
    rows = checked_rows(spec, schema, counts, limit=limit, sample_seed=sample_seed)
    return RowStream(
        _batches(rows, texts, PARALLEL_SCHEMA, {}),
        labels=() if task is None else task.labels,
        languages=list(languages.values()),
        counts=counts,
    )


def _field(name: str, column: str) -> Field:
    return Field(name, (column,))


def _with_all_labels(rows: Iterator[Row], spec: str, task: Task) -> Iterator[Row]:
    seen: Counter[int | None] = Counter()
    for row in rows:
        seen[row.label] += 1
        yield row
    lacking = [name for number, name in enumerate(task.labels) if not seen[number]]
    if lacking:
        raise DataError(
            f"{spec}: none of {seen.total()} rows is labelled {' or '.join(map(repr, lacking))}, "
            "and a class without rows cannot be learned; add such rows, use more rows, or "
            "correct task.labels"
        )


def _batches(
    rows: Iterator[Row], texts: Sequence[Field], schema: pa.Schema, constants: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    first = 0
    while chunk := list(islice(rows, CHUNK_ROWS)):
        size = len(chunk)
        values: dict[str, Sequence[object]] = {
            name: [value] * size for name, value in constants.items()
        }
        values["id"] = range(first, first + size)
        values["label"] = [row.label for row in chunk]
        for place, text in enumerate(texts):
            values[text.name] = [row.texts[place] for row in chunk]
        arrays = [
            pa.array(values.get(column.name, [None] * size), type=column.type) for column in schema
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        first += size


# --- shards -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetSummary:
    """What a prepared set of rows holds and what the checks took from its source.

    `digest` is a sha256 over the rows in their order (every column but `id`), the same whatever
    the file format, batch size or shard size. `label_counts` counts labelled rows by class name.
    """

    rows: int
    digest: str
    label_counts: dict[str, int]
    languages: tuple[str, ...]
    duplicates_dropped: int
    conflicts_dropped: int
    texts_cut: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class PreparedData:
    """Shards as written: keys under the storage root, and the number of rows of each."""

    summary: DatasetSummary
    shards: tuple[str, ...]
    shard_rows: tuple[int, ...]


def write_shards(rows: RowStream, store: Storage, *, prefix: str, shard_rows: int) -> PreparedData:
    """Write `rows` to `prefix/shard-00000.parquet` and on, `shard_rows` rows each but the last.

    Holds one shard in memory. Raises `DataError` where there is no row, and whatever the stream
    and the store raise; shards written before an error stay, and a second run replaces them.
    """
    digest = hashlib.sha256()
    labels: Counter[int] = Counter()
    keys: list[str] = []
    sizes: list[int] = []
    for shard in _regrouped(_observed(rows, digest.update, labels), shard_rows):
        keys.append(f"{prefix.rstrip('/')}/shard-{len(keys):05d}.parquet")
        sizes.append(shard.num_rows)
        sink = io.BytesIO()
        pq.write_table(shard, sink, compression="zstd")
        store.write_bytes(keys[-1], sink.getvalue())
    if not keys:
        raise DataError(f"no rows to write under {prefix}; give a source that has at least one")
    names = dict(enumerate(rows.labels))
    summary = DatasetSummary(
        rows=sum(sizes),
        digest=digest.hexdigest(),
        label_counts={names.get(n, str(n)): labels[n] for n in sorted({*names, *labels})},
        languages=rows.languages,
        duplicates_dropped=rows.counts.duplicates_dropped,
        conflicts_dropped=rows.counts.conflicts_dropped,
        texts_cut=rows.counts.texts_cut,
        files=tuple(rows.counts.files),
    )
    return PreparedData(summary, tuple(keys), tuple(sizes))


def _observed(
    batches: Iterable[pa.RecordBatch], digest: Callable[[bytes], None], labels: Counter[int]
) -> Iterator[pa.RecordBatch]:
    """Pass the batches on, each row given to `digest` as one line of JSON without its id."""
    for batch in batches:
        columns = [batch.column(name).to_pylist() for name in batch.schema.names if name != "id"]
        lines = [json.dumps(row, ensure_ascii=False) for row in zip(*columns, strict=True)]
        digest(("\n".join(lines) + "\n").encode())
        labels.update(label for label in batch.column("label").to_pylist() if label is not None)
        yield batch


def _regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows, the last one of what is left."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.num_rows
        while size >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            held = table.slice(rows).to_batches()
            size -= rows
    if size:
        yield pa.Table.from_batches(held)
