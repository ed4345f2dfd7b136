"""A cluster with token authentication: who is refused, and what the doctor finds on it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import libfaketime
import pytest
from calls import ROOT
from tiny import wait_for

from cluster.guarded import start_guarded, stop_guarded
from cluster.rehearsal.family import below, end_all
from cluster.rehearsal.nodes import LocalCluster
from cluster.rehearsal.stage import Stage, open_stage
from cluster.rehearsal.starting import ray_start

pytestmark = pytest.mark.slow

WORKERS = 2
TWO_WORKERS = (
    "import ray; from ray.autoscaler.sdk import request_resources as ask;"
    "ray.init(); ask(num_cpus=4)"
)
CLOCK = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A head, and workers when they are wanted."""
    with open_stage(ROOT, max_workers=WORKERS, idle_s=600) as stage:
        yield stage


def environment(cluster: LocalCluster, token: str | None) -> dict[str, str]:
    """The cluster's, with another token, or with none and no token mode."""
    found = {k: v for k, v in cluster.environment.items() if k != "RAY_AUTH_TOKEN_PATH"}
    found["HOME"] = str(cluster.folder)  # where no token lies
    if token is None:
        return found | {"RAY_AUTH_MODE": "disabled"}
    return found | {"RAY_AUTH_TOKEN": token}


@pytest.mark.parametrize("token", [None, "wrong" * 8])
@pytest.mark.parametrize("path", ["/api/jobs/", "/nodes?view=summary", "/api/serve/applications/"])
def test_dashboard_and_jobs_api_refuse_a_stranger(
    stage: Stage, path: str, token: str | None
) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx2.get(f"{stage.cluster.dashboard}{path}", headers=headers, timeout=10)
    assert answer.status_code == (403 if token else 401)
    stage.cluster.get(path)  # with the token it answers


@pytest.mark.parametrize("token", [None, "wrong" * 8])
def test_a_job_of_a_stranger_does_not_start(
    stage: Stage, token: str | None, tmp_path: Path
) -> None:
    trace = tmp_path / "started"
    command = stage.cluster.submit("touch", str(trace))
    ended = subprocess.run(
        command,
        env=environment(stage.cluster, token),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode
    assert "token" in (ended.stdout + ended.stderr).lower()
    assert not trace.exists()


def test_the_control_port_refuses_strangers(stage: Stage) -> None:
    code = f"from cluster.session import session\nwith session('{stage.cluster.address}'): pass"
    # At once, as Ray tries for 20 s.
    strangers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(stage.cluster, token),
            stderr=subprocess.PIPE,
            text=True,
        )
        for token in (None, "wrong" * 8)
    ]
    try:
        for stranger in strangers:
            _, said = stranger.communicate(timeout=120)
            assert stranger.returncode
            assert "ConfigError: no Ray cluster at" in said
            assert "token" in said
    finally:
        for stranger in strangers:
            stranger.kill()


def run_on(cluster: LocalCluster, *command: str) -> subprocess.CompletedProcess[str]:
    """Python with the cluster's token, as its operator calls it."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**cluster.environment, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def manual_worker(
    stage: Stage, number: int, variables: dict[str, str], log: Path
) -> Iterator[None]:
    """A node that the autoscaler did not start, with its own variables."""
    address, prefix = stage.network.add(number)
    command = ray_start(
        f"--address={stage.cluster.address}", f"--node-ip-address={address}", "--num-cpus=1"
    )
    shown = [f"{name}={value}" for name, value in variables.items()]
    node = stage.cluster.environment | stage.network.variables(number)
    process = start_guarded([*prefix, "env", *shown, *command], log, environment=node, folder=ROOT)
    try:
        yield
    finally:
        family = below(process.pid)
        stop_guarded(process)
        assert not end_all(family, limit_s=30)
        stage.network.remove(number)


@pytest.fixture(scope="module")
def workers(stage: Stage) -> Stage:
    """The same cluster, once it has two workers."""
    asked = run_on(stage.cluster, "-c", TWO_WORKERS)
    assert asked.returncode == 0, asked.stderr
    wait_for(lambda: len(stage.cluster.workers()) == WORKERS, "two workers")
    return stage


def test_a_healthy_cluster_has_no_failed_finding(workers: Stage) -> None:
    ended = run_on(workers.cluster, "-m", "cluster", "doctor", "--json", "--mib=8")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])["findings"]
    assert {each["status"] for each in found} == {"ok"}
    texts = {each["check"]: each["text"] for each in found}
    assert f"between {WORKERS} nodes" in texts["gloo all-reduce"]
    assert "refuses a caller without it" in texts["token"]
    assert sum(each["check"] == "storage" for each in found) == 1 + WORKERS


def test_a_sick_node_is_named_with_what_is_wrong_there(workers: Stage, tmp_path: Path) -> None:
    cluster = workers.cluster
    other = tmp_path / "transformers-9.9.9.dist-info" / "METADATA"
    other.parent.mkdir()
    other.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 9.9.9\n")
    sick = {
        "PYTHONPATH": str(tmp_path),
        "LD_PRELOAD": str(CLOCK),
        "FAKETIME": "+400s",
        "DONT_FAKE_MONOTONIC": "1",
        # Its keys are not the store's.
        "AWS_SECRET_ACCESS_KEY": "wrong",
    }
    with manual_worker(workers, 9, sick, tmp_path / "log"):
        wait_for(lambda: len(cluster.workers()) == WORKERS + 1, "the sick node")
        ended = run_on(cluster, "-m", "cluster", "doctor", "--json", "--mib=1")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])["findings"]
    failed = {each["check"]: each for each in found if each["status"] == "failed"}
    assert set(failed) == {"versions", "clock", "storage"}
    assert len({each["place"] for each in failed.values()}) == 1
    assert "transformers 9.9.9, here" in failed["versions"]["text"]
    assert "+400." in failed["clock"]["text"]
    assert "credentials" in failed["storage"]["text"]
    assert "wrong" not in failed["storage"]["text"]


def test_a_node_that_leaves_meanwhile_is_no_fault_of_the_others(
    workers: Stage, tmp_path: Path
) -> None:
    cluster = workers.cluster
    # What the doctor asks a node for its GPUs ends that node, as an autoscaler might just then:
    # by a signal to its raylet, the parent of the process that asks.
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nkill $(ps -o ppid= -p $PPID)\nexec sleep 60\n")
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    wait_for(lambda: len(cluster.workers()) == WORKERS, "the end of the sick node")
    with manual_worker(workers, 7, path, tmp_path / "log"):
        wait_for(lambda: len(cluster.workers()) == WORKERS + 1, "the node")
        ended = run_on(cluster, "-m", "cluster", "doctor", "--json", "--mib=1")
    wait_for(lambda: len(cluster.workers()) == WORKERS, "the node's end")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])["findings"]
    (left,) = [each for each in found if each["status"] != "ok"]
    assert (left["check"], left["status"]) == ("nodes", "warning")
    texts = {each["check"]: each["text"] for each in found}
    assert f"between {WORKERS} nodes" in texts["gloo all-reduce"]
    assert left["place"] not in {each["place"] for each in found if each["check"] == "storage"}


def test_a_node_with_another_ray_does_not_join(workers: Stage, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.59.1'\n")
    before = workers.cluster.workers()
    log = tmp_path / "log"
    with manual_worker(workers, 8, {"PYTHONPATH": str(tmp_path)}, log):
        wait_for(lambda: "Version mismatch" in log.read_text(), "a refusal")
    assert "Ray: 2.59.1" in log.read_text()
    assert workers.cluster.workers() == before
