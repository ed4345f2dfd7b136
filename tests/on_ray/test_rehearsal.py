"""`python -m cluster rehearse`: from nothing to a served model and back to nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from calls import ROOT

from cluster.observability.exported import GPU_METRICS, queried_metrics

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_a_rehearsal_scales_up_and_down_serves_and_leaves_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results"
    before = namespaces()
    ended = subprocess.run(
        [sys.executable, "-m", "cluster", "rehearse", str(results)],
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
    assert summary["answer"]["label"] in ("negative", "positive")
    assert set(summary["metrics"]["exported"]) >= queried_metrics() - GPU_METRICS
    assert set(summary["metrics"]["not_on_this_machine"]) <= GPU_METRICS
    assert summary["searched_for_secrets"] > 50
    assert (results / "timeline.png").read_bytes().startswith(b"\x89PNG")

    assert namespaces() == before
    left = [p for p in psutil.process_iter(["cmdline"]) if str(results) in str(p.info["cmdline"])]
    assert not left


def namespaces() -> str:
    """Network namespaces of this machine; none where there is no `ip`."""
    program = shutil.which("ip")
    if program is None:
        return ""
    return subprocess.run(
        [program, "netns", "list"], capture_output=True, text=True, check=True
    ).stdout
