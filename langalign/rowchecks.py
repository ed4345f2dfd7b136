"""What a row must be, decided once for every format: clean text, known label, no repeat.

See `langalign.data` for the rules. A fault is a `DataError` that names file, row, value and remedy.
"""

import difflib
import hashlib
import unicodedata
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice

import numpy as np

from langalign.errors import DataError
from langalign.readers import read_rows
from langalign.tasks import Task
from langalign.textfiles import RawRows, cut

__all__ = ["MAX_TEXT_CHARACTERS", "Field", "Row", "RowCounts", "RowSchema", "checked_rows"]

MAX_TEXT_CHARACTERS = 20_000
_MAX_CONFLICT_SHARE = 0.05


@dataclass(frozen=True)
class Field:
    """A value that a row has, and the column names it may stand under, best first."""

    name: str
    columns: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True)
class RowSchema:
    """The fields of a row. `task` reads the label; `remedy` ends the message on a lost column.

    `drops_repeats`: whether a row whose texts were seen before is dropped and counted. Rows whose
    texts are among the `excluded` are left out as if they were not there.
    """

    texts: tuple[Field, ...]
    label: Field | None
    task: Task | None
    remedy: str
    drops_repeats: bool = True
    excluded: Collection[tuple[str, ...]] = ()

    def pick(self, file: str, found: Sequence[str]) -> dict[str, str]:
        """{field: its column} among the columns `found`. Raises `DataError` naming what is lost."""
        picked = {}
        for wanted in (*self.texts, *([self.label] if self.label else [])):
            column = next((name for name in wanted.columns if name in found), None)
            if column is None and wanted.required:
                raise DataError(self._lost_column(file, wanted, found))
            if column is None:
                continue
            if list(found).count(column) > 1:
                raise DataError(f"{file}: two columns are called {column!r}; rename one of them")
            picked[wanted.name] = column
        return picked

    def _lost_column(self, file: str, wanted: Field, found: Sequence[str]) -> str:
        lower = {name.lower(): name for name in found}
        near = difflib.get_close_matches(wanted.columns[0].lower(), lower, n=1)
        hint = f"; did you mean {lower[near[0]]!r}?" if near else ""
        names = " or ".join(map(repr, wanted.columns))
        return (
            f"{file}: no column {names} (found: {cut(', '.join(found), 300)}{hint}); {self.remedy}"
        )


@dataclass
class RowCounts:
    """What the checks of one source have done so far; complete when its stream is read out."""

    rows_read: int = 0
    duplicates_dropped: int = 0
    conflicts_dropped: int = 0
    texts_cut: int = 0
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """A row that passed: texts in the order of the schema's fields, and the class number."""

    texts: tuple[str, ...]
    label: int | None


def checked_rows(
    spec: str, schema: RowSchema, counts: RowCounts, *, limit: int | None, sample_seed: int | None
) -> Iterator[Row]:
    """The rows of `spec` that pass, all or `limit` of them, in file order.

    With `sample_seed` the `limit` rows are a uniform sample of all rows, which takes a first
    reading to count them; without it they are the first ones, and the rest is not read.
    """
    checker = _Checker(schema, counts)
    rows = checker.rows(spec)
    if limit is not None and sample_seed is not None:
        total = sum(1 for _ in _Checker(schema, RowCounts()).rows(spec))
        keep = np.zeros(total, dtype=bool)
        chosen = np.random.default_rng(sample_seed).choice(total, min(limit, total), replace=False)
        keep[chosen] = True
        rows = compress(rows, keep)
    elif limit is not None:
        rows = islice(rows, limit)
    yield from rows
    if counts.rows_read == 0:
        raise DataError(f"{spec}: no rows; give a source that has at least one")
    checker.refuse_conflicts()


class _Checker:
    """Cleans rows; to find repeats it remembers a 16-byte hash of each."""

    def __init__(self, schema: RowSchema, counts: RowCounts) -> None:
        self._schema = schema
        self._counts = counts
        self._seen: dict[bytes, int] = {}  # hash of the texts -> index into the arrays below
        self._labels = array("i")
        self._files = array("i")  # index into counts.files
        self._rows = array("q")
        self._conflict = ""

    def rows(self, spec: str) -> Iterator[Row]:
        counts = self._counts
        for raw in read_rows(spec, self._schema.pick):
            if raw.file not in counts.files[-1:]:
                counts.files.append(raw.file)
            class_names = self._class_names(raw)
            for index in range(len(raw.rows)):
                counts.rows_read += 1
                texts = tuple(self._text(raw, index, wanted) for wanted in self._schema.texts)
                row = Row(texts, self._label(raw, index, class_names))
                if texts in self._schema.excluded:
                    continue
                if not self._schema.drops_repeats or self._is_new(row, raw, index):
                    yield row

    def refuse_conflicts(self) -> None:
        """Raise `DataError` where too many rows contradict an earlier one."""
        counts = self._counts
        if counts.conflicts_dropped > _MAX_CONFLICT_SHARE * counts.rows_read:
            raise DataError(
                f"{self._conflict}; so do {counts.conflicts_dropped} of {counts.rows_read} rows, "
                f"more than {_MAX_CONFLICT_SHARE:.0%}; correct the labels or the choice of columns"
            )

    def _is_new(self, row: Row, raw: RawRows, index: int) -> bool:
        # A cleaned text holds no NUL, so the joint keeps ("ab", "c") and ("a", "bc") apart
        key = hashlib.blake2b("\0".join(row.texts).encode(), digest_size=16).digest()
        label = -1 if row.label is None else row.label
        first = self._seen.setdefault(key, len(self._labels))
        if first == len(self._labels):
            self._labels.append(label)
            self._files.append(len(self._counts.files) - 1)
            self._rows.append(raw.rows[index])
            return True
        if self._labels[first] == label:
            self._counts.duplicates_dropped += 1
        else:
            self._counts.conflicts_dropped += 1
            self._conflict = self._conflict or (
                f"{self._counts.files[self._files[first]]} row {self._rows[first]} and "
                f"{_place(raw, index)} have the same text and different labels "
                f"({self._label_name(self._labels[first])}, {self._label_name(label)}): "
                f"{cut(row.texts[0])!r}"
            )
        return False

    def _label_name(self, label: int) -> str:
        task = self._schema.task
        return task.labels[label] if task is not None and label >= 0 else "none"

    def _text(self, raw: RawRows, index: int, wanted: Field) -> str:
        value = raw.values[wanted.name][index]
        place = f"{_place(raw, index)}, column {raw.columns[wanted.name]!r}"
        if isinstance(value, bytes):
            value = _decoded(value, place)
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{place}: {cut(repr(value))} is a {type(value).__name__}, not text; "
                "name the column that holds the text"
            )
        text = unicodedata.normalize("NFC", (value or "").replace("\0", ""))
        if not text.strip():
            raise DataError(
                f"{place}: the text is {'missing' if value is None else 'blank'}; "
                "fill it or remove the row"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{place}: half a surrogate pair at character {error.start} of {cut(text)!a}; "
                "write the text again as UTF-8"
            ) from error
        if len(text) > MAX_TEXT_CHARACTERS:
            self._counts.texts_cut += 1
            text = text[:MAX_TEXT_CHARACTERS]
        return text

    def _label(self, raw: RawRows, index: int, class_names: dict[int, str]) -> int | None:
        wanted, task = self._schema.label, self._schema.task
        if wanted is None or task is None or wanted.name not in raw.values:
            return None
        value = raw.values[wanted.name][index]
        place = f"{_place(raw, index)}, column {raw.columns[wanted.name]!r}"
        if isinstance(value, bytes):
            value = _decoded(value, place)
        if not wanted.required and (value is None or value == ""):
            return None
        try:
            return task.encode_label(class_names.get(value, value))
        except ValueError as error:
            raise DataError(f"{place}: {error}; correct it, or name yours with task.labels") from (
                error
            )

    def _class_names(self, raw: RawRows) -> dict[int, str]:
        """{class number of the source: name} where the source's names are the task's, else {}."""
        wanted, task = self._schema.label, self._schema.task
        names = raw.class_names.get(wanted.name, ()) if wanted is not None else ()
        if task is None or {n.casefold() for n in names} != {n.casefold() for n in task.labels}:
            return {}
        return dict(enumerate(names))


def _decoded(value: bytes, place: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {error.start} of the value is not UTF-8 (0x{value[error.start]:02x}); "
            "write the file again with UTF-8 text"
        ) from error


def _place(raw: RawRows, index: int) -> str:
    return f"{raw.file} row {raw.rows[index]}"
