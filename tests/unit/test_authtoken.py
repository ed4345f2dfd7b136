"""Ray's token on this machine."""

from pathlib import Path

import pytest

from langalign.authtoken import protect_token


def test_the_token_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    protect_token()  # none is there yet
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("t" * 64)
    token.chmod(0o644)
    protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
