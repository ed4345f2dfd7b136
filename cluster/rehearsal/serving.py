"""The part of a rehearsal that serves: `serve deploy`, one question, its answer, and the end."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import yaml

from cluster.ports import free_ports
from cluster.rehearsal.nodes import LocalCluster
from cluster.rehearsal.starting import command_of_this_python
from langalign.errors import ClusterError

__all__ = ["classify", "serving"]

READY_LIMIT_S = 180.0
COMMAND_LIMIT_S = 120.0
ANSWER_LIMIT_S = 60.0


@contextmanager
def serving(cluster: LocalCluster, model: str) -> Iterator[str]:
    """Deploy serve/config.yaml with a model of the cluster's storage; yields its address.

    Raises:
        ClusterError: the service does not come up.
    """
    config = yaml.safe_load((cluster.project / "serve" / "config.yaml").read_text())
    (port,) = free_ports(1)
    config["http_options"]["port"] = port
    # All nodes are this machine, where the port exists once.
    config["proxy_location"] = "HeadOnly"
    (application,) = config["applications"]
    application["args"] |= {"model": [model], "watch_s": 0}
    path = cluster.folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    _serve(cluster, "deploy", str(path))
    url = f"http://127.0.0.1:{port}"
    _wait_until_ready(cluster, url)
    yield url
    _serve(cluster, "shutdown", "--yes")


def classify(url: str, language: str, text: str) -> dict[str, Any]:
    """What the service answers for one text.

    Raises:
        ClusterError: it does not answer with a label.
    """
    question = {"language": language, "inputs": [text]}
    try:
        answer = httpx2.post(f"{url}/v1/classify", json=question, timeout=ANSWER_LIMIT_S)
    except httpx2.HTTPError as error:
        raise ClusterError(f"the service does not answer: {error}") from error
    if answer.status_code != 200:
        raise ClusterError(f"the service answered {answer.status_code}: {answer.text[:300]}")
    result: dict[str, Any] = answer.json()["predictions"][0]
    return result


def _serve(cluster: LocalCluster, verb: str, *arguments: str) -> None:
    command = [command_of_this_python("serve"), verb, *arguments, "--address", cluster.dashboard]
    try:
        ended = subprocess.run(
            command,
            env=cluster.environment,
            cwd=cluster.project,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`serve {verb}` took more than {COMMAND_LIMIT_S:.0f} s") from error
    if ended.returncode:
        raise ClusterError(f"`serve {verb}` failed: {' '.join(ended.stderr.split())[-500:]}")


def _wait_until_ready(cluster: LocalCluster, url: str) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while True:
        try:
            if httpx2.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        found = cluster.get("/api/serve/applications/")["applications"]
        states = {name: application["status"] for name, application in found.items()}
        if "DEPLOY_FAILED" in states.values() or time.monotonic() > deadline:
            message = " ".join(str(found["langalign"]["message"]).split()) if found else ""
            raise ClusterError(f"the service is not ready: {states} {message[-500:]}")
        time.sleep(0.5)
