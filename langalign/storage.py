"""The one place that knows local folders and s3:// endpoints.

A Storage is a root plus relative keys. Endpoint and credentials come only from the standard AWS
variables, profiles or roles of the process that calls; a pickled Storage holds none of them.
"""

import builtins
import hashlib
import json
import os
import re
import threading
import uuid
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from langalign.errors import ConfigError, StorageError
from langalign.storage_local import TEMPORARY_PREFIX, LocalBackend, atomic_file, local_faults
from langalign.storage_s3 import S3Backend

STORAGE_VARIABLE = "LANGALIGN_STORAGE"
DEFAULT_ROOT = "./langalign-storage"
RETRY_DEADLINE_S = 90.0
READ_TIMEOUT_S = 30.0
CHECK_READ_TIMEOUT_S = 5.0
CHECK_LIMIT_S = 25.0  # name look-ups and role requests have time-outs of their own, longer ones

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
_FORBIDDEN_IN_KEY = re.compile(r"[\x00-\x1f\x7f\\?#]")


@dataclass(frozen=True, order=True)
class StoredObject:
    """A key relative to the storage it was listed from, and its size."""

    key: str
    size_bytes: int


class Storage:
    """Read and write objects below one root, local or S3, in the same way.

    Keys are relative POSIX paths. Every fault is a StorageError that names the place, the cause
    and the remedy; a bad root or key is a ConfigError. On S3, transient faults are retried with
    backoff until `retry_deadline_s` seconds after the first.
    """

    def __init__(self, root: str, *, retry_deadline_s: float = RETRY_DEADLINE_S) -> None:
        self._bucket, self._folder = parse_root(root)
        self.is_s3 = bool(self._bucket)
        prefix = f"/{self._folder}" if self._folder else ""
        self.root = f"s3://{self._bucket}{prefix}" if self.is_s3 else self._folder
        self._retry_deadline_s = retry_deadline_s
        self._backend = self._open(retry_deadline_s, READ_TIMEOUT_S)

    @classmethod
    def from_environment(cls, root: str | None = None) -> "Storage":
        """`root`, else $LANGALIGN_STORAGE, else ./langalign-storage."""
        return cls(root or os.environ.get(STORAGE_VARIABLE) or DEFAULT_ROOT)

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "retry_deadline_s": self._retry_deadline_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Storage.__init__(self, state["root"], retry_deadline_s=state["retry_deadline_s"])

    def uri(self, key: str) -> str:
        """Full local path or s3:// URI of a key."""
        return self._backend.uri(checked_key(key))

    def folder(self, prefix: str) -> "Storage":
        """A Storage rooted at `prefix` below this one."""
        return Storage(self.uri(prefix), retry_deadline_s=self._retry_deadline_s)

    def check(self) -> None:
        """Write, read back and delete a probe object, without retries, within 30 s.

        Raises StorageError naming the root, the cause and the remedy.
        """
        outcome: Future[None] = Future()

        def probe() -> None:
            try:
                self._probe()
            except BaseException as error:  # noqa: BLE001 (raised again by `result`)
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        # A daemon, because the process must be able to end while a probe still hangs.
        threading.Thread(target=probe, daemon=True, name="storage-check").start()
        try:
            outcome.result(timeout=CHECK_LIMIT_S)
        except TimeoutError:
            raise StorageError(
                f"storage {self.root}: no answer within {CHECK_LIMIT_S:.0f} s: check the network, "
                "name look-up, and AWS_ENDPOINT_URL_S3 if set"
            ) from None

    def _probe(self) -> None:
        backend = self._open(0.0, CHECK_READ_TIMEOUT_S)
        key = f".langalign-probe-{uuid.uuid4().hex}"
        backend.write(key, key.encode())
        found = backend.read(key)
        backend.delete(key)
        if found != key.encode():
            raise StorageError(
                f"storage {self.root}: a probe object read back with other bytes: "
                "check the server or the disk"
            )

    def exists(self, key: str) -> bool:
        return self._backend.exists(checked_key(key))

    def read_bytes(self, key: str) -> bytes:
        """Raises ObjectMissing if the key holds no object."""
        return self._backend.read(checked_key(key))

    def write_bytes(self, key: str, data: bytes) -> None:
        """Atomic: a reader sees the old object or the new one, never a part."""
        self._backend.write(checked_key(key), data)

    def create_bytes(self, key: str, data: bytes) -> bool:
        """Write only if the key holds no object, atomically; False if it does.

        After a retried fault on S3, False may mean that this very call wrote it: compare.
        """
        return self._backend.create(checked_key(key), data)

    def read_json(self, key: str) -> Any:
        """Raises ObjectMissing if absent, StorageError if the object is not JSON."""
        try:
            return json.loads(self.read_bytes(key))
        except ValueError as error:
            raise StorageError(
                f"storage {self.uri(key)}: not JSON ({error}): restore or delete the object"
            ) from error

    def write_json(self, key: str, value: Any) -> None:
        """UTF-8, indented; ValueError for NaN and infinity, which JSON does not have."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
        self.write_bytes(key, f"{text}\n".encode())

    def list(self, prefix: str = "") -> list[StoredObject]:
        """All objects below the folder `prefix`, recursively, sorted; none if it is missing."""
        return sorted(StoredObject(*item) for item in self._backend.sizes(_checked_prefix(prefix)))

    def folders(self, prefix: str = "") -> builtins.list[str]:
        """Names of the immediate sub-folders of `prefix` that hold an object, sorted.

        Some S3 servers show a folder for a moment after its last object was deleted.
        """
        return sorted(self._backend.folders(_checked_prefix(prefix)))

    def delete(self, key: str) -> None:
        """Deleting a key that holds nothing is not an error."""
        self._backend.delete(checked_key(key))

    def delete_folder(self, prefix: str) -> None:
        """Delete everything below `prefix`; the root itself is refused with ConfigError."""
        self._backend.delete_folder(checked_key(prefix))

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file into the storage, streamed, atomic."""
        with local_faults(str(path)):
            path.stat()
        self._backend.send(path, checked_key(key))

    def download(self, key: str, path: Path) -> None:
        """Copy an object to a local file, streamed; `path` appears only when it is whole."""
        checked_key(key)
        with local_faults(str(path)), atomic_file(path) as file:
            self._backend.receive(key, file)

    def _open(self, retry_deadline_s: float, read_timeout_s: float) -> LocalBackend | S3Backend:
        if not self.is_s3:
            return LocalBackend(Path(self._folder))
        return S3Backend(
            self._bucket,
            self._folder,
            retry_deadline_s=retry_deadline_s,
            read_timeout_s=read_timeout_s,
        )


def sha256_file(path: Path) -> str:
    """Lower-case hexadecimal sha256 of a local file, read in pieces."""
    with local_faults(str(path)), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_root(root: str) -> tuple[str, str]:
    """(bucket, prefix) of an s3:// root, ("", absolute folder) of a local one; else ConfigError."""
    scheme = _SCHEME.match(root)
    if scheme is None:
        return "", _absolute(root)
    # A user may have put a key or a signed query into the URI: neither goes into the message.
    shown = re.sub(r":/+.*@", "://***@", root.partition("?")[0])
    kind, _, rest = root.partition("://")
    if kind.lower() == "file" and rest.removeprefix("localhost").startswith("/"):
        return "", _absolute(unquote(rest.removeprefix("localhost")))
    if kind.lower() != "s3" or not rest:
        raise ConfigError(
            f"storage {shown}: unknown kind of address: give s3://bucket/prefix or a local folder"
        )
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    if _BUCKET.fullmatch(bucket) is None or "?" in root:
        raise ConfigError(
            f"storage {shown}: not s3://bucket/prefix: keys and endpoints do not belong in it, "
            "set the AWS_* variables instead"
        )
    return bucket, _checked_prefix(prefix)


def checked_key(key: str) -> str:
    """`key` itself if it is a relative POSIX path that cannot leave the root, else ConfigError."""
    segments = key.split("/")
    if _FORBIDDEN_IN_KEY.search(key) or not _encodes(key):
        rule = "no control characters, backslash, ? or #"
    elif any(segment in ("", ".", "..") for segment in segments):
        rule = "a relative path without empty, . or .. segments"
    elif any(segment.startswith(TEMPORARY_PREFIX) for segment in segments):
        rule = f"{TEMPORARY_PREFIX}* is reserved for files being written"
    elif len(key.encode()) > 900 or any(len(segment.encode()) > 255 for segment in segments):
        rule = "at most 900 bytes, and 255 between slashes"
    else:
        return key
    raise ConfigError(f"storage key {key[:200]!r} is not allowed: {rule}; rename it")


def _absolute(folder: str) -> str:
    try:
        expanded = os.path.expanduser(folder)
    except RuntimeError:
        expanded = ""
    if not expanded or expanded.startswith("~") or "\0" in expanded or not _encodes(expanded):
        raise ConfigError(
            f"storage {folder!r}: not a folder name: give a path or s3://bucket/prefix"
        )
    return os.path.abspath(expanded)


def _checked_prefix(prefix: str) -> str:
    return checked_key(prefix) if prefix else ""


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
