"""The metrics: every observation carries the labels of its metric, without which Ray refuses it."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.serve import metrics

from serve.telemetry import RayMetrics

KIND = {"model": "m", "language": "xc"}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, str]]]:
    """Labels of what was counted or observed, by the metric's name."""
    found: dict[str, list[dict[str, str]]] = {}

    def kept(method: Callable[..., None]) -> Callable[..., None]:
        def call(metric: Any, value: float, tags: dict[str, str] | None = None) -> None:
            found.setdefault(metric.info["name"], []).append(tags or {})
            method(metric, value, tags)

        return call

    monkeypatch.setattr(metrics.Counter, "inc", kept(metrics.Counter.inc))
    monkeypatch.setattr(metrics.Histogram, "observe", kept(metrics.Histogram.observe))
    return found


def test_what_is_counted_for_whom(seen: dict[str, list[dict[str, str]]]) -> None:
    observer = RayMetrics()
    shared: Any = {**KIND, "inputs": 2, "seconds": 0.1}
    observer.request(**shared, status=200, tokens=9)
    observer.request(**shared, status=200, tokens=0)
    observer.request(**shared, status=503, tokens=0)
    observer.waited(0.1, **KIND)
    observer.batch(rows=3, tokens=12)
    observer.refused(model="m")
    of_status = [{**KIND, "status": status} for status in ("200", "200", "503")]
    assert seen == {
        "langalign_requests": of_status,
        "langalign_request_errors": of_status[2:],
        "langalign_inputs": [KIND, KIND],
        "langalign_tokens": [KIND],
        "langalign_latency_s": [KIND, KIND],
        "langalign_queue_s": [KIND],
        "langalign_batch_rows": [{}],
        "langalign_batch_tokens": [{}],
        "langalign_refused_versions": [{"model": "m"}],
    }
