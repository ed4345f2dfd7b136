"""The storage contract, on a local folder and on a real S3-compatible server."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from endpoints import silent_endpoint
from seaweed import SeaweedServer

from cluster.ports import free_ports
from langalign.errors import ConfigError, ObjectMissing, StorageError
from langalign.storage import Storage, StoredObject, sha256_file

LARGE_BYTES = 70 * 2**20  # above the multipart threshold of 64 MiB


def test_a_written_object_reads_back_and_is_replaced_whole(storage: Storage) -> None:
    storage.write_bytes("runs/a/state", b"first")
    storage.write_bytes("runs/a/state", b"2")
    assert storage.read_bytes("runs/a/state") == b"2"


def test_json_keeps_text_of_any_language(storage: Storage) -> None:
    value = {"labels": ["부정", "긍정"], "count": 3, "share": 0.5, "none": None}
    storage.write_json("summary.json", value)
    assert storage.read_json("summary.json") == value


def test_json_that_is_cut_short_is_named(storage: Storage) -> None:
    storage.write_bytes("summary.json", b'{"labels": [')
    with pytest.raises(StorageError, match=r"summary\.json: not JSON"):
        storage.read_json("summary.json")


def test_a_missing_object_is_an_error_of_its_own(storage: Storage) -> None:
    storage.write_bytes("folder/object", b"x")
    for key in ("nothing", "folder", "folder/object2"):
        assert not storage.exists(key)
        with pytest.raises(ObjectMissing, match=key):
            storage.read_bytes(key)
    assert storage.exists("folder/object")


def test_create_never_replaces(storage: Storage) -> None:
    assert storage.create_bytes("claim", b"first")
    assert not storage.create_bytes("claim", b"second")
    assert storage.read_bytes("claim") == b"first"


def test_one_of_many_creators_wins(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.create_bytes("claim", b"%d" % i), range(8)))
    assert won.count(True) == 1
    assert storage.read_bytes("claim") == b"%d" % won.index(True)


def test_list_and_folders_see_one_folder_only(storage: Storage) -> None:
    for key in ("m/b/2", "m/b/10", "m/a", "m/c/d/e", "mm/x", "top"):
        storage.write_bytes(key, key.encode())
    assert storage.list("m") == [
        StoredObject("m/a", 3),
        StoredObject("m/b/10", 6),
        StoredObject("m/b/2", 5),
        StoredObject("m/c/d/e", 7),
    ]
    assert [item.key for item in storage.list()][-2:] == ["mm/x", "top"]
    assert storage.folders("m") == ["b", "c"]
    assert storage.folders() == ["m", "mm"]
    assert storage.list("absent") == []
    assert storage.folders("absent") == []


def test_delete_removes_what_it_names_and_nothing_else(storage: Storage) -> None:
    for key in ("m/b/1", "m/b/2", "m/bb/1"):
        storage.write_bytes(key, b"")
    storage.delete("m/b/1")
    storage.delete("m/b/1")
    assert [item.key for item in storage.list()] == ["m/b/2", "m/bb/1"]
    storage.delete_folder("m/b")
    storage.delete_folder("m/b")
    assert [item.key for item in storage.list()] == ["m/bb/1"]
    assert storage.list("m/b") == []
    with pytest.raises(ConfigError, match="not allowed"):
        storage.delete_folder("")


def test_a_folder_is_a_storage(storage: Storage) -> None:
    inner = storage.folder("runs/one")
    inner.write_bytes("state", b"s")
    assert storage.read_bytes("runs/one/state") == b"s"
    assert inner.uri("state") == storage.uri("runs/one/state")
    assert inner.list() == [StoredObject("state", 1)]


def test_large_files_travel_whole_and_leave_no_trace(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    block = bytes(range(256)) * 4096
    with source.open("wb") as file:
        for index in range(LARGE_BYTES // len(block)):
            file.write(index.to_bytes(4) + block[4:])
    storage.upload(source, "big/file")
    storage.download("big/file", target)
    assert sha256_file(target) == sha256_file(source)
    assert storage.list() == [StoredObject("big/file", LARGE_BYTES)]
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_failed_download_keeps_the_old_file(storage: Storage, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    with pytest.raises(ObjectMissing):
        storage.download("nothing", target)
    assert target.read_text() == "old"
    with pytest.raises(StorageError, match="no such file"):
        storage.upload(tmp_path / "absent", "key")


def test_check_passes_and_leaves_nothing(storage: Storage) -> None:
    storage.check()
    assert storage.list() == []


def test_readers_never_see_half_an_object(storage: Storage) -> None:
    versions = [bytes([letter]) * 300_000 for letter in b"ab"]
    storage.write_bytes("object", versions[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(20):
            storage.write_bytes("object", versions[turn % 2])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not done.is_set():
            assert storage.read_bytes("object") in versions
        writing.result()


def test_a_pickle_works_elsewhere_and_holds_no_secret(
    storage: Storage, seaweed_secrets: list[str]
) -> None:
    storage.write_bytes("key", b"value")  # by now there is a client
    data = pickle.dumps(storage)
    assert len(data) < 400
    assert not [secret for secret in seaweed_secrets if secret.encode() in data]
    assert pickle.loads(data).read_bytes("key") == b"value"


@pytest.fixture
def seaweed_secrets(storage: Storage, request: pytest.FixtureRequest) -> list[str]:
    if not storage.is_s3:
        return []
    server: SeaweedServer = request.getfixturevalue("seaweedfs")
    return [server.access_key, server.secret_key, server.endpoint]


@pytest.mark.slow
def test_listing_goes_on_after_the_first_thousand(s3: Storage) -> None:
    keys = [f"many/{number:04}" for number in range(1_003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.write_bytes(key, b""), keys))
    assert [item.key for item in s3.list("many")] == keys


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "cause"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret-value", "the server refuses the credentials"),
        ("AWS_ACCESS_KEY_ID", "WRONGACCESSKEY", "the server refuses the credentials"),
        ("AWS_ACCESS_KEY_ID", "READONLYKEY", "access denied"),
        ("AWS_ACCESS_KEY_ID", None, "no usable credentials"),
    ],
)
def test_refused_credentials_are_told_apart_and_never_shown(
    s3: Storage,
    seaweedfs: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str | None,
    cause: str,
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(variable, value)
    for operation in (s3.check, lambda: s3.write_bytes("key", b"")):
        with pytest.raises(StorageError, match=cause) as caught:
            operation()
        message = str(caught.value)
        assert s3.root in message
        assert seaweedfs.secret_key not in message
        assert value is None or value not in message


@pytest.mark.slow
def test_a_missing_bucket_is_named(s3: Storage) -> None:
    storage = Storage("s3://no-such-bucket/prefix")
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/prefix.*no such bucket.*create"):
        storage.check()
    with pytest.raises(StorageError, match="no such bucket") as caught:
        storage.read_bytes("key")
    assert not isinstance(caught.value, ObjectMissing)


@pytest.mark.slow
@pytest.mark.timeout(30)  # what check() promises
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_check_gives_up_on_an_endpoint_out_of_reach(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    closed = nullcontext(f"127.0.0.1:{free_ports(1)[0]}")
    with silent_endpoint() if kind == "silent" else closed as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://user:hidden@{endpoint}")
        with pytest.raises(StorageError, match="unreachable endpoint") as caught:
            Storage("s3://bucket/prefix").check()
    assert endpoint in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.slow
def test_writes_survive_an_outage(s3: Storage, seaweedfs: SeaweedServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * LARGE_BYTES)
    stop = threading.Event()

    def write_until_told() -> list[str]:
        keys: list[str] = []
        while not stop.is_set():
            keys.append(f"during/{len(keys):05}")
            s3.write_bytes(keys[-1], keys[-1].encode())
        return keys

    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(write_until_told)
        while not s3.list("during"):
            time.sleep(0.1)
        seaweedfs.stop()
        uploaded = pool.submit(s3.upload, source, "big")
        try:
            time.sleep(5)
        finally:
            seaweedfs.start()
            stop.set()
        keys = written.result()
        uploaded.result()
    assert [item.key for item in s3.list("during")] == keys
    assert s3.read_bytes(keys[-1]) == keys[-1].encode()
    assert s3.list("big") == []
    s3.download("big", tmp_path / "back")
    assert sha256_file(tmp_path / "back") == sha256_file(source)


@pytest.mark.slow
def test_an_outage_without_end_is_an_error(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_ports(1)[0]}")
    storage = Storage(s3.root, retry_deadline_s=2.0)
    with pytest.raises(StorageError, match="unreachable endpoint"):
        storage.write_bytes("key", b"")
