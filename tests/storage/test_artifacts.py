"""Publishing and reading model versions, on a local folder and on a real S3-compatible server."""

import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_folder import draft, names_in
from safetensors.numpy import load_file
from seaweed import SeaweedServer

from langalign.artifacts import (
    Manifest,
    ModelInfo,
    fetch,
    list_models,
    list_versions,
    parse_model_uri,
    publish,
    read_manifest,
    verify,
)
from langalign.errors import ArtifactError, IntegrityError
from langalign.storage import Storage, sha256_file


def test_a_published_model_is_fetched_whole(storage: Storage, folder: Path, tmp_path: Path) -> None:
    published = publish(storage, folder, draft(), name="reviews-ko")
    assert re.fullmatch("v-[0-9a-f]{12}", published.version)
    assert published.uri == storage.uri(f"models/reviews-ko/{published.version}")
    fetched = fetch(storage, "reviews-ko", cache_dir=tmp_path / "cache")
    assert names_in(fetched) == names_in(folder) | {"manifest.json"}
    assert np.array_equal(load_file(fetched / "head.safetensors")["weight"], np.arange(10))
    manifest = Manifest.model_validate_json((fetched / "manifest.json").read_bytes())
    assert manifest == verify(storage, "reviews-ko", published.version)
    assert manifest.files["config.json"].sha256 == sha256_file(folder / "config.json")
    assert (manifest.seed, manifest.labels) == (7, ["negative", "positive"])


def test_publishing_the_same_twice_gives_one_version(storage: Storage, folder: Path) -> None:
    first = publish(storage, folder, draft(), name="m")
    before = storage.read_bytes(f"models/m/{first.version}/manifest.json")
    other = publish(storage, folder, draft(seed=8), name="m")
    assert publish(storage, folder, draft(), name="m") == first
    assert other.version != first.version
    assert storage.read_bytes(f"models/m/{first.version}/manifest.json") == before
    assert read_manifest(storage, "m").version == first.version  # latest follows the last publish
    assert list_versions(storage, "m") == sorted([first.version, other.version])


def test_a_version_is_immutable(storage: Storage, folder: Path, tmp_path: Path) -> None:
    publish(storage, folder, draft(), name="m", version="v1")
    assert publish(storage, folder, draft(), name="m", version="v1").version == "v1"
    with pytest.raises(ArtifactError, match=r"v1 exists .* immutable"):
        publish(storage, folder, draft(seed=8), name="m", version="v1")
    (folder / "config.json").write_text('{"changed": true}')
    with pytest.raises(ArtifactError, match=r"v1 exists .* immutable"):
        publish(storage, folder, draft(), name="m", version="v1")
    assert (fetch(storage, "m", "v1", cache_dir=tmp_path) / "config.json").read_text() == "{}"


def test_an_interrupted_publish_shows_nothing_and_can_be_repeated(
    storage: Storage, folder: Path, tmp_path: Path
) -> None:
    publish(storage, folder, draft(), name="old", version="v0")
    storage.write_bytes("models/m/v1/head.safetensors", b"half of a file")
    storage.write_bytes("models/m/v1/encoder/of-another-attempt.json", b"{}")
    assert list_models(storage) == [ModelInfo("old", ("v0",), "v0")]
    assert list_versions(storage, "m") == []
    with pytest.raises(ArtifactError, match=r"no model m in .*: choose from old"):
        fetch(storage, "m", "v1", cache_dir=tmp_path / "cache")
    publish(storage, folder, draft(), name="m", version="v1")
    assert names_in(fetch(storage, "m", cache_dir=tmp_path / "cache")) == (
        names_in(folder) | {"manifest.json"}
    )


@pytest.mark.parametrize("version", [None, "v1"])
def test_publishing_at_the_same_time_agrees(
    storage: Storage, folder: Path, version: str | None
) -> None:
    with ThreadPoolExecutor(6) as pool:
        published = set(
            pool.map(
                lambda _: publish(storage, folder, draft(), name="m", version=version), range(6)
            )
        )
    assert len(published) == 1
    verify(storage, "m")
    assert list_versions(storage, "m") == [published.pop().version]


def test_one_of_two_different_models_takes_a_version(storage: Storage, folder: Path) -> None:
    def attempt(seed: int) -> int | None:
        try:
            publish(storage, folder, draft(seed=seed), name="m", version="v1")
        except ArtifactError:
            return None
        return seed

    with ThreadPoolExecutor(4) as pool:
        winners = [seed for seed in pool.map(attempt, range(4)) if seed is not None]
    assert winners == [verify(storage, "m").seed]


def test_models_are_listed(storage: Storage, folder: Path) -> None:
    assert list_models(storage) == []
    publish(storage, folder, draft(), name="b", version="2")
    publish(storage, folder, draft(), name="b", version="10")
    publish(storage, folder, draft(), name="a", version="1")
    storage.write_json("models/a/latest.json", {"name": "a", "version": "gone"})
    assert list_models(storage) == [
        ModelInfo("a", ("1",), None),
        ModelInfo("b", ("10", "2"), "10"),
    ]


def test_latest_names_a_version_that_exists(storage: Storage, folder: Path) -> None:
    publish(storage, folder, draft(), name="m", version="v1")
    storage.write_json("models/m/latest.json", {"name": "m", "version": "gone"})
    with pytest.raises(ArtifactError, match="no version gone: choose from v1"):
        read_manifest(storage, "m")
    storage.delete("models/m/latest.json")
    with pytest.raises(ArtifactError, match="no version latest: choose from v1"):
        read_manifest(storage, "m")


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda data: data[:-1], "bytes"),
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:-1] + b"\xff", "sha256"),
    ],
    ids=["truncated", "empty", "altered"],
)
@pytest.mark.parametrize("name", ["head.safetensors", "encoder/config.json"])
def test_damaged_files_are_refused(
    storage: Storage, folder: Path, tmp_path: Path, name: str, damage: Damage, finding: str
) -> None:
    publish(storage, folder, draft(), name="m", version="v1")
    key = f"models/m/v1/{name}"
    storage.write_bytes(key, damage(storage.read_bytes(key)))
    for read in (verify, lambda *which: fetch(*which, cache_dir=tmp_path / "cache")):
        with pytest.raises(IntegrityError, match=f"{re.escape(name)}.*{finding}"):
            read(storage, "m", "v1")
    assert names_in(tmp_path / "cache") == set()


def test_missing_and_unknown_files_are_refused(storage: Storage, folder: Path) -> None:
    publish(storage, folder, draft(), name="m", version="v1")
    storage.write_bytes("models/m/v1/encoder/extra.json", b"{}")
    with pytest.raises(IntegrityError, match=r"extra\.json is not in the manifest"):
        verify(storage, "m")
    storage.delete("models/m/v1/encoder/extra.json")
    storage.delete("models/m/v1/aligner.safetensors")
    with pytest.raises(IntegrityError, match=r"aligner\.safetensors is missing"):
        verify(storage, "m")


def altered_manifest(storage: Storage, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = storage.read_json("models/m/v1/manifest.json")
    change(manifest)
    storage.write_json("models/m/v1/manifest.json", manifest)


def list_file(name: str, record: dict[str, Any], manifest: dict[str, Any]) -> None:
    manifest["files"][name] = record


def unlist_file(name: str, manifest: dict[str, Any]) -> None:
    del manifest["files"][name]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda m: m["files"].update({"../../../x": m["files"]["config.json"]}), "files"),
        (lambda m: m["files"].update({"/etc/x": m["files"]["config.json"]}), "files"),
        (lambda m: m.update(schema_version=2), "schema_version"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("labels"), "labels"),
        (lambda m: m.update(version="v2"), "manifest of m/v2"),
        (lambda m: m.update(created_at="yesterday"), "created_at"),
    ],
)
def test_unsafe_manifests_are_refused(
    storage: Storage,
    folder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    finding: str,
) -> None:
    publish(storage, folder, draft(), name="m", version="v1")
    altered_manifest(storage, change)
    with pytest.raises(IntegrityError, match=finding):
        fetch(storage, "m", "v1", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_manifest_cut_short_is_refused(storage: Storage, folder: Path) -> None:
    publish(storage, folder, draft(), name="m", version="v1")
    data = storage.read_bytes("models/m/v1/manifest.json")
    storage.write_bytes("models/m/v1/manifest.json", data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=r"manifest\.json.*damaged"):
        verify(storage, "m")


def test_a_pickle_in_a_well_signed_manifest_is_refused(
    storage: Storage, folder: Path, tmp_path: Path
) -> None:
    """Whoever can write the bucket can also write matching hashes."""
    publish(storage, folder, draft(), name="m", version="v1")
    evil = tmp_path / "evil"
    evil.write_bytes(pickle.dumps({"weights": [1.0]}))
    record = {"sha256": sha256_file(evil), "size_bytes": evil.stat().st_size}
    for name in ("encoder/pytorch_model.BIN", "encoder/vocab.txt"):
        storage.upload(evil, f"models/m/v1/{name}")
        altered_manifest(storage, partial(list_file, name, record))
        with pytest.raises(ArtifactError, match=f"{name}.*pickle"):
            fetch(storage, "m", "v1", cache_dir=tmp_path / "cache")
        storage.delete(f"models/m/v1/{name}")
        altered_manifest(storage, partial(unlist_file, name))
    verify(storage, "m", "v1")


def test_model_addresses(storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(storage, folder, draft(), name="m", version="v1")
    publish(storage, folder, draft(seed=8), name="m", version="v2")
    for uri, version in (
        ("models/m", "latest"),
        ("models/m/v1", "v1"),
        ("models/m/latest", "latest"),
    ):
        found, name, found_version = parse_model_uri(storage.uri(uri))
        assert (found.root, name, found_version) == (storage.root, "m", version)
    with pytest.raises(ArtifactError, match=r"m .*has no version v3: choose from v1, v2"):
        parse_model_uri(storage.uri("models/m/v3"))
    with pytest.raises(ArtifactError, match=r"no model n .*choose from m"):
        parse_model_uri(storage.uri("models/n"))
    with pytest.raises(ArtifactError, match="holds no models yet"):
        parse_model_uri(storage.uri("elsewhere/models/n"))
    with pytest.raises(ArtifactError, match="expected ROOT/models/NAME"):
        parse_model_uri(storage.uri("m/v1"))
    if not storage.is_s3:
        monkeypatch.chdir(storage.root)
        assert parse_model_uri("models/m/v1")[0].root == storage.root


@pytest.mark.slow
def test_the_cache_is_used_again_only_while_it_is_intact(
    s3: Storage, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(s3, folder, draft(), name="m", version="v1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached = fetch(s3, "m")
    assert cached.is_relative_to(tmp_path / "cache" / "langalign" / "models")
    inode = (cached / "head.safetensors").stat().st_ino
    assert fetch(s3, "m") == cached
    assert (cached / "head.safetensors").stat().st_ino == inode
    damages: list[Callable[[], object]] = [
        lambda: (cached / "head.safetensors").write_bytes(b"bad"),
        lambda: (cached / "encoder" / "pytorch_model.bin").write_bytes(b"bad"),
        lambda: (cached / "config.json").unlink(),
        lambda: (cached / "manifest.json").write_text("{}"),
    ]
    for damage in damages:
        damage()
        assert fetch(s3, "m") == cached
        assert names_in(cached) == names_in(folder) | {"manifest.json"}
        assert sha256_file(cached / "head.safetensors") == sha256_file(folder / "head.safetensors")
    assert [path.name for path in cached.parent.iterdir()] == ["v1"]


@pytest.mark.slow
def test_fetching_at_the_same_time_gives_one_whole_folder(
    s3: Storage, folder: Path, tmp_path: Path
) -> None:
    publish(s3, folder, draft(), name="m", version="v1")
    with ThreadPoolExecutor(6) as pool:
        fetched = set(pool.map(lambda _: fetch(s3, "m", cache_dir=tmp_path / "cache"), range(6)))
    assert len(fetched) == 1
    cached = fetched.pop()
    assert names_in(cached) == names_in(folder) | {"manifest.json"}
    assert [path.name for path in cached.parent.iterdir()] == ["v1"]


@pytest.mark.slow
def test_publishing_writes_no_secret_into_the_bucket(
    s3: Storage, folder: Path, seaweedfs: SeaweedServer
) -> None:
    publish(s3, folder, draft(), name="m")
    for item in s3.list():
        data = s3.read_bytes(item.key)
        assert seaweedfs.secret_key.encode() not in data
        assert seaweedfs.access_key.encode() not in data
