"""Checkpoints and Ray Train's file system over `Storage`, asked as Ray Train asks, without Ray."""

import pickle
from pathlib import Path

import pyarrow.fs
import pytest
from pyarrow.fs import FileSelector, FileType

from cluster.checkpoints import filesystem_of, keep_state, kept_state
from langalign.errors import ObjectMissing, StorageError
from langalign.storage import Storage

FILES = {"state.safetensors": b"\1" * 3_000_000, "unit.json": b"{}", "inner/empty": b""}
CHECKPOINT = "runs/tiny/train/align-1/checkpoint_1"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.fixture
def uploaded(storage: Storage, tmp_path: Path) -> pyarrow.fs.FileSystem:
    """The file system, on the other side of a pickle, with a checkpoint in it."""
    for name, data in FILES.items():
        (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / name).write_bytes(data)
    found = pickle.loads(pickle.dumps(filesystem_of(storage)))
    found.create_dir(CHECKPOINT)
    pyarrow.fs.copy_files(
        str(tmp_path / "local"), CHECKPOINT, destination_filesystem=found, use_threads=False
    )
    return found


def test_a_checkpoint_goes_to_the_storage_and_comes_back(
    uploaded: pyarrow.fs.FileSystem, storage: Storage, tmp_path: Path
) -> None:
    for name, data in FILES.items():
        assert storage.read_bytes(f"{CHECKPOINT}/{name}") == data
    pyarrow.fs.copy_files(CHECKPOINT, str(tmp_path / "back"), source_filesystem=uploaded)
    for name, data in FILES.items():
        assert (tmp_path / "back" / name).read_bytes() == data


def test_files_folders_and_nothing_are_told_apart(uploaded: pyarrow.fs.FileSystem) -> None:
    paths = [CHECKPOINT, f"{CHECKPOINT}/unit.json", "runs", "runs/other"]
    kinds = [info.type for info in uploaded.get_file_info(paths)]
    assert kinds == [FileType.Directory, FileType.File, FileType.Directory, FileType.NotFound]


@pytest.mark.parametrize("recursive", [True, False])
def test_a_listing_names_files_and_folders(
    uploaded: pyarrow.fs.FileSystem, recursive: bool
) -> None:
    found = uploaded.get_file_info(FileSelector(CHECKPOINT, recursive=recursive))
    names = {info.path.removeprefix(f"{CHECKPOINT}/"): info.type for info in found}
    inner = {"inner/empty": FileType.File} if recursive else {}
    assert names == {
        "state.safetensors": FileType.File,
        "unit.json": FileType.File,
        "inner": FileType.Directory,
        **inner,
    }
    assert uploaded.get_file_info(FileSelector("runs/other", allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        uploaded.get_file_info(FileSelector("runs/other"))


def test_a_snapshot_is_written_whole_when_it_is_closed(
    uploaded: pyarrow.fs.FileSystem, storage: Storage
) -> None:
    stream = uploaded.open_output_stream("runs/snapshot.json")
    stream.write(b'{"a": ')
    assert not storage.exists("runs/snapshot.json")
    stream.write(b"1}")
    stream.close()
    assert storage.read_json("runs/snapshot.json") == {"a": 1}
    with uploaded.open_input_stream("runs/snapshot.json") as file:
        assert file.read() == b'{"a": 1}'
    uploaded.copy_file("runs/snapshot.json", "runs/copy.json")
    uploaded.delete_file("runs/snapshot.json")
    assert [stored.key for stored in storage.list("runs") if "json" in stored.key] == [
        *("runs/copy.json", f"{CHECKPOINT}/unit.json")
    ]


def test_a_deleted_checkpoint_is_gone(uploaded: pyarrow.fs.FileSystem, storage: Storage) -> None:
    uploaded.delete_dir(CHECKPOINT)
    assert storage.list() == []
    with pytest.raises(ObjectMissing):
        uploaded.open_input_file(f"{CHECKPOINT}/unit.json")


def test_a_write_that_fails_raises_the_storages_own_error(
    uploaded: pyarrow.fs.FileSystem, storage: Storage
) -> None:
    # A file where a folder would have to be.
    storage.write_bytes("file", b"")
    with pytest.raises(Exception, match="storage") as caught:
        uploaded.open_output_stream("file/below").close()
    assert type(caught.value).__module__ == "langalign.errors"


def test_file_systems_of_one_storage_are_equal(storage: Storage, tmp_path: Path) -> None:
    assert filesystem_of(storage).equals(filesystem_of(Storage(storage.root)))
    assert not filesystem_of(storage).equals(filesystem_of(Storage(str(tmp_path))))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.write_bytes(FILES["state.safetensors"])
    return path


def test_a_kept_state_comes_back_with_its_unit(
    storage: Storage, state: Path, tmp_path: Path
) -> None:
    keep_state(storage, CHECKPOINT, state, "steps/align/abc")
    assert kept_state(storage, CHECKPOINT, tmp_path / "back") == "steps/align/abc"
    assert (tmp_path / "back").read_bytes() == state.read_bytes()


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
def test_a_checkpoint_that_is_not_whole_is_not_taken(
    file: str, storage: Storage, state: Path, tmp_path: Path
) -> None:
    keep_state(storage, CHECKPOINT, state, "steps/align/abc")
    storage.delete(f"{CHECKPOINT}/{file}")
    assert kept_state(storage, CHECKPOINT, tmp_path / "back") is None


def test_an_altered_checkpoint_is_not_taken(storage: Storage, state: Path, tmp_path: Path) -> None:
    keep_state(storage, CHECKPOINT, state, "steps/align/abc")
    key = f"{CHECKPOINT}/state.safetensors"
    storage.write_bytes(key, storage.read_bytes(key)[:-1] + b"\0")
    assert kept_state(storage, CHECKPOINT, tmp_path / "back") is None


def test_a_state_that_cannot_be_stored_is_an_error(storage: Storage, state: Path) -> None:
    # A file where a folder would have to be; pyarrow's copying says nothing in such a case.
    storage.write_bytes(CHECKPOINT, b"")
    with pytest.raises(StorageError, match="in the way"):
        keep_state(storage, CHECKPOINT, state, "steps/align/abc")
