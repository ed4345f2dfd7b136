"""`serve deploy serve/config.yaml` on a cluster that runs already, and once more with a change."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The dashboard's URL of a cluster of one node."""
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
            yield f"http://127.0.0.1:{port}"
        finally:
            family = below.children(recursive=True)
            stop_guarded(process)
            for left in psutil.wait_procs(family, timeout=5)[1]:
                left.kill()


def test_deploy_and_change(dashboard: str, tmp_path: Path) -> None:
    root, encoder = tmp_path / "store", write_encoder(tmp_path / "encoder")
    for seed, (name, language) in enumerate((("one", "xc"), ("two", "xd"))):
        publish(root, encoder, tmp_path / "scratch", name=name, seed=seed, target=language)
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    (port,) = free_ports(1)
    config["http_options"]["port"] = port
    arguments = config["applications"][0]["args"]
    arguments |= {"model": ["one"], "storage": str(root)}
    deploy(config, tmp_path, dashboard)
    with Client(f"http://127.0.0.1:{port}") as client:

        def served() -> set[str]:
            try:
                answer = httpx2.get(f"http://127.0.0.1:{port}/readyz")
            except httpx2.TransportError:
                return set()
            return {card.name for card in client.models()} if answer.is_success else set()

        wait_for(lambda: served() == {"one"}, limit_s=WAIT_S)
        assert client.classify(["a good film"], language="xc").model == "one"
        arguments["model"] = ["one", "two"]
        deploy(config, tmp_path, dashboard)
        wait_for(lambda: served() == {"one", "two"}, limit_s=WAIT_S)
        assert client.classify(["a good film"], language="xd").model == "two"


def deploy(config: dict[str, Any], folder: Path, dashboard: str) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [str(BIN / "serve"), "deploy", str(path), "--address", dashboard]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
