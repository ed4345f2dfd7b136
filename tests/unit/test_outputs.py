"""Step outputs: done only with a manifest, checked on every read, forgotten as a whole."""

import json
import pickle
from pathlib import Path

import pytest

from langalign.errors import IntegrityError, ObjectMissing
from langalign.outputs import StepOutput, default_cache, digest_of
from langalign.storage import Storage


@pytest.fixture
def output(tmp_path: Path) -> StepOutput:
    return StepOutput(Storage(str(tmp_path / "root")), "steps/align/abc")


def finished(output: StepOutput) -> StepOutput:
    output.finish({"a.bin": output.write("a.bin", b"weights")}, {"width": 3})
    return output


def test_a_digest_depends_on_every_value_and_on_no_order_of_keys() -> None:
    assert digest_of("align", 1, {"a": 1, "b": [2]}) == digest_of("align", 1, {"b": [2], "a": 1})
    others = [("align", 2, {}), ("align", "1", {}), ("align", 1, None), ("align", 1, {}, None)]
    assert len({digest_of(*parts) for parts in [("align", 1, {}), *others]}) == 5
    assert len(digest_of()) == 32
    with pytest.raises(ValueError, match="Out of range float"):
        digest_of(float("nan"))


def test_a_step_is_done_when_its_manifest_is_there(output: StepOutput) -> None:
    record = output.write("a.bin", b"weights")
    assert not output.is_done()
    output.finish({"a.bin": record}, {"width": 3})
    assert output.is_done()
    assert output.info() == {"width": 3}
    assert output.manifest()["files"]["a.bin"]["size_bytes"] == 7
    assert output.read("a.bin") == b"weights"


@pytest.mark.parametrize("bytes_", [b"weight", b"weightS", b""])
def test_a_truncated_or_altered_file_is_refused_by_read_and_fetch(
    output: StepOutput, bytes_: bytes
) -> None:
    finished(output).storage.write_bytes(output.key("a.bin"), bytes_)
    for read in (lambda: output.read("a.bin"), output.fetch):
        with pytest.raises(IntegrityError, match=r"a\.bin is truncated or altered") as caught:
            read()
        assert caught.value.folder == output.prefix
        # It crosses process borders on its way from a worker to the pipeline.
        assert pickle.loads(pickle.dumps(caught.value)).folder == output.prefix


def test_a_file_that_is_gone_is_refused(output: StepOutput) -> None:
    finished(output).storage.delete(output.key("a.bin"))
    with pytest.raises(ObjectMissing):
        output.read("a.bin")
    with pytest.raises(IntegrityError, match="sha256 is None"):
        output.fetch()


def test_a_folder_is_written_and_fetched_whole(output: StepOutput, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "inner" / "weights").write_bytes(b"\0" * 1000)
    records = output.write_folder(folder, "encoder")
    assert sorted(records) == ["encoder/config.json", "encoder/inner/weights"]
    output.finish(records, {})
    found = output.fetch()
    assert (found / "encoder" / "inner" / "weights").read_bytes() == b"\0" * 1000
    assert json.loads((found / "encoder" / "config.json").read_text()) == {}


def test_discard_forgets_the_step_and_no_other(output: StepOutput) -> None:
    other = finished(StepOutput(output.storage, "steps/align/abcd"))
    finished(output).discard()
    assert not output.is_done()
    assert output.storage.list(output.prefix) == []
    assert other.read("a.bin") == b"weights"
    output.discard()


def test_the_cache_follows_the_users_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "langalign"
    # A file where the folder would be: there is no writable home.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert default_cache().is_dir()
