"""Model versions fetched from S3, on this machine.

    <cache>/<storage>/<name>/<version>/    verified files, manifest.json included

A file that a cached version of the same storage holds already, as the encoder that many models
share, is linked instead of downloaded. Nothing is deleted here: anybody may delete the folder of a
version, and it is fetched again when it is needed.
"""

import errno
import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from langalign.errors import IntegrityError
from langalign.manifest import MANIFEST, FileRecord, Manifest, check_file
from langalign.outputs import default_cache
from langalign.storage import Storage
from langalign.storage_local import TEMPORARY_PREFIX, local_faults

__all__ = ["cached_folder", "download_version", "is_intact"]


def cached_folder(storage: Storage, manifest: Manifest, cache: Path | None = None) -> Path:
    """Where a version lies; `cache` is ~/.cache/langalign/models by default."""
    root = hashlib.sha256(storage.root.encode()).hexdigest()[:12]
    return (cache or default_cache() / "models") / root / manifest.name / manifest.version


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Whether a cached folder holds exactly what the manifest says."""
    if _manifest_of(folder) != manifest:
        return False
    try:
        for name, record in manifest.files.items():
            check_file(folder / name, name, record, str(folder / name))
    except (FileNotFoundError, NotADirectoryError, IntegrityError):
        return False
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return present == {*manifest.files, MANIFEST}


def download_version(storage: Storage, base: str, manifest: Manifest, folder: Path) -> None:
    """Put the files below the key `base` into `folder`, over a damaged one if need be.

    Raises:
        IntegrityError: a stored file is not what the manifest says.
        ArtifactError: a file may hold a pickle.
        StorageError: the storage or the disk fails.
    """
    with local_faults(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        known = _known_files(folder.parents[1])
        with TemporaryDirectory(dir=folder.parent, prefix=TEMPORARY_PREFIX) as scratch:
            fresh = Path(scratch, "fresh")
            for name, record in manifest.files.items():
                key, path = f"{base}/{name}", fresh / name
                if record.sha256 in known and _is_linked(known[record.sha256], path, name, record):
                    continue
                storage.download(key, path)
                check_file(path, name, record, storage.uri(key))
            (fresh / MANIFEST).write_bytes(manifest.to_json())
            _install(fresh, folder, manifest)


def _known_files(root: Path) -> dict[str, Path]:
    """Files of all cached versions by the sha256 of their manifests; they may be damaged."""
    folders = [path.parent for path in root.glob(f"*/*/{MANIFEST}")]
    return {
        record.sha256: folder / name
        for folder in folders
        if (manifest := _manifest_of(folder)) is not None
        for name, record in manifest.files.items()
    }


def _manifest_of(folder: Path) -> Manifest | None:
    """The manifest of a cached folder, None where it is missing or damaged."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def _is_linked(known: Path, path: Path, name: str, record: FileRecord) -> bool:
    """Link `path` to a known file; False where that cannot be done, or the file is damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(known, path)
    except OSError:
        # Gone meanwhile, or a file system without links. Downloading finds a fault of the disk.
        return False
    try:
        check_file(path, name, record, str(known))
    except IntegrityError:
        path.unlink()
        return False
    return True


def _install(fresh: Path, folder: Path, manifest: Manifest) -> None:
    """Move a verified download to its place, over a damaged one if need be."""
    try:
        os.rename(fresh, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not is_intact(folder, manifest):  # else another process was first
            os.rename(folder, fresh.with_name("damaged"))
            os.rename(fresh, folder)
