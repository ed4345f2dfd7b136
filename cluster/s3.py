"""`python -m cluster s3`: an S3 store of this machine for people who have none.

The folder keeps the data, the ports and the generated keys (files of mode 0600), so that the same
variables work after a restart.
"""

import json
import secrets
import shlex
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.ports import is_free
from cluster.seaweed import Identity, Seaweed, seaweed_ports
from langalign.errors import ConfigError
from langalign.storage import STORAGE_VARIABLE

__all__ = ["BUCKET", "DEFAULT_FOLDER", "DEFAULT_PORT", "new_identity", "open_server", "run_s3"]

DEFAULT_FOLDER = Path("langalign-s3")
DEFAULT_PORT = 8333
BUCKET = "langalign"
SETTINGS = "server.json"


def new_identity(name: str = "owner") -> Identity:
    """An identity with keys that nobody else has."""
    return Identity(name, secrets.token_hex(10).upper(), secrets.token_urlsafe(30))


def open_server(folder: Path, port: int | None = None) -> Seaweed:
    """The server of a folder, not started; a new folder gets keys, ports, and S3 on `port`.

    Raises:
        ConfigError: the folder's server has another port, or its settings cannot be read.
    """
    settings = _settings(folder, port)
    try:
        owner = Identity(**settings["owner"])
        ports = {part: int(number) for part, number in settings["ports"].items()}
        if port not in (None, ports["s3"]):
            raise ConfigError(
                f"--port {port}: the server in {folder} has port {ports['s3']}; leave --port out, "
                "or name another folder"
            )
        return Seaweed(folder, [owner], bucket=BUCKET, ports=ports)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder / SETTINGS} is not as this command wrote it ({error}); name another folder"
        ) from error


def run_s3(folder: Path, port: int | None) -> int:
    """Serve until interrupted or ended; prints what to export. Returns the exit status."""
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    server = open_server(folder, port)
    errors.print(f"starting SeaweedFS at {server.endpoint}, data in {server.folder}")
    try:
        server.start()
        # Not through rich, which would wrap and colour what a shell is to read.
        print(_exports(server), flush=True)
        errors.print(f"ready; Ctrl-C stops it. The same lines are in {server.folder / 'env'}")
        ended.wait()
    finally:
        server.stop(by="TERM")
    errors.print("stopped; the data stays")
    return 0


def _exports(server: Seaweed) -> str:
    """Shell lines that lead every command of this project to the server; also in its folder."""
    variables = {**server.environment(), STORAGE_VARIABLE: f"s3://{server.bucket}/storage"}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    _write_private(server.folder / "env", "\n".join(lines) + "\n")
    return "\n".join(lines)


def _settings(folder: Path, port: int | None) -> dict[str, Any]:
    path = folder / SETTINGS
    if not path.exists():
        ports = seaweed_ports()
        wanted = port or DEFAULT_PORT
        if not is_free(wanted):
            raise ConfigError(f"port {wanted} is in use; name a free one with --port")
        content = {"owner": asdict(new_identity()), "ports": {**ports, "s3": wanted}}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(path, json.dumps(content))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
