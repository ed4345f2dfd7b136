"""The token that Ray makes for a cluster of its own, kept from other users of the machine."""

import os
from pathlib import Path

__all__ = ["protect_token"]


def protect_token() -> None:
    """Make `~/.ray/auth_token` its owner's alone: Ray writes it readable by all."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)
