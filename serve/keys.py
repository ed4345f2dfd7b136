"""API keys: a file of sha256 hashes, the check of a request, and the command that makes keys.

A key is 256 random bits, so a plain hash is enough: there is no dictionary to try. The file is
read again when it changes, so keys come and go without a restart:

    python -m serve.keys new alice --file keys.json     prints the key, once
    python -m serve.keys revoke alice --file keys.json
"""

import argparse
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langalign.command import exit_status
from langalign.errors import ConfigError
from langalign.manifest import first_fault
from langalign.storage_local import atomic_file
from serve.settings import API_KEYS_VARIABLE

__all__ = ["KeyFile", "Keys", "new_key", "revoke_key"]

logger = logging.getLogger("ray.serve")

PREFIX = "la_"
LOOK_EVERY_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Keys(BaseModel):
    """What the file holds: the sha256, as 64 hexadecimal digits, of each holder's key."""

    model_config = ConfigDict(extra="forbid")

    keys: dict[str, str] = Field(default_factory=dict)


class KeyFile:
    """The keys of a file, as it is now."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: it cannot be read, or holds no key.
        """
        self.path = path
        self._stamp = _stamp(path)
        self._hashes = _read(path).keys
        if not self._hashes:
            raise ConfigError(f"API keys file {path} holds no key; {_remedy(path)}")
        self._looked_at = time.monotonic()

    def holder(self, key: str) -> str | None:
        """Whose key this is, None if it is nobody's; takes the same time for every key."""
        self._look_again()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for name, known in self._hashes.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _look_again(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        try:
            stamp = _stamp(self.path)
            if stamp != self._stamp:
                # Empty is an answer too: the last key was revoked.
                self._hashes = _read(self.path).keys
                self._stamp = stamp
                logger.info("API keys read again: %d", len(self._hashes))
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error)


def new_key(path: Path, name: str) -> str:
    """Add a key for a holder and return it; a holder that has one already gets an error.

    Raises:
        ConfigError: the name is taken or not allowed, or the file cannot be read or written.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"holder {name!r} is not allowed: 1 to 64 letters, digits or . _ @ -, starting with "
            "a letter or digit; choose another"
        )
    kept = _read(path) if path.exists() else Keys()
    if name in kept.keys:
        raise ConfigError(f"{path} has a key for {name}; revoke it first, or choose another name")
    key = PREFIX + secrets.token_urlsafe(32)
    kept.keys[name] = hashlib.sha256(key.encode()).hexdigest()
    _write(path, kept)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Remove a holder's key.

    Raises:
        ConfigError: there is none, or the file cannot be read or written.
    """
    kept = _read(path)
    if kept.keys.pop(name, None) is None:
        raise ConfigError(f"{path} has no key for {name}; it has {', '.join(kept.keys) or 'none'}")
    _write(path, kept)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"API keys file {path}: {error.strerror}; {_remedy(path)}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> Keys:
    try:
        kept = Keys.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"API keys file {path}: {error.strerror}; {_remedy(path)}") from error
    except ValidationError as error:
        raise ConfigError(f"API keys file {path}: {first_fault(error)}; {_remedy(path)}") from error
    for name, digest in kept.keys.items():
        if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise ConfigError(f"API keys file {path}: {name} has no sha256; {_remedy(path)}")
    return kept


def _write(path: Path, kept: Keys) -> None:
    try:
        with atomic_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(kept.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise ConfigError(
            f"API keys file {path}: {error.strerror}; choose a folder that you can write to"
        ) from error


def _remedy(path: Path) -> str:
    return f"make a key with `python -m serve.keys new NAME --file {path}`"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.keys", description="Make, list and revoke API keys."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("new", "revoke", "list"):
        command = verbs.add_parser(verb)
        if verb != "list":
            command.add_argument("name", help="who holds the key")
        command.add_argument(
            "--file",
            type=Path,
            default=os.environ.get(API_KEYS_VARIABLE),
            help=f"the keys file; unset: {API_KEYS_VARIABLE}",
        )
    arguments = parser.parse_args(argv)
    if arguments.file is None:
        parser.error(f"name the keys file with --file, or set {API_KEYS_VARIABLE}")
    return exit_status(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    path = Path(arguments.file)
    if arguments.verb == "new":
        print(new_key(path, arguments.name))
        print("shown once; only its hash is kept", file=sys.stderr)
    elif arguments.verb == "revoke":
        revoke_key(path, arguments.name)
    else:
        print("\n".join(_read(path).keys))


if __name__ == "__main__":
    sys.exit(main())
