"""Cached versions: a file that many of them hold is fetched once, and never taken damaged."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from model_folder import draft, names_in
from safetensors.numpy import save_file

from langalign.artifacts import publish, read_manifest
from langalign.modelcache import cached_folder, download_version, is_intact
from langalign.storage import Storage

ENCODER = "encoder/model.safetensors"


@pytest.fixture
def storage(storage: Storage, folder: Path) -> Storage:
    """Two models that differ in their heads alone."""
    publish(storage, folder, draft(), name="one", version="v1")
    save_file({"weight": np.ones(10, dtype=np.float32)}, folder / "head.safetensors")
    publish(storage, folder, draft(), name="two", version="v1")
    return storage


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are downloaded."""
    keys: list[str] = []
    download = Storage.download

    def kept(storage: Storage, key: str, path: Path) -> None:
        keys.append(key)
        download(storage, key, path)

    monkeypatch.setattr(Storage, "download", kept)
    return keys


def cached(storage: Storage, name: str, cache: Path) -> Path:
    manifest = read_manifest(storage, name)
    folder = cached_folder(storage, manifest, cache)
    download_version(storage, f"models/{name}/v1", manifest, folder)
    assert is_intact(folder, manifest)
    assert names_in(folder) == {*manifest.files, "manifest.json"}
    return folder


def test_a_shared_encoder_is_fetched_once(
    storage: Storage, downloads: list[str], tmp_path: Path
) -> None:
    one = cached(storage, "one", tmp_path / "cache")
    assert len(downloads) == len(names_in(one)) - 1
    downloads.clear()
    two = cached(storage, "two", tmp_path / "cache")
    assert downloads == ["models/two/v1/head.safetensors"]
    assert (one / ENCODER).samefile(two / ENCODER)
    assert [path.name for path in two.parent.iterdir()] == ["v1"]


def test_a_damaged_file_is_not_taken_over(
    storage: Storage, downloads: list[str], tmp_path: Path
) -> None:
    one = cached(storage, "one", tmp_path / "cache")
    downloads.clear()
    data = bytearray((one / ENCODER).read_bytes())
    data[-1] ^= 1
    (one / ENCODER).write_bytes(data)
    cached(storage, "two", tmp_path / "cache")
    assert sorted(downloads) == [f"models/two/v1/{ENCODER}", "models/two/v1/head.safetensors"]
    assert not is_intact(one, read_manifest(storage, "one"))
    cached(storage, "one", tmp_path / "cache")


def test_without_links_everything_is_fetched(
    storage: Storage, downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    one, two = (cached(storage, name, tmp_path / "cache") for name in ("one", "two"))
    assert len(downloads) == len(names_in(one)) + len(names_in(two)) - 2
