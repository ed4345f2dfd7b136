"""Server processes that end with their starter, and processes that outlive their parents."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.guarded import start_guarded, stop_guarded
from cluster.rehearsal.family import adopt_orphans, below, end_all, orphans

# Says when it is ready, and by what it was ended; deaf to SIGTERM with an argument.
SERVER = """\
import signal, sys, time
def ended(*_):
    print("ended in order", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1:] else ended)
print("ready", flush=True)
time.sleep(600)
"""
STARTER = """\
import sys
from pathlib import Path
from cluster.guarded import start_guarded
start_guarded([sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]))
while "ready" not in Path(sys.argv[1]).read_text():
    pass
"""
WAIT_LIMIT_S = 30.0


def started(log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    process = start_guarded([sys.executable, "-c", SERVER, *arguments], log)
    deadline = time.monotonic() + WAIT_LIMIT_S
    while "ready" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("by", "is_in_order"), [("TERM", True), ("KILL", False)])
def test_a_server_ends_by_the_signal(tmp_path: Path, by: str, is_in_order: bool) -> None:
    log = tmp_path / "log"
    process = started(log)
    family = below(process.pid)
    stop_guarded(process, by=by)
    assert ("ended in order" in log.read_text()) is is_in_order
    assert not any(each.is_running() for each in family)


def test_a_server_that_is_deaf_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path / "log", "deaf")
    family = below(process.pid)
    assert len(family) == 2
    stop_guarded(process, by="TERM", limit_s=0.2)
    assert not psutil.wait_procs(family, timeout=WAIT_LIMIT_S)[1]


def test_a_server_ends_with_its_starter(tmp_path: Path) -> None:
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", STARTER, str(log), SERVER], check=True)
    mine = [p for p in psutil.process_iter(["cmdline"]) if SERVER in (p.info["cmdline"] or [])]
    assert not psutil.wait_procs(mine, timeout=WAIT_LIMIT_S)[1]


def test_a_process_whose_parent_died_is_found_by_its_title() -> None:
    adopt_orphans()
    began = time.time() - 1
    orphan = "exec -a 'ray::test orphan' sleep 600"
    subprocess.run(["bash", "-c", f"({orphan}) & sleep 0.2"], check=True)
    (found,) = orphans("ray::test", since=began)
    assert orphans("ray::test", since=time.time() + 60) == []
    assert end_all([found], limit_s=WAIT_LIMIT_S) == []
    assert orphans("ray::test", since=began) == []
