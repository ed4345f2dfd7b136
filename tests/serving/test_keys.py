"""API keys: made, checked, rotated while the service runs; when they are needed at all."""

import hashlib
import json
from pathlib import Path

import pytest

from langalign.errors import ConfigError
from serve import keys
from serve.app import open_keys
from serve.keys import KeyFile, new_key, revoke_key
from serve.settings import API_KEYS_VARIABLE, Settings


@pytest.fixture(autouse=True)
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEYS_VARIABLE, raising=False)
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)


def test_only_the_hash_is_kept_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "alice")
    assert key not in path.read_text()
    assert json.loads(path.read_text())["keys"] == {
        "alice": hashlib.sha256(key.encode()).hexdigest()
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(key) > 40


def test_a_key_names_its_holder_and_others_nobody(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    alice, bob = new_key(path, "alice"), new_key(path, "bob")
    known = KeyFile(path)
    assert (known.holder(alice), known.holder(bob)) == ("alice", "bob")
    for wrong in ("", "alice", alice[:-1], alice + "x", alice.upper(), "é", "\udcff"):
        assert known.holder(wrong) is None


def test_keys_come_and_go_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    old = new_key(path, "alice")
    known = KeyFile(path)
    fresh = new_key(path, "alice-2")
    assert known.holder(fresh) == "alice-2"
    revoke_key(path, "alice")
    assert known.holder(old) is None
    revoke_key(path, "alice-2")
    assert known.holder(fresh) is None


def test_a_damaged_file_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "alice")
    known = KeyFile(path)
    for damage in ('{"keys": {"alice": "short"}}', "{", '{"other": 1}'):
        path.write_text(damage)
        assert known.holder(key) == "alice"
    path.unlink()
    assert known.holder(key) == "alice"


def test_a_file_without_keys_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(ConfigError, match=r"serve\.keys new"):
        KeyFile(path)
    path.write_text('{"keys": {}}')
    with pytest.raises(ConfigError, match="holds no key"):
        KeyFile(path)


def test_a_holder_has_one_key_and_a_sound_name(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    new_key(path, "alice")
    with pytest.raises(ConfigError, match="revoke it first"):
        new_key(path, "alice")
    with pytest.raises(ConfigError, match="not allowed"):
        new_key(path, "a\nb")
    with pytest.raises(ConfigError, match="no key for bob; it has alice"):
        revoke_key(path, "bob")


def test_the_command_prints_a_key_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    assert keys.main(["new", "alice", "--file", str(path)]) == 0
    printed = capsys.readouterr().out.strip()
    assert KeyFile(path).holder(printed) == "alice"
    assert keys.main(["list", "--file", str(path)]) == 0
    assert capsys.readouterr().out == "alice\n"
    assert keys.main(["revoke", "alice", "--file", str(path)]) == 0
    assert keys.main(["revoke", "alice", "--file", str(path)]) == 2
    assert "no key for alice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("auth", "host", "needed"),
    [
        ("auto", "127.0.0.1", False),
        ("auto", "localhost", False),
        ("auto", "::1", False),
        ("auto", "0.0.0.0", True),
        ("auto", "10.0.0.7", True),
        ("auto", None, True),
        ("keys", "127.0.0.1", True),
        ("off", "0.0.0.0", False),
    ],
)
def test_keys_are_needed_unless_only_this_machine_can_ask(
    tmp_path: Path, auth: str, host: str | None, needed: bool
) -> None:
    path = tmp_path / "keys.json"
    new_key(path, "alice")
    settings = Settings.model_validate({"auth": auth, "api_keys_file": str(path)})
    assert (open_keys(settings, host) is not None) == needed
    if needed:
        without = settings.model_copy(update={"api_keys_file": None})
        with pytest.raises(ConfigError, match="auth=off"):
            open_keys(without, host)


def test_the_file_may_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the replica that opens it, also where the deployment file says null."""
    path = tmp_path / "keys.json"
    key = new_key(path, "alice")
    settings = Settings.model_validate({"auth": "keys", "api_keys_file": None})
    monkeypatch.setenv(API_KEYS_VARIABLE, str(path))
    opened = open_keys(settings, "127.0.0.1")
    assert opened is not None
    assert opened.holder(key) == "alice"
