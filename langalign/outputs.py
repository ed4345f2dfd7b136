"""Step outputs: folders named by a digest of all that went into them, finished by a manifest.

A step writes its files and then `manifest.json` with the sha256 and size of each; without that
file the step is not done. Reading checks the hash, so a truncated or altered file is found where
it is used, and an `IntegrityError` names the folder to build again.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langalign.errors import IntegrityError
from langalign.storage import Storage, sha256_file

__all__ = ["StepOutput", "digest_of"]

MANIFEST = "manifest.json"


def digest_of(*parts: object) -> str:
    """32 hex digits of a sha256 over plain values (JSON with sorted keys)."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class StepOutput:
    """One folder of a storage, written once and then only read."""

    storage: Storage
    prefix: str

    def key(self, name: str) -> str:
        """Storage key of one of its files."""
        return f"{self.prefix}/{name}"

    def is_done(self) -> bool:
        """Whether the manifest is there."""
        return self.storage.exists(self.key(MANIFEST))

    def manifest(self) -> dict[str, Any]:
        """The manifest: `info` as given to `finish`, and `files`."""
        manifest: dict[str, Any] = self.storage.read_json(self.key(MANIFEST))
        return manifest

    def info(self) -> dict[str, Any]:
        """What the step said of itself."""
        info: dict[str, Any] = self.manifest()["info"]
        return info

    def seconds(self) -> float:
        """What a finished step took: as it noted, or all its epochs together."""
        info = self.info()
        epochs = info.get("history", [])
        return float(info.get("seconds", sum(epoch["seconds"] for epoch in epochs)))

    def write(self, name: str, data: bytes) -> dict[str, Any]:
        """Write one file; returns its record for `finish`."""
        self.storage.write_bytes(self.key(name), data)
        return {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}

    def write_folder(self, folder: Path, name: str = "") -> dict[str, dict[str, Any]]:
        """Upload every file below a local folder; returns their records."""
        records = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            relative = "/".join(filter(None, [name, path.relative_to(folder).as_posix()]))
            self.storage.upload(path, self.key(relative))
            records[relative] = {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
        return records

    def finish(self, files: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any]) -> None:
        """Write the manifest: from now on the step is done."""
        self.storage.write_json(self.key(MANIFEST), {"info": dict(info), "files": dict(files)})

    def read(self, name: str) -> bytes:
        """One file, checked against the manifest.

        Raises:
            IntegrityError: its bytes are not the recorded ones.
        """
        data = self.storage.read_bytes(self.key(name))
        self._check(name, hashlib.sha256(data).hexdigest(), self.manifest()["files"][name])
        return data

    def download(self, name: str, path: Path) -> None:
        """Copy one file to a local path, checked against the manifest.

        Raises:
            IntegrityError: its bytes are not the recorded ones.
        """
        record = self.manifest()["files"][name]
        self.storage.download(self.key(name), path)
        self._check(name, sha256_file(path), record)

    def fetch(self, cache: Path | None = None) -> Path:
        """A local folder with all files, checked; a local storage is checked where it lies.

        Raises:
            IntegrityError: the bytes of a file are not the recorded ones.
        """
        files = self.manifest()["files"]
        if not self.storage.is_s3:
            folder = Path(self.storage.uri(self.prefix))
            for name, record in files.items():
                self._check(name, _sha256_or_none(folder / name), record)
            return folder
        folder = (cache or default_cache()) / self.prefix
        for name, record in files.items():
            path = folder / name
            if _sha256_or_none(path) != record["sha256"]:
                self.download(name, path)
        return folder

    def discard(self) -> None:
        """Forget the step; the manifest goes first, so that a half-deleted step is not done."""
        self.storage.delete(self.key(MANIFEST))
        self.storage.delete_folder(self.prefix)

    def _check(self, name: str, found: str | None, record: Mapping[str, Any]) -> None:
        if found != record["sha256"]:
            raise IntegrityError(
                f"{self.storage.uri(self.key(name))} is truncated or altered: sha256 is {found}, "
                f"its manifest says {record['sha256']}",
                self.prefix,
            )


def default_cache() -> Path:
    """Per-user folder for files fetched from S3 storage."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    try:
        folder = Path(home) / "langalign"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A container without a writable home still has a temporary folder.
        folder = Path(tempfile.gettempdir()) / f"langalign-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _sha256_or_none(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None
