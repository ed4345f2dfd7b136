"""Checkpoints, and Ray Train's own files, through `Storage`.

pyarrow's own S3 client gives up after a few seconds, and Ray Train ends a run when its controller
cannot write a snapshot. Storage waits for a server that is restarting, takes endpoint and
credentials from the process that calls, and pickles neither.

A checkpoint is a `StepOutput`: its manifest goes last, with hashes. Ray Train would copy it with
pyarrow, which loses the error of a file that cannot be closed, as where the disk is full: a
checkpoint without its weights would then stand as the latest one.
"""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from langalign.errors import IntegrityError, ObjectMissing
from langalign.outputs import StepOutput
from langalign.storage import Storage, sha256_file

__all__ = ["StorageHandler", "filesystem_of", "keep_state", "kept_state"]

STATE_FILE = "state.safetensors"


def keep_state(storage: Storage, folder: str, state: Path, unit: str) -> None:
    """Store a unit's state file as a checkpoint; `unit` is the prefix of its output.

    Raises:
        StorageError: the checkpoint is not whole, and will not be taken.
    """
    checkpoint = StepOutput(storage, folder)
    storage.upload(state, checkpoint.key(STATE_FILE))
    record = {"sha256": sha256_file(state), "size_bytes": state.stat().st_size}
    checkpoint.finish({STATE_FILE: record}, {"unit": unit})


def kept_state(storage: Storage, folder: str, state: Path) -> str | None:
    """Copy the state of a checkpoint to a local file; returns the prefix of its unit's output.

    None where the checkpoint is cut short, altered or gone: its unit then begins anew.
    """
    checkpoint = StepOutput(storage, folder)
    try:
        checkpoint.download(STATE_FILE, state)
        unit: str = checkpoint.info()["unit"]
    except (IntegrityError, ObjectMissing):
        return None
    return unit


def filesystem_of(storage: Storage) -> PyFileSystem:
    """A pyarrow file system whose paths are keys of `storage`."""
    return PyFileSystem(StorageHandler(storage))


class StorageHandler(FileSystemHandler):  # type: ignore[misc]
    """What Ray Train asks of a file system: whole files, and folders that exist by their files."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageHandler) and other.storage.root == self.storage.root

    def __hash__(self) -> int:
        return hash(self.storage.root)

    def get_type_name(self) -> str:
        """Shown in Ray's messages."""
        return f"langalign+{self.storage.root}"

    def normalize_path(self, path: str) -> str:
        """Ray builds paths that are normal."""
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """File, folder or nothing, for each path."""
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """Files below a folder, and the folders on the way to them."""
        base = selector.base_dir.rstrip("/")
        found = {}
        for stored in self.storage.list(base):
            inner = stored.key.removeprefix(f"{base}/").split("/")
            for depth in range(1, len(inner)):
                folder = "/".join([base, *inner[:depth]])
                found[folder] = FileInfo(folder, FileType.Directory)
            found[stored.key] = FileInfo(stored.key, FileType.File, size=stored.size_bytes)
        depth = base.count("/") + 1
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(self.storage.uri(base))
        return [
            info for path, info in found.items() if selector.recursive or path.count("/") == depth
        ]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing to do: a folder is there once a file is."""

    def delete_dir(self, path: str) -> None:
        """Delete a folder with all below it."""
        self.storage.delete_folder(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """The same: empty folders do not exist."""
        self.storage.delete_folder(path)

    def delete_root_dir_contents(self) -> None:
        """Refused: the root holds all runs."""
        raise NotImplementedError("the storage root is not to be emptied")

    def delete_file(self, path: str) -> None:
        """Delete one file."""
        self.storage.delete(path)

    def move(self, src: str, dest: str) -> None:
        """Refused: object stores cannot, and Ray Train does not ask."""
        raise NotImplementedError(f"move {src} to {dest}")

    def copy_file(self, src: str, dest: str) -> None:
        """Copy within the storage."""
        with tempfile.TemporaryDirectory() as folder:
            self.storage.download(src, Path(folder) / "file")
            self.storage.upload(Path(folder) / "file", dest)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """A local copy of the object, gone when it is closed."""
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "file"
            self.storage.download(path, local)
            return pa.PythonFile(local.open("rb"), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """See `open_input_file`."""
        return self.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """A local file that becomes an object, whole, when it is closed."""
        return pa.PythonFile(_Outgoing(self.storage, path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """Refused: objects are written whole."""
        raise NotImplementedError(f"append to {path}")

    def _info(self, path: str) -> FileInfo:
        if self.storage.exists(path):
            return FileInfo(path, FileType.File)
        if self.storage.list(path):
            return FileInfo(path, FileType.Directory)
        return FileInfo(path, FileType.NotFound)


class _Outgoing:
    """A file object that is uploaded by `close`."""

    def __init__(self, storage: Storage, key: str) -> None:
        self.storage = storage
        self.key = key
        self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (closed in close)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if self.closed:
            return
        with self._file:
            self._file.flush()
            self.storage.upload(Path(self._file.name), self.key)
