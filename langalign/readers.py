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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from langalign.arrowfiles import read_parquet
from langalign.errors import DataError
from langalign.storage import Storage
from langalign.textfiles import (
    PickColumns,
    RawRows,
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
        from langalign.hfdatasets import load_hub, read_dataset

        yield from read_dataset(spec, load_hub(*hub), pick)
    elif (saved := _saved_place(spec)) is not None:
        from langalign.hfdatasets import load_saved, read_dataset

        yield from read_dataset(spec, load_saved(*saved), pick)
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


# --- data sets of the Hugging Face library ----------------------------------------------------


def _place_and_split(spec: str) -> tuple[str, str]:
    """FOLDER@SPLIT in its parts; the split is empty where none is named."""
    folder, at, split = spec.rpartition("@")
    return (folder, split) if at and not Path(spec).exists() else (spec, "")


def _saved_place(spec: str) -> tuple[str, str] | None:
    """(folder, split) of a data set that `Dataset.save_to_disk` wrote, or None."""
    folder, split = _place_and_split(spec)
    marks = ("dataset_dict.json", "state.json")
    return (folder, split) if any((Path(folder) / mark).is_file() for mark in marks) else None


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
    return Path(spec).exists() or Path(_place_and_split(spec)[0]).is_dir()


_READERS: dict[str, Callable[[str, Path, PickColumns], Iterator[RawRows]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
