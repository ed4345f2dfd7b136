"""Publish, list, load and verify model versions.

    models/<name>/<version>/   manifest.json, config.json, encoder/, aligner.safetensors,
                               head.safetensors, README.md
    models/<name>/latest.json  pointer, replaced atomically

A version is immutable. `manifest.json` is written last and names the sha256 and size of every
other file: without it the version does not exist, and a reader refuses a file that differs.
"""

import hashlib
import json
import os
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from langalign.errors import ArtifactError, IntegrityError, ObjectMissing
from langalign.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    ManifestDraft,
    check_file,
    check_format,
    checked_name,
    first_fault,
)
from langalign.modelcache import cached_folder, download_version, is_intact
from langalign.storage import Storage, checked_key, parse_root, sha256_file
from langalign.storage_local import TEMPORARY_PREFIX, local_faults

__all__ = [
    "Manifest",
    "ManifestDraft",
    "ModelInfo",
    "PublishedModel",
    "fetch",
    "find_version",
    "list_models",
    "list_versions",
    "parse_model_uri",
    "publish",
    "read_manifest",
    "verify",
]

MODELS = "models"
LATEST = "latest"
POINTER = f"{LATEST}.json"
REQUIRED_FILES = ("config.json", "head.safetensors", "README.md")
ENCODER = "encoder/"


@dataclass(frozen=True)
class PublishedModel:
    """Where a published version lies."""

    name: str
    version: str
    uri: str


@dataclass(frozen=True)
class ModelInfo:
    """A model's versions, sorted, and the one latest.json names (None if it names none of them)."""

    name: str
    versions: tuple[str, ...]
    latest: str | None


def publish(
    storage: Storage, folder: Path, draft: ManifestDraft, *, name: str, version: str | None = None
) -> PublishedModel:
    """Copy `folder` to models/<name>/<version>/, write its manifest last, point latest.json at it.

    Without `version`, it is "v-" and 12 hexadecimal digits of a sha256 over the files and the
    draft, so publishing the same thing twice gives the same version. An existing version with
    other content is refused, and so is a folder that lacks a required file or holds a pickle:
    ArtifactError. What an interrupted publish left is invisible, and overwritten by the next.

    Two different models published at the same moment under one explicit version: one manifest
    wins, the other call is refused, and if their files mixed, every reader refuses the version.
    """
    checked_name(name)
    files = _scan(folder)
    version = checked_name(version or f"v-{_content_digest(draft, files)[:12]}")
    manifest = Manifest(
        **draft.model_dump(),
        name=name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        files=files,
    )
    base = _version_folder(name, version)
    if not storage.exists(f"{base}/{MANIFEST}"):
        for leftover in _stored_sizes(storage, base).keys() - files.keys() - {MANIFEST}:
            storage.delete(f"{base}/{leftover}")
        for file_name in files:
            storage.upload(folder / file_name, f"{base}/{file_name}")
        storage.create_bytes(f"{base}/{MANIFEST}", manifest.to_json())
    # Read back also after writing: another publisher may have been first.
    if read_manifest(storage, name, version).content() != manifest.content():
        raise ArtifactError(
            f"model {name} version {version} exists in {storage.root} with other content: "
            "versions are immutable, so publish under another version or leave it out"
        )
    storage.write_json(f"{MODELS}/{name}/{POINTER}", {"name": name, "version": version})
    return PublishedModel(name, version, storage.uri(base))


def list_models(storage: Storage) -> list[ModelInfo]:
    """All models with at least one whole version, sorted by name."""
    return [
        ModelInfo(name, tuple(versions), latest if latest in versions else None)
        for name, versions in _versions_by_name(storage, MODELS).items()
        for latest in [_pointed_version(storage, name)]
    ]


def list_versions(storage: Storage, name: str) -> list[str]:
    """The versions of a model that have a manifest, sorted by name; empty if there are none."""
    return _versions_by_name(storage, f"{MODELS}/{checked_name(name)}").get(name, [])


def find_version(storage: Storage, name: str, version: str = LATEST) -> str:
    """The name of a version, or of the one latest.json names; its manifest is not read.

    ArtifactError, listing what exists, if there is no such version.
    """
    found = _wanted_version(storage, name, version)
    if not storage.exists(f"{_version_folder(name, found)}/{MANIFEST}"):
        raise _not_found(storage, name, found)
    return found


def read_manifest(storage: Storage, name: str, version: str = LATEST) -> Manifest:
    """The manifest of a version, or of the one latest.json names.

    ArtifactError, listing what exists, if there is no such version; IntegrityError if the
    manifest is damaged, unsafe, or belongs to another version.
    """
    version = _wanted_version(storage, name, version)
    key = f"{_version_folder(name, version)}/{MANIFEST}"
    try:
        data = storage.read_bytes(key)
    except ObjectMissing:
        raise _not_found(storage, name, version) from None
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(
            f"{storage.uri(key)}: {first_fault(error)}: damaged, or written by another release of "
            "LangAlign; publish the model again or change the release"
        ) from error
    if (manifest.name, manifest.version) != (name, version):
        raise IntegrityError(
            f"{storage.uri(key)} is the manifest of {manifest.name}/{manifest.version}: "
            "a version cannot be renamed or copied; publish the model again"
        )
    return manifest


def verify(storage: Storage, name: str, version: str = LATEST) -> Manifest:
    """Check the sha256, size and format of every file of a version, and that there are no others.

    Raises IntegrityError naming the file; ArtifactError for a file that may hold a pickle.
    """
    manifest = read_manifest(storage, name, version)
    base = _version_folder(name, manifest.version)
    _check_listing(storage, base, manifest)
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX) as scratch:
        for file_name, record in manifest.files.items():
            place = storage.uri(f"{base}/{file_name}")
            path = Path(scratch, "file") if storage.is_s3 else Path(place)
            if storage.is_s3:
                storage.download(f"{base}/{file_name}", path)
            check_file(path, file_name, record, place)
    return manifest


def fetch(
    storage: Storage, name: str, version: str = LATEST, *, cache_dir: Path | None = None
) -> Path:
    """A local folder with the verified files of a version, manifest.json included.

    Local storage is verified in place. From S3 the files go to `cache_dir` (default
    ~/.cache/langalign/models, see modelcache.py), and are used again only while their hashes match
    the manifest.
    """
    if not storage.is_s3:
        manifest = verify(storage, name, version)
        return Path(storage.uri(_version_folder(name, manifest.version)))
    manifest = read_manifest(storage, name, version)
    folder = cached_folder(storage, manifest, cache_dir)
    if not is_intact(folder, manifest):
        base = _version_folder(name, manifest.version)
        _check_listing(storage, base, manifest)
        download_version(storage, base, manifest, folder)
    return folder


def parse_model_uri(uri: str) -> tuple[Storage, str, str]:
    """(storage, name, version) of ROOT/models/NAME[/VERSION], local or s3://; it must exist.

    Without a version, the third value is "latest". ArtifactError lists what exists otherwise.
    """
    bucket, path = parse_root(uri)
    segments = path.split("/")
    for tail in (1, 2):
        if len(segments) > tail and segments[-tail - 1] == MODELS:
            break
    else:
        raise ArtifactError(f"model address {uri}: expected ROOT/{MODELS}/NAME or with /VERSION")
    name, version = [*segments[-tail:], LATEST][:2]
    root = "/".join(segments[: -tail - 1])
    storage = Storage(f"s3://{bucket}/{root}" if bucket else root or "/")
    find_version(storage, name, version)
    return storage, name, version


def _scan(folder: Path) -> dict[str, FileRecord]:
    """Hash every file of a folder that is fit to publish, by its name below the folder."""
    files: dict[str, FileRecord] = {}
    with local_faults(str(folder)):
        for parent, folders, names in os.walk(folder, onerror=_raise):
            for linked in (Path(parent, name) for name in folders):
                if linked.is_symlink():
                    raise ArtifactError(f"{linked} is a linked folder: copy its files instead")
            for path in (Path(parent, name) for name in names):
                file_name = checked_key(path.relative_to(folder).as_posix())
                check_format(path, file_name, str(path))
                files[file_name] = FileRecord(
                    sha256=sha256_file(path), size_bytes=path.stat().st_size
                )
    missing = [name for name in REQUIRED_FILES if name not in files]
    if not any(name.startswith(ENCODER) for name in files):
        missing.append(ENCODER)
    if missing:
        raise ArtifactError(f"model folder {folder} lacks {', '.join(missing)}: save them first")
    if MANIFEST in files:
        raise ArtifactError(
            f"model folder {folder} holds a {MANIFEST}: publish writes it, remove it"
        )
    return dict(sorted(files.items()))


def _raise(error: OSError) -> None:
    raise error


def _content_digest(draft: ManifestDraft, files: dict[str, FileRecord]) -> str:
    content = {
        "draft": draft.model_dump(mode="json"),
        "files": {name: record.sha256 for name, record in files.items()},
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _version_folder(name: str, version: str) -> str:
    return f"{MODELS}/{name}/{version}"


def _stored_sizes(storage: Storage, base: str) -> dict[str, int]:
    return {item.key.removeprefix(f"{base}/"): item.size_bytes for item in storage.list(base)}


def _versions_by_name(storage: Storage, prefix: str) -> dict[str, list[str]]:
    versions: dict[str, list[str]] = {}
    for item in storage.list(prefix):
        segments = item.key.split("/")
        if len(segments) == 4 and segments[3] == MANIFEST:
            versions.setdefault(segments[1], []).append(segments[2])
    return {name: sorted(found) for name, found in sorted(versions.items())}


def _wanted_version(storage: Storage, name: str, version: str) -> str:
    checked_name(name)
    if version == LATEST:
        version = _pointed_version(storage, name) or LATEST
    if version == LATEST:
        raise _not_found(storage, name, version)
    return checked_name(version)


def _pointed_version(storage: Storage, name: str) -> str | None:
    try:
        pointer = storage.read_json(f"{MODELS}/{name}/{POINTER}")
    except ObjectMissing:
        return None
    version = pointer.get("version") if isinstance(pointer, dict) else None
    return version if isinstance(version, str) else None


def _not_found(storage: Storage, name: str, version: str) -> ArtifactError:
    def some(names: Iterable[str]) -> str:
        return textwrap.shorten(", ".join(names), 500, placeholder=" ...")

    versions = list_versions(storage, name)
    if versions:
        return ArtifactError(
            f"model {name} in {storage.root} has no version {version}: choose from {some(versions)}"
        )
    names = some(_versions_by_name(storage, MODELS))
    return ArtifactError(
        f"no model {name} in {storage.root}: "
        + (f"choose from {names}" if names else "it holds no models yet, publish one first")
    )


def _check_listing(storage: Storage, base: str, manifest: Manifest) -> None:
    """Cheap first look: names and sizes, without reading the files."""
    stored = _stored_sizes(storage, base)
    for name, record in manifest.files.items():
        if stored.get(name) != record.size_bytes:
            found = f"{stored[name]} bytes" if name in stored else "missing"
            raise IntegrityError(
                f"{storage.uri(base)}/{name} is {found}, the manifest says {record.size_bytes} "
                "bytes: the version is damaged, publish the model again under another version"
            )
    for name in sorted(stored.keys() - manifest.files.keys() - {MANIFEST}):
        raise IntegrityError(f"{storage.uri(base)}/{name} is not in the manifest: delete that file")
