"""A Ray cluster of one node, as `ray start --head` makes it: it outlives the drivers that join."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from cluster.guarded import start_guarded, stop_guarded
from cluster.ports import free_ports

START_LIMIT_S = 90.0
CPUS = 2
# Of this one node no silence is a fault: it would be taken for dead where the machine stands still.
PATIENCE = {"RAY_health_check_failure_threshold": "100"}


@contextmanager
def shorter_folder() -> Iterator[Path]:
    """Not below pytest's folder: a Unix socket's path has 107 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Head:
    """The cluster; `address` is what `cluster.address` takes."""

    def __init__(self) -> None:
        # Not below pytest's folder: a Unix socket's path has 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.ports = free_ports(2)
        self.address = f"127.0.0.1:{self.ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once drivers can join."""
        log = self.folder / "log"
        self._process = start_guarded(self._command(), log, environment=os.environ | PATIENCE)
        deadline = time.monotonic() + START_LIMIT_S
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def close(self) -> None:
        """Kill all of its processes and delete their files."""
        if self._process is not None:
            below = psutil.Process(self._process.pid).children(recursive=True)
            stop_guarded(self._process)
            # Ray's agents look for the rest of their node only now and then.
            for process in psutil.wait_procs(below, timeout=2)[1]:
                process.kill()
            psutil.wait_procs(below, timeout=30)
        shutil.rmtree(self.folder)

    def _command(self) -> list[str]:
        return [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *(f"--num-cpus={CPUS}", f"--temp-dir={self.folder}", f"--port={self.ports[0]}"),
            # Beside another cluster of this machine, which may have the usual ports.
            *(f"--ray-client-server-port={self.ports[1]}", "--min-worker-port=0"),
            *("--max-worker-port=0", "--include-dashboard=false", "--no-monitor"),
            "--disable-usage-stats",
        ]
