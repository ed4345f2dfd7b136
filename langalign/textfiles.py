"""Text formats, row by row: CSV, TSV, JSON lines, and two line-aligned files.

Every fault is a `DataError` that names file, row, value and remedy. Memory: one chunk of rows.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from langalign.errors import DataError

__all__ = [
    "CHUNK_ROWS",
    "PickColumns",
    "RawRows",
    "cut",
    "read_aligned",
    "read_csv",
    "read_jsonl",
    "read_lines",
    "read_tsv",
]

PickColumns = Callable[[str, Sequence[str]], Mapping[str, str]]
"""(file, columns found) -> {field wanted: column that holds it}; raises `DataError`."""

CHUNK_ROWS = 1024
_MAX_CELL_CHARACTERS = 64 << 20  # one open quote must not read a whole file into one cell


@dataclass(frozen=True)
class RawRows:
    """A run of rows of one file, unchecked.

    `rows[i]` is the number of row i as an editor shows it: the line of a text file on which the
    row starts (so the first row of a CSV file is 2), else the 1-based number of the row.
    `values[field][i]` may be anything the format can hold; bytes are text not yet decoded.
    `class_names` are the names of an integer label's classes, where the source records them.
    """

    file: str
    rows: Sequence[int]
    columns: Mapping[str, str]
    values: Mapping[str, list[Any]]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def cut(text: str, characters: int = 80) -> str:
    """`text`, short enough to stand in a message."""
    return text if len(text) <= characters else text[:characters] + "…"


@contextmanager
def _opened(file: str, path: Path) -> Iterator[BinaryIO]:
    """The bytes of a plain or gzip file; what cannot be read is a `DataError`."""
    try:
        with path.open("rb") as plain:
            if path.suffix.lower() == ".gz":
                with gzip.open(plain) as unzipped:
                    yield unzipped  # type: ignore[misc]  # a GzipFile is no BinaryIO to mypy
            else:
                yield plain
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file}: cannot be read ({error}); check the file and its rights"
        ) from error


def _decoded_lines(file: str, lines: Iterable[bytes]) -> Iterator[str]:
    offset = 0
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file} row {number}: byte {offset + error.start} of the file is not UTF-8 "
                f"(0x{line[error.start]:02x}); save the file as UTF-8"
            ) from error
        yield text.removeprefix("\ufeff") if number == 1 else text  # a byte order mark is no text
        offset += len(line)


def _chunks(
    file: str, columns: Mapping[str, str], rows: Iterator[tuple[int, list[Any]]]
) -> Iterator[RawRows]:
    """Group (row number, values in the order of `columns`) into `RawRows`."""
    while chunk := list(islice(rows, CHUNK_ROWS)):
        values = zip(*(row for _, row in chunk), strict=True)
        yield RawRows(
            file,
            [number for number, _ in chunk],
            columns,
            dict(zip(columns, map(list, values), strict=True)),
        )


def read_lines(file: str, path: Path) -> Iterator[tuple[int, str]]:
    """(number of the line, its text) of every line that is not blank, without its end."""
    with _opened(file, path) as lines:
        for number, line in enumerate(_decoded_lines(file, lines), start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def read_csv(file: str, path: Path, pick: PickColumns) -> Iterator[RawRows]:
    """RFC 4180: quoted cells may hold commas, doubled quotes and line ends."""
    yield from _read_cells(file, path, pick, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def read_tsv(file: str, path: Path, pick: PickColumns) -> Iterator[RawRows]:
    """Tab-separated without quoting, as GLUE, XNLI and PAWS-X are published: a quote is text."""
    yield from _read_cells(file, path, pick, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_cells(
    file: str, path: Path, pick: PickColumns, *, delimiter: str, quoting: int
) -> Iterator[RawRows]:
    # The limit is the csv module's own global, and its default refuses a sentence of 128 KiB.
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    with _opened(file, path) as lines:
        # csv.QUOTE_* are ints to a type checker of this Python, a Literal to csv.reader's stub
        cells = csv.reader(
            _decoded_lines(file, lines),
            delimiter=delimiter,
            quoting=quoting,  # type: ignore[arg-type]
            strict=True,
        )
        header = next(_numbered_cells(file, cells, width=None), None)
        if header is None:
            raise DataError(f"{file}: the file is empty; give a header row and rows under it")
        _, names = header
        columns = pick(file, names)
        places = [names.index(column) for column in columns.values()]
        rows = _numbered_cells(file, cells, width=len(names))
        yield from _chunks(
            file, columns, ((number, [row[place] for place in places]) for number, row in rows)
        )


def _numbered_cells(file: str, cells: Any, *, width: int | None) -> Iterator[tuple[int, list[str]]]:
    """(line on which the row starts, its cells); blank lines are passed over.

    `cells` is a `csv.reader`; `width` is the number of cells that every row must have.
    """
    while True:
        number = cells.line_num + 1
        try:
            row = next(cells, None)
        except csv.Error as error:
            raise DataError(
                f"{file} row {number}: {error}; a cell that holds a quote, a delimiter or a line "
                "end must stand in quotes, with its own quotes doubled (.tsv files cannot hold it)"
            ) from error
        if row is None:
            return
        if not row:
            continue
        if width is not None and len(row) != width:
            raise DataError(
                f"{file} row {number}: {len(row)} cells where the header has {width} "
                f"({cut(' | '.join(row))!r}); quote the delimiters inside cells"
            )
        yield number, row


def read_jsonl(file: str, path: Path, pick: PickColumns) -> Iterator[RawRows]:
    """One JSON object per line; the columns are the keys of the first one."""
    with _opened(file, path) as lines:
        rows = _json_objects(file, _decoded_lines(file, lines))
        first = next(rows, None)
        if first is None:
            raise DataError(f"{file}: the file is empty; give one JSON object per line")
        columns = pick(file, list(first[1]))
        keys = list(columns.values())

        picked = ((n, [row.get(key) for key in keys]) for n, row in chain([first], rows))
        yield from _chunks(file, columns, picked)


def _json_objects(file: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file} row {number}: not JSON ({error}): {cut(line)!r}; "
                "give one JSON object per line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{file} row {number}: {cut(line)!r} is not a JSON object; "
                'give one per line, such as {"text": "...", "label": 1}'
            )
        yield number, row


def read_aligned(
    source: tuple[str, Path], target: tuple[str, Path], pick: PickColumns
) -> Iterator[RawRows]:
    """Line n of the one (name, path) is the translation of line n of the other; no header."""
    both = f"{source[0]}|{target[0]}"
    columns = pick(both, ["source", "target"])
    counts = [_count_lines(*part) for part in (source, target)]
    if counts[0] != counts[1]:
        raise DataError(
            f"{source[0]} has {counts[0]} lines and {target[0]} has {counts[1]}; "
            "line n must translate line n, so give files of one length"
        )
    with _opened(*source) as left, _opened(*target) as right:
        pairs = zip(_decoded_lines(source[0], left), _decoded_lines(target[0], right), strict=True)
        rows = (
            (n, [line.rstrip("\r\n") for line in pair]) for n, pair in enumerate(pairs, start=1)
        )
        yield from _chunks(both, columns, rows)


def _count_lines(file: str, path: Path) -> int:
    with _opened(file, path) as lines:
        return sum(1 for _ in lines)
