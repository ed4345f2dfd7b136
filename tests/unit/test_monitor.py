"""What is shown of a step's progress."""

import time
from types import SimpleNamespace

import pytest
import ray

from cluster import monitor
from cluster.monitor import Monitor, Progress, watching

WAIT_LIMIT_S = 10.0


def test_what_ran_before_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(ray, "get", lambda value: value)
    kept = Monitor()
    kept.post(Progress("head ae", 8, 8, "of the run before"))
    shown: list[Progress] = []
    actor = SimpleNamespace(latest=SimpleNamespace(remote=kept.latest))
    now = Progress("align ae", 1, 8, "")
    with watching(actor, shown.append):
        time.sleep(0.1)
        kept.post(now)
        deadline = time.monotonic() + WAIT_LIMIT_S
        while not shown and time.monotonic() < deadline:
            time.sleep(0.01)
    assert shown == [now]
