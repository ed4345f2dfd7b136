"""The time that is left, on a clock that the test sets."""

from types import SimpleNamespace

import pytest

from cluster import pace


def test_what_is_left_takes_as_long_as_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now))
    made = pace.Pace(50.0)
    assert made.text(50.0) == "", "nothing is done yet"
    clock.now = 120.0
    assert made.text(50.0) == ""
    # 10 of 50 units in 20 s: 80 s for the other 40.
    assert made.text(40.0) == "about 80 s left"
    clock.now = 4_100.0
    assert made.text(25.0) == "about 4,000 s left"
    assert made.text(0.0) == "about 0 s left"
