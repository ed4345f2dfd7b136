"""Names, folders and drafts that are refused before anything is written: no server needed."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_folder import draft
from pydantic import ValidationError

from langalign.artifacts import fetch, list_versions, publish, read_manifest
from langalign.errors import ArtifactError, StorageError
from langalign.storage import Storage


@pytest.mark.parametrize(
    "name", ["", "Upper", "a/b", "..", ".hidden", "a" * 65, "latest", "latest.json", "a\n", "é"]
)
def test_bad_names_are_refused(tmp_path: Path, folder: Path, name: str) -> None:
    storage = Storage(str(tmp_path / "root"))
    calls: list[Callable[[], object]] = [
        lambda: publish(storage, folder, draft(), name=name),
        lambda: read_manifest(storage, name),
        lambda: list_versions(storage, name),
    ]
    if name not in ("", "latest"):
        calls.append(lambda: publish(storage, folder, draft(), name="m", version=name))
        calls.append(lambda: fetch(storage, "m", name))
    for call in calls:
        with pytest.raises(ArtifactError, match="is not allowed"):
            call()
    assert not (tmp_path / "root").exists()


def link_folder(folder: Path) -> None:
    (folder / "encoder" / "more").symlink_to(folder.parent, target_is_directory=True)


def save_zip(folder: Path) -> None:
    np.savez(folder / "weights.npz", weight=np.zeros(3))
    (folder / "weights.npz").rename(folder / "weights.dat")


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda f: (f / "head.safetensors").unlink(), r"lacks head\.safetensors"),
        (lambda f: (f / "README.md").unlink(), r"lacks README\.md"),
        (lambda f: shutil.rmtree(f / "encoder"), "lacks encoder/"),
        (lambda f: (f / "encoder" / "pytorch_model.bin").write_bytes(b"x"), "pickle"),
        (lambda f: (f / "state.PT").write_bytes(b"x"), "pickle"),
        (lambda f: (f / "vocab.txt").write_bytes(pickle.dumps({"a": 1})), "pickle"),
        (save_zip, "pickle"),
        (lambda f: (f / "aligner.safetensors").write_bytes(b"not weights"), "not safetensors"),
        (lambda f: (f / "manifest.json").write_text("{}"), "publish writes it"),
        (link_folder, "linked folder"),
    ],
)
def test_unfit_folders_are_not_published(
    tmp_path: Path, folder: Path, change: Callable[[Path], object], finding: str
) -> None:
    change(folder)
    with pytest.raises(ArtifactError, match=finding):
        publish(Storage(str(tmp_path / "root")), folder, draft(), name="m")
    assert not (tmp_path / "root").exists()


def test_a_safetensors_header_that_looks_like_a_pickle_is_no_pickle(
    tmp_path: Path, folder: Path
) -> None:
    """The first bytes of safetensors are the header's length: 0x0480 reads as a pickle's start."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = header.ljust(0x0480)
    (folder / "head.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    publish(Storage(str(tmp_path / "root")), folder, draft(), name="m")


def test_an_aligner_is_optional_and_a_folder_must_exist(tmp_path: Path, folder: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    (folder / "aligner.safetensors").unlink()
    publish(storage, folder, draft(aligner={"kind": "none"}), name="m")
    with pytest.raises(StorageError, match="no such file"):
        publish(storage, tmp_path / "absent", draft(), name="m")


@pytest.mark.parametrize(
    "change",
    [
        {"direction": "sideways"},
        {"labels": []},
        {"metrics": [{"value": float("nan")}]},
        {"surprise": 1},
    ],
)
def test_drafts_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        draft(**change)
