"""Rows as they stand in a file or a hub data set, streamed, each with the place it came from.

A spec is one of

    reviews.csv  reviews.tsv  reviews.jsonl  reviews.parquet     one file; text files may be .gz
    folder/      reviews-*.parquet                               every data file in it, by name
    s3://bucket/key                                              file, folder or glob, as above
    a.en.txt|b.ko.txt                                            two line-aligned text files
    hub:owner/name:config@split                                  a Hugging Face data set
    folder@split                                                 saved by Dataset.save_to_disk

where `hub:`, `:config` and `@split` (default: train) may be left out. A hub data set is kept in the
cache of the `datasets` library and read from there (memory-mapped), so a second run is offline.
No more than a few thousand rows are in memory at a time. Nothing is checked here beyond what is
needed to tell rows and columns apart: `langalign.data` does that.
"""

import fnmatch
import glob
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever it is built on

from langalign.errors import DataError
from langalign.hub import ask_hub
from langalign.storage import Storage
from langalign.textfiles import (
    CHUNK_ROWS,
    PickColumns,
    RawRows,
    cut,
    read_aligned,
    read_csv,
    read_jsonl,
    read_tsv,
)

__all__ = ["read_rows"]

_HUB_SPEC = re.compile(
    r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^@/]+))?(@(?P<split>[^/]+))?", re.ASCII
)


def read_rows(spec: str, pick: PickColumns) -> Iterator[RawRows]:
    """Stream the rows of `spec`, only the columns that `pick` chooses.

    Raises `DataError` on a source that is missing, empty of data files, or broken, and
    `StorageError` where an s3:// location is out of reach.
    """
    hub = _hub_spec(spec)
    if "|" in spec:
        parts = [part.strip() for part in spec.split("|")]
        if len(parts) != 2 or not all(parts):
            raise DataError(f"{spec!r} names {len(parts)} files; give SOURCE_FILE|TARGET_FILE")
        with _text_file(parts[0]) as source, _text_file(parts[1]) as target:
            yield from read_aligned(source, target, pick)
    elif hub is not None:
        name, config, split = hub
        yield from _read_dataset(spec, _load_hub(name, config, split), pick)
    elif (saved := _saved_dataset(spec)) is not None:
        yield from _read_dataset(spec, saved, pick)
    else:
        for file, path in _data_files(spec):
            yield from _READERS[_format(file)](file, path, pick)


# --- from a spec to files ---------------------------------------------------------------------


def _format(file: str) -> str:
    name = file.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in _READERS or (suffix == ".parquet" and name != file.lower()):
        raise DataError(
            f"{file}: unknown format {Path(file).suffix or '(no suffix)'!r}; use "
            f"{', '.join(_READERS)} (text formats also with .gz)"
        )
    return suffix


def _is_data_file(file: str) -> bool:
    return Path(file.lower().removesuffix(".gz")).suffix in _READERS


def _is_glob(spec: str) -> bool:
    return any(character in spec for character in "*?[")


def _data_files(spec: str) -> Iterator[tuple[str, Path]]:
    """(name for messages, local path) of every file of `spec`; s3:// files exist until the next."""
    if spec.startswith("s3://"):
        yield from _s3_files(spec)
        return
    path = Path(spec)
    if _is_glob(spec) and not path.exists():
        found = sorted(match for match in glob.glob(spec, recursive=True) if Path(match).is_file())
    elif path.is_dir():
        found = sorted(str(item) for item in path.iterdir() if _is_data_file(item.name))
    elif path.is_file():
        found = [spec]
    else:
        raise DataError(
            f"{spec}: no such file or folder; check the path (relative to {Path.cwd()})"
        )
    if not found:
        raise DataError(
            f"{spec}: no data file here; give a file, a folder or a glob of {', '.join(_READERS)}"
        )
    for file in found:
        yield file, Path(file)


def _s3_files(spec: str) -> Iterator[tuple[str, Path]]:
    folder, _, last = spec.rpartition("/")
    if _is_data_file(last) and not _is_glob(last):
        storage, keys = Storage(folder), [last]
    elif _is_glob(last):
        storage = Storage(folder)
        keys = [item.key for item in storage.list() if fnmatch.fnmatchcase(item.key, last)]
    else:
        folder = spec.rstrip("/")
        storage = Storage(folder)
        keys = [item.key for item in storage.list() if _is_data_file(item.key)]
    keys = sorted(key for key in keys if "/" not in key)
    if not keys:
        raise DataError(f"{spec}: no data file here; check the bucket, the key and the wildcard")
    with tempfile.TemporaryDirectory() as scratch:
        for key in keys:
            path = Path(scratch) / key
            storage.download(key, path)
            yield f"{folder}/{key}", path
            path.unlink()


@contextmanager
def _text_file(part: str) -> Iterator[tuple[str, Path]]:
    """(name, local path) of one plain-text file; an s3:// object is fetched for the while."""
    if not part.startswith("s3://"):
        if not Path(part).is_file():
            raise DataError(f"{part}: no such file; check the path (relative to {Path.cwd()})")
        yield part, Path(part)
        return
    folder, _, key = part.rpartition("/")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / key
        Storage(folder).download(key, path)
        yield part, path


# --- Arrow formats ----------------------------------------------------------------------------


def _read_parquet(file: str, path: Path, pick: PickColumns) -> Iterator[RawRows]:
    try:
        with pq.ParquetFile(path) as parquet:
            columns = pick(file, parquet.schema_arrow.names)
            batches = parquet.iter_batches(CHUNK_ROWS, columns=list(columns.values()))
            yield from _arrow_rows(file, columns, batches, {})
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error}); write it again") from error


def _arrow_rows(
    file: str,
    columns: Mapping[str, str],
    batches: Iterable[Any],
    class_names: Mapping[str, Sequence[str]],
) -> Iterator[RawRows]:
    first = 1
    for batch in batches:
        values = {name: _arrow_values(batch.column(column)) for name, column in columns.items()}
        yield RawRows(file, range(first, first + batch.num_rows), columns, values, class_names)
        first += batch.num_rows


def _arrow_values(column: Any) -> list[Any]:
    # As bytes, so that text that is not UTF-8 is found by the check that knows its row
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _read_dataset(spec: str, dataset: Any, pick: PickColumns) -> Iterator[RawRows]:
    flat = dataset.flatten()  # a struct column {"translation": {"en", "ko"}} -> "translation.en"
    columns = pick(spec, flat.column_names)
    class_names = {
        name: flat.features[column].names
        for name, column in columns.items()
        if isinstance(flat.features[column], datasets.ClassLabel)
    }
    chosen = flat.select_columns(list(columns.values())).with_format("arrow")
    yield from _arrow_rows(spec, columns, chosen.iter(CHUNK_ROWS), class_names)


def _saved_dataset(spec: str) -> Any | None:
    """The data set of a folder that `Dataset.save_to_disk` wrote, or None."""
    folder, _, split = (spec, "", "") if Path(spec).exists() else spec.rpartition("@")
    if (Path(folder) / "dataset_dict.json").is_file():
        saved = datasets.load_from_disk(folder)
        if (split or "train") not in saved:
            raise DataError(
                f"{spec}: no split {split or 'train'!r} (found: {', '.join(saved)}); "
                f"name one, as in {folder}@{next(iter(saved))}"
            )
        return saved[split or "train"]
    if (Path(folder) / "state.json").is_file():
        return datasets.load_from_disk(folder)
    return None


# --- the Hugging Face hub ---------------------------------------------------------------------


def _hub_spec(spec: str) -> tuple[str, str | None, str] | None:
    """(name, config, split) where `spec` can only mean a hub data set, or None."""
    named = spec.startswith("hub:")
    match = _HUB_SPEC.fullmatch(spec.removeprefix("hub:"))
    if named and match is None:
        raise DataError(f"{spec!r} is no hub data set; write hub:owner/name:config@split")
    if match is None or (not named and (_is_local(spec) or _is_data_file(spec))):
        return None
    return match["name"], match["config"], match["split"] or "train"


def _is_local(spec: str) -> bool:
    return Path(spec).exists() or (Path(spec.rpartition("@")[0]).is_dir() and "@" in spec)


def _load_hub(name: str, config: str | None, split: str) -> Any:
    shown = f"{name}:{config}@{split}" if config else f"{name}@{split}"
    ask_hub("data set", name, DataError)
    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{shown!r} is no local path, and no hub data set that loads ({cut(reason, 300)}); "
            "check path, name, config and split, and the network or HF_HUB_OFFLINE"
        ) from error


_READERS: dict[str, Callable[[str, Path, PickColumns], Iterator[RawRows]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": _read_parquet,
}
