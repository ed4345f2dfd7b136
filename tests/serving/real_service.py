"""The real service: `serve run` of a deployment file, in processes of its own, behind HAProxy.

The ingress is the one that docs/serving.md measures. `python -m serve`, `serve deploy` and the
rehearsal are tested behind Ray's own proxy.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import yaml

from cluster.ports import free_ports

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 150.0
STATISTICS_VARIABLE = "RAY_SERVE_HAPROXY_STATS_PORT"
INGRESS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # Which the line above turns off; tests look for texts in the log.
    "RAY_SERVE_LOG_TO_STDERR": "1",
}


@dataclass(frozen=True)
class RunningService:
    """Its address, its log, and the process that began it."""

    url: str
    log: Path
    process: psutil.Process

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of the replicas of a deployment."""
        return replicas_below(self.process, deployment)

    def connection(self) -> socket.socket:
        """A new connection to it."""
        address = urlsplit(self.url)
        place = (str(address.hostname), int(address.port or 0))
        return socket.create_connection(place, timeout=10)

    def request(self, body: dict[str, Any], *headers: str) -> tuple[bytes, bytes]:
        """Header and body of a request to classify, as they go over a connection."""
        content = json.dumps(body).encode()
        lines = [
            "POST /v1/classify HTTP/1.1",
            "Host: service",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            *headers,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode(), content

    def proxies(self) -> list[psutil.Process]:
        """Processes of HAProxy."""
        below = self.process.children(recursive=True)
        return [child for child in below if Path(_command(child)[0]).name == "haproxy"]


@contextmanager
def running_service(folder: Path, **args: Any) -> Iterator[RunningService]:
    """Start the service with these settings on a free port; it has answered /readyz."""
    port, statistics, metrics = free_ports(3)
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {"name": "langalign", "import_path": "serve.app:build", "args": args},
        ],
    }
    path, log = folder / "config.yaml", folder / "service.log"
    path.write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).parent / "serve"), "run", str(path)]
    # HAProxy's own ports would be the same for every service of this machine.
    ports = {
        STATISTICS_VARIABLE: str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **INGRESS, **ports, "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    service = RunningService(f"http://127.0.0.1:{port}", log, psutil.Process(process.pid))
    try:
        _wait_until_ready(service, process)
        yield service
    finally:
        _stop(process, statistics)


def replicas_below(process: psutil.Process, deployment: str) -> list[psutil.Process]:
    """Processes of the replicas of a deployment of the service that `process` began."""
    return [
        child
        for child in process.children(recursive=True)
        if deployment in " ".join(_command(child)) and "ServeReplica" in _command(child)[0]
    ]


def _wait_until_ready(service: RunningService, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, service.log.read_text()[-3000:]
        try:
            if httpx2.get(f"{service.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not ready: {service.log.read_text()[-3000:]}")


def _stop(process: "subprocess.Popen[bytes]", statistics: int) -> None:
    """End the service and everything that it started, also where it has ended by itself."""
    family = set(_with_statistics_at(statistics))
    if process.poll() is None:
        family.update(psutil.Process(process.pid).children(recursive=True))
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
    # HAProxy outlives the actor that started it.
    _, alive = psutil.wait_procs(family, timeout=5)
    for left in alive:
        left.kill()


def _with_statistics_at(port: int) -> Iterator[psutil.Process]:
    """Processes whose environment names this port, which each service has for itself."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:  # of another user, or gone
            continue
        if environment.get(STATISTICS_VARIABLE) == str(port):
            yield process


def wait_for(condition: Callable[[], Any], *, limit_s: float) -> None:
    """Return once `condition` is true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.Error:
        return [""]
