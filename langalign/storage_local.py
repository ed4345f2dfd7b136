"""The local half of storage.py: plain files, written so that no reader sees half of one.

For storage.py and artifacts.py; all others use `langalign.storage.Storage`.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from langalign.errors import ObjectMissing, StorageError

TEMPORARY_PREFIX = ".langalign-tmp-"
COPY_BYTES = 8 * 2**20

_IN_THE_WAY = "a file or folder is in the way", "move it or choose another folder"
_NO_SPACE = "no space left", "free space, raise the quota or choose another folder"
_NO_PERMISSION = "permission denied", "change the folder's permissions or choose another folder"
_WORDS = {
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: ("read-only file system", "choose another folder"),
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: _NO_SPACE,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTEMPTY: _IN_THE_WAY,
    errno.ENOENT: ("no such file", "check the path"),
    errno.ENAMETOOLONG: ("name too long", "use a shorter name"),
}
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def local_faults(place: str) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError about `place`."""
    try:
        yield
    except OSError as error:
        cause, remedy = _WORDS.get(
            error.errno or 0, (error.strerror or type(error).__name__, "check the disk")
        )
        raise StorageError(f"storage {place}: {cause}: {remedy}") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well, and vanishes if not."""
    with _temporary_file(path) as (file, temporary):
        yield file
        _flush(file)
        os.replace(temporary, path)
        _flush_folder(path.parent)


@contextmanager
def _temporary_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalBackend:
    """Objects as files below a folder, which is made when something is first written."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def uri(self, key: str) -> str:
        return str(self._root / key)

    def exists(self, key: str) -> bool:
        with self._faults(key):
            return (self._root / key).is_file()

    def read(self, key: str) -> bytes:
        with self._faults(key), self._reader(key) as file:
            return file.read()

    def write(self, key: str, data: bytes) -> None:
        with self._faults(key), atomic_file(self._root / key) as file:
            file.write(data)

    def create(self, key: str, data: bytes) -> bool:
        """Write unless the key holds an object; False if it does."""
        path = self._root / key
        with self._faults(key), _temporary_file(path) as (file, temporary):
            file.write(data)
            _flush(file)
            try:
                os.link(temporary, path)  # unlike a rename, it never replaces
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                # exFAT and some network mounts: look, then rename.
                if path.exists():
                    return False
                os.replace(temporary, path)
            _flush_folder(path.parent)
            return True

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._faults(prefix):
            for path in self._files(self._root / prefix):
                try:
                    size_bytes = path.stat().st_size
                except FileNotFoundError:
                    continue  # deleted since the folder was read
                yield path.relative_to(self._root).as_posix(), size_bytes

    def folders(self, prefix: str) -> list[str]:
        folder = self._root / prefix
        with self._faults(prefix):
            if not folder.is_dir():
                return []
            # As on S3, a folder that holds no object does not exist.
            return [
                entry.name
                for entry in folder.iterdir()
                if entry.is_dir() and any(True for _ in self._files(entry))
            ]

    def delete(self, key: str) -> None:
        with self._faults(key):
            try:
                (self._root / key).unlink(missing_ok=True)
            except NotADirectoryError:
                return  # a file stands where the key needs a folder: the key holds nothing

    def delete_folder(self, prefix: str) -> None:
        folder = self._root / prefix
        with self._faults(prefix):
            if folder.is_dir():
                shutil.rmtree(folder)

    def send(self, path: Path, key: str) -> None:
        with self._faults(key), path.open("rb") as source, atomic_file(self._root / key) as file:
            shutil.copyfileobj(source, file, COPY_BYTES)

    def receive(self, key: str, file: BinaryIO) -> None:
        with self._faults(key), self._reader(key) as source:
            shutil.copyfileobj(source, file, COPY_BYTES)

    def _faults(self, key: str) -> AbstractContextManager[None]:
        return local_faults(self.uri(key))

    @contextmanager
    def _reader(self, key: str) -> Iterator[BinaryIO]:
        try:
            file = (self._root / key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._missing(key)
        with file:
            yield file

    def _missing(self, key: str) -> NoReturn:
        raise ObjectMissing(f"storage {self.uri(key)}: no such object: check the key") from None

    def _files(self, folder: Path) -> Iterator[Path]:
        for parent, _, names in os.walk(folder, onerror=_raise_unless_missing):
            for name in names:
                if not name.startswith(TEMPORARY_PREFIX):
                    yield Path(parent, name)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
