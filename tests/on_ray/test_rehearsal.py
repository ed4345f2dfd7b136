"""`python -m cluster rehearse`: from nothing to a served model and back to nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from calls import ROOT
from tiny import write_encoder

from cluster.observability.exported import GPU_METRICS, queried_metrics

pytestmark = pytest.mark.slow

# In the command lines of nodes, their agents and workers, and of the store.
MARKS = ("/tmp/ray-", "/tmp/s3-", "weed server", "raylet", "gcs_server", "ray::")


@pytest.mark.timeout(600)
def test_a_rehearsal_scales_up_and_down_serves_and_leaves_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results"
    # To pre-train the demo's is most of the sweep; tests/unit/test_demo_language.py makes one.
    encoder = write_encoder(tmp_path / "encoder", max_length=64)
    spaces, devices, processes = namespaces(), links(), nodes_and_stores()
    ended = subprocess.run(
        [sys.executable, "-m", "cluster", "rehearse", str(results), f"--encoder={encoder}"],
        cwd=ROOT,
        # Not the tests' own: the command has to do without.
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((results / "summary.json").read_text())
    assert summary["status"] == "done"

    counts = [point["workers"] for point in summary["workers"]]
    assert counts[0] == 0
    assert counts[-1] == 0
    # Up for the sweep and down, up for the service and down.
    assert counts.count(0) >= 3
    assert summary["most_workers"] == 2
    assert sum(summary["trials"].values()) == 8
    assert summary["models"][0]["name"] == "rehearsal"
    assert summary["trained"][0]["name"] == "rehearsal-train"
    assert summary["answer"]["label"] in ("negative", "positive")
    assert set(summary["metrics"]["exported"]) >= queried_metrics() - GPU_METRICS
    assert set(summary["metrics"]["not_on_this_machine"]) <= GPU_METRICS
    assert summary["searched_for_secrets"] > 50
    assert (results / "timeline.png").read_bytes().startswith(b"\x89PNG")

    assert namespaces() == spaces
    assert links() == devices
    left = nodes_and_stores()
    assert [left[key] for key in left.keys() - processes.keys()] == []


@pytest.mark.parametrize("title", ["ray::rehearsed", "weed server -dir=/tmp/s3-a"])
def test_a_process_that_a_rehearsal_left_would_be_seen(title: str) -> None:
    before = nodes_and_stores()
    with subprocess.Popen(["bash", "-c", f"exec -a '{title}' sleep 600"]) as process:
        while process.pid not in {pid for pid, _ in nodes_and_stores()}:
            assert process.poll() is None
        process.kill()
    assert nodes_and_stores().keys() <= before.keys()


def namespaces() -> str:
    """Network namespaces of this machine; none where there is no `ip`."""
    return ip("netns", "list")


def links() -> set[str]:
    """Names of this machine's network devices."""
    return {line.split(":")[1].strip() for line in ip("-o", "link").splitlines()}


def ip(*arguments: str) -> str:
    """What `ip` prints; nothing where there is none."""
    program = shutil.which("ip")
    if program is None:
        return ""
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


def nodes_and_stores() -> dict[tuple[int, float], str]:
    """(pid, start) → command line of every process of this machine that is of Ray or of a store.

    But for those of the tests that run beside these (`pytest -n 2`).
    """
    others = set(processes_beside())
    found = {}
    for process in psutil.process_iter(["cmdline", "create_time"]):
        shown = " ".join(process.info["cmdline"] or [])
        if any(mark in shown for mark in MARKS):
            found[process] = shown
    others |= set(processes_beside())  # also those that have started meanwhile
    return {(p.pid, p.create_time()): shown for p, shown in found.items() if p not in others}


def processes_beside() -> Iterator[psutil.Process]:
    """All below the other processes of the same run of pytest, if there are any."""
    run = psutil.Process().parent() if "PYTEST_XDIST_WORKER" in os.environ else None
    for sibling in run.children() if run else []:
        if sibling.pid != os.getpid():
            with suppress(psutil.NoSuchProcess):
                yield from sibling.children(recursive=True)
