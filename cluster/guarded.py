"""Server processes that die with the process that started them, even where that is killed."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["start_guarded", "stop_guarded"]

# The server ends when its standard input closes, or by the signal whose name is written there.
WATCH = (
    '"$@" </dev/null & server=$!; read -r signal; '
    'kill -s "${signal:-KILL}" $server; wait $server 2>/dev/null'
)


def start_guarded(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server whose output is added to `log`; `stop_guarded` ends it.

    `environment` replaces this process's, `folder` is the server's current one.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the caller, which then stops it
        )


def stop_guarded(
    process: subprocess.Popen[bytes], *, by: str = "KILL", limit_s: float = 30.0
) -> None:
    """End the server by a signal and wait; what is left of it after `limit_s` is killed."""
    try:
        process.communicate(f"{by}\n".encode(), timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
