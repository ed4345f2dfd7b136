"""Roots, keys and local faults: no server needed."""

import os
import pickle
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langalign.errors import ConfigError, StorageError
from langalign.storage import STORAGE_VARIABLE, Storage, checked_key, sha256_file


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/data/store/", "/data/store"),
        ("store", f"{os.getcwd()}/store"),
        ("~/store", os.path.expanduser("~/store")),
        ("file:///data/a%20b", "/data/a b"),
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/a/b/", "s3://bucket/a/b"),
    ],
)
def test_roots(root: str, expected: str) -> None:
    storage = Storage(root)
    assert storage.root == expected
    assert storage.is_s3 == expected.startswith("s3://")
    assert storage.uri("k/l") == f"{expected}/k/l"
    assert repr(pickle.loads(pickle.dumps(storage))) == repr(storage)


@pytest.mark.parametrize(
    "root",
    [
        "",
        "gs://bucket/x",
        "http://host/bucket",
        "s3:/bucket",
        "s3://",
        "s3://b",
        "s3://buck et",
        "s3://bucket/a/../b",
        "s3://bucket//a",
        "file://host/share",
        "a\0b",
        "~no-such-user-here/x",
    ],
)
def test_bad_roots(root: str) -> None:
    with pytest.raises(ConfigError, match="storage"):
        Storage(root)


@pytest.mark.parametrize(
    "root",
    ["s3://AKIAKEY:SECRET/x@bucket/p", "s3://bucket/p?X-Amz-Signature=SECRET", "s3:/K:SECRET@b"],
)
def test_secrets_in_a_root_are_refused_and_not_shown(root: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Storage(root)
    assert "SECRET" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_the_environment_gives_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage.from_environment().root == str(tmp_path / "langalign-storage")
    monkeypatch.setenv(STORAGE_VARIABLE, "s3://bucket/prefix")
    assert Storage.from_environment().root == "s3://bucket/prefix"
    assert Storage.from_environment("/argument").root == "/argument"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "a\nb",
        "a?b",
        "a#b",
        "\ud800",
    ],
)
def test_keys_that_leave_the_root_or_confuse_are_refused(key: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for operation in (
        storage.uri,
        storage.read_bytes,
        storage.exists,
        storage.delete,
        storage.delete_folder,
        lambda k: storage.write_bytes(k, b""),
        lambda k: storage.create_bytes(k, b""),
        lambda k: storage.download(k, tmp_path / "x"),
        lambda k: storage.upload(Path(__file__), k),
    ):
        with pytest.raises(ConfigError, match="is not allowed"):
            operation(key)
    assert list(tmp_path.iterdir()) == []


@given(st.text(alphabet=st.sampled_from("ab./\\~é한-? \n\0"), max_size=12) | st.text(max_size=30))
def test_any_key_is_refused_or_stays_inside_and_is_kept(key: str) -> None:
    try:
        checked_key(key)
    except ConfigError:
        return
    assert PurePosixPath(os.path.normpath(f"/data/{key}")) == PurePosixPath("/data") / key
    assert Storage("/data").uri(key) == f"/data/{key}"
    assert Storage("s3://bucket/p").folder(key).root == f"s3://bucket/p/{key}"


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = Storage(str(tmp_path / "file" / "root"))
    with pytest.raises(StorageError, match="in the way: move it or choose another") as caught:
        storage.check()
    assert storage.root in str(caught.value)
    assert not storage.exists("key")
    assert storage.list() == []
    storage.delete("key")


def test_a_folder_in_the_way_of_an_object(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("a/b", b"")
    with pytest.raises(StorageError, match="in the way"):
        storage.write_bytes("a", b"")
    assert [item.key for item in storage.list()] == ["a/b"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from langalign.errors import StorageError
from langalign.storage import Storage
storage = Storage(sys.argv[1])
storage.write_bytes("object", b"old")
source = Path(sys.argv[1], "source")
source.write_bytes(b"x" * 200_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
attempts = {
    "write": lambda: storage.write_bytes("object", b"x" * 200_000),
    "create": lambda: storage.create_bytes("new", b"x" * 200_000),
    "upload": lambda: storage.upload(source, "object"),
    "download": lambda: storage.download("source", Path(sys.argv[1], "target")),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except StorageError as error:
        print(name, error)
print(storage.read_bytes("object"), sorted(p.name for p in Path(sys.argv[1]).iterdir()))
"""


def test_a_full_disk_keeps_the_old_object_and_says_so(tmp_path: Path) -> None:
    """The kernel refuses to let a file grow, as it does on a full disk."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    *faults, last = result.stdout.splitlines()
    assert [line.split()[0] for line in faults] == ["write", "create", "upload", "download"]
    assert all("no space left: free space" in line for line in faults)
    assert last == "b'old' ['object', 'source']"


def test_what_a_crash_left_half_written_is_invisible(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".langalign-tmp-123").write_bytes(b"half")
    assert storage.list() == []
    assert storage.folders() == []


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    before = os.umask(0o022)
    try:
        storage.write_bytes("key", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o644


def test_json_refuses_nan(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json("summary.json", {"accuracy": float("nan")})
    assert storage.list() == []


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(StorageError, match="no such file"):
        sha256_file(tmp_path / "absent")
