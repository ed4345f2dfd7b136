"""`python -m cluster s3`: an S3 store of this machine for people who have none.

The folder keeps the data, the ports and the generated keys, which only its owner can read, so that
the same variables work after a restart.
"""

import json
import secrets
import shlex
import signal
import threading
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from cluster.ports import is_free
from cluster.private import private_file
from cluster.seaweed import GRPC_OFFSET, Identity, Seaweed, seaweed_ports
from langalign.errors import ConfigError
from langalign.storage import STORAGE_VARIABLE

__all__ = ["BUCKET", "DEFAULT_FOLDER", "DEFAULT_PORT", "new_identity", "open_server", "run_s3"]

DEFAULT_FOLDER = Path("langalign-s3")
DEFAULT_PORT = 8333
BUCKET = "langalign"
SETTINGS = "server.json"
LARGEST_PORT = 65_535 - GRPC_OFFSET
LOOK_S = 1.0


def new_identity(name: str = "owner") -> Identity:
    """An identity with keys that nobody else has."""
    return Identity(name, secrets.token_hex(10).upper(), secrets.token_urlsafe(30))


def open_server(folder: Path, port: int | None = None) -> Seaweed:
    """The server of a folder, not started; a new folder gets keys, ports, and S3 on `port`.

    Raises:
        ConfigError: the port cannot be used, the folder's server has another one, or its settings
            cannot be read.
    """
    if not (folder / SETTINGS).exists():
        _write_settings(folder, DEFAULT_PORT if port is None else port)
    try:
        settings = json.loads((folder / SETTINGS).read_text())
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
    """Serve until interrupted or ended; prints what to export. Returns the exit status.

    Raises:
        ConfigError: as `open_server`, or the server cannot be started.
        ClusterError: it does not come up, or ends by itself.
    """
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
        while not ended.wait(LOOK_S):
            server.check()
    finally:
        server.stop(by="TERM")
    errors.print("stopped; the data stays")
    return 0


def _exports(server: Seaweed) -> str:
    """Shell lines that lead every command of this project to the server; also in its folder."""
    variables = {**server.environment(), STORAGE_VARIABLE: f"s3://{server.bucket}/storage"}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    private_file(server.folder / "env").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def _write_settings(folder: Path, port: int) -> None:
    """New keys and ports, in a folder that no `git add` takes into a repository."""
    if not 1 <= port <= LARGEST_PORT:
        raise ConfigError(
            f"port {port}: give one from 1 to {LARGEST_PORT}; SeaweedFS also takes the port "
            f"{GRPC_OFFSET} above"
        )
    for each in (port, port + GRPC_OFFSET):
        if not is_free(each):
            raise ConfigError(
                f"port {each} is in use; name one with --port that is free together "
                f"with the port {GRPC_OFFSET} above"
            )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {"owner": asdict(new_identity()), "ports": _ports_around(port)}
    private_file(folder / SETTINGS).write_text(json.dumps(content))
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n")


def _ports_around(port: int) -> dict[str, int]:
    """Ports of all parts, with S3 at the one given, such that none is another's partner."""
    while True:
        ports = {**seaweed_ports(), "s3": port}
        taken = [each + offset for each in ports.values() for offset in (0, GRPC_OFFSET)]
        if len(set(taken)) == len(taken):
            return ports
