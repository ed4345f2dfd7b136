"""Server processes for tests, which die with the test run even where that is killed."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

# The server dies when its standard input closes.
WATCH = '"$@" </dev/null & server=$!; read -r _; kill -9 $server; wait $server 2>/dev/null'


def start_guarded(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server whose output is added to `log`; `stop_guarded` ends it."""
    with log.open("ab") as file:
        return subprocess.Popen(
            ["sh", "-c", WATCH, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C is for pytest, whose fixture then stops it
        )


def stop_guarded(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the server and wait for its end."""
    process.communicate(b"\n", timeout=30)
