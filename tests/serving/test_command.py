"""`python -m serve`, which `make serve` runs: the line that it prints works."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import grpc
import httpx2
import psutil
import pytest
from real_service import replicas_below

from cluster.ports import free_ports
from langalign.storage import Storage
from serve.keys import new_key

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

# Of the gRPC server of every replica, which unpickles what it is sent.
UNPICKLING = "/ray.serve.ASGIService/HandleRequest"


@contextmanager
def command(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    # Whoever starts it has set no mode of Ray's.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", *arguments],
        cwd=ROOT,
        # Nobody is there: the service is not to join a cluster, and to end what that serves.
        env={**environment, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate(timeout=30)


def test_the_printed_line_works_as_it_stands(models: Storage) -> None:
    (port,) = free_ports(1)
    arguments = ["model=one,two", f"storage={models.root}", f"port={port}", "threads=1"]
    with command(*arguments) as process:
        assert process.stdout is not None
        line = next((text for text in process.stdout if text.startswith("curl ")), "")
        assert f"http://127.0.0.1:{port}/v1/classify" in line
        answer = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
        assert json.loads(answer.stdout)["model"] in ("one", "two")
        (replica,) = replicas_below(psutil.Process(process.pid), "Classifier")
        answers = {answer_to_a_stranger(port) for port in listening(replica)}
        assert grpc.StatusCode.UNAUTHENTICATED in answers
        # It would be so where the empty request is unpickled.
        assert grpc.StatusCode.UNKNOWN not in answers
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_where_others_can_reach_it_a_key_is_asked_for(models: Storage, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    keys = tmp_path / "keys.json"
    arguments = ["model=one", f"storage={models.root}", "host=0.0.0.0", f"port={port}", "threads=1"]
    key = new_key(keys, "team")
    with command(*arguments, f"api_keys_file={keys}") as process:
        assert process.stdout is not None
        lines = list(takewhile(lambda text: not text.startswith("curl "), process.stdout))
        (metrics,) = re.findall(r"metrics: (http://\S+/metrics)", "".join(lines))
        assert httpx2.get(metrics).status_code == 200
        body = {"language": "xc", "inputs": ["a sentence"]}
        for given, status in ((None, 401), ("wrong", 401), (key, 200)):
            headers = {"Authorization": f"Bearer {given}"} if given else {}
            url = f"http://127.0.0.1:{port}/v1/classify"
            assert httpx2.post(url, json=body, headers=headers, timeout=30).status_code == status
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def listening(process: psutil.Process) -> set[int]:
    """TCP ports that a process listens on."""
    places = process.net_connections("tcp")
    return {place.laddr.port for place in places if place.status == psutil.CONN_LISTEN}


def answer_to_a_stranger(port: int) -> grpc.StatusCode:
    """What a call without the cluster's token gets."""
    options = [("grpc.enable_http_proxy", 0)]
    channel = grpc.insecure_channel(f"localhost:{port}", options=options)
    with channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(UNPICKLING)(b"", timeout=10)
    return refused.value.code()
