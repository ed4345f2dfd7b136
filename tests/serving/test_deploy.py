"""On a cluster that runs already: `serve deploy serve/config.yaml`, a change of it, `serve run`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml
from published import publish, write_encoder
from real_service import ROOT, wait_for

from cluster.guarded import start_guarded, stop_guarded
from cluster.ports import free_ports
from serve.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BIN = Path(sys.executable).parent
WAIT_S = 120.0


@dataclass(frozen=True)
class Cluster:
    """Where a cluster of one node takes deployments, and drivers."""

    dashboard: str
    address: str


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    port, gcs = free_ports(2)
    # Not below pytest's folder: a Unix socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"]
        command += [f"--port={gcs}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
        command += [f"--temp-dir={folder}", "--disable-usage-stats", "--no-monitor"]
        process = start_guarded(command, Path(folder, "log"))
        below = psutil.Process(process.pid)
        try:
            wait_for(
                lambda: "Ray runtime started" in Path(folder, "log").read_text(), limit_s=WAIT_S
            )
            yield Cluster(f"http://127.0.0.1:{port}", f"127.0.0.1:{gcs}")
        finally:
            family = below.children(recursive=True)
            stop_guarded(process)
            for left in psutil.wait_procs(family, timeout=5)[1]:
                left.kill()


def test_deploy_change_and_run_beside(cluster: Cluster, tmp_path: Path) -> None:
    root, encoder = tmp_path / "store", write_encoder(tmp_path / "encoder")
    for seed, (name, language) in enumerate((("demo", "xc"), ("two", "xd"))):
        publish(root, encoder, tmp_path / "scratch", name=name, seed=seed, target=language)
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    (port,) = free_ports(1)
    config["http_options"]["port"] = port
    arguments = config["applications"][0]["args"]
    # No model named: the demo's, which is there.
    arguments["storage"] = str(root)
    deploy(config, tmp_path, cluster)
    with Client(f"http://127.0.0.1:{port}") as client:

        def served() -> set[str]:
            try:
                answer = httpx2.get(f"http://127.0.0.1:{port}/readyz")
            except httpx2.TransportError:
                return set()
            return {card.name for card in client.models()} if answer.is_success else set()

        wait_for(lambda: served() == {"demo"}, limit_s=WAIT_S)
        assert client.classify(["a good film"], language="xc").model == "demo"
        arguments["model"] = ["demo", "two"]
        deploy(config, tmp_path, cluster)
        wait_for(lambda: served() == {"demo", "two"}, limit_s=WAIT_S)
        assert client.classify(["a good film"], language="xd").model == "two"
    command = ["run", "serve.app:build", f"model={root}/models/demo", "--non-blocking"]
    command += ["--name", "beside", "--route-prefix", "/beside", "--address", cluster.address]
    serve(*command)
    beside = f"http://127.0.0.1:{port}/beside"
    wait_for(lambda: httpx2.get(f"{beside}/readyz").is_success, limit_s=WAIT_S)
    with Client(beside) as client:
        assert client.classify(["a good film"], language="xc").model == "demo"


def deploy(config: dict[str, Any], folder: Path, cluster: Cluster) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    serve("deploy", str(path), "--address", cluster.dashboard)


def serve(*arguments: str) -> None:
    done = subprocess.run(
        [str(BIN / "serve"), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
