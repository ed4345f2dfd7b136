"""What the doctor does where nodes leave while it looks at them."""

from collections.abc import Sequence
from typing import Any

import pytest

from cluster.doctor import examination
from cluster.doctor.findings import Finding
from langalign.errors import ClusterError
from langalign.storage import Storage

FINE = [Finding("gloo all-reduce", "cluster", "ok", "fast")]
BROKEN = [Finding("gloo all-reduce", "cluster", "failed", "closed by peer")]
SICK = [Finding("versions", "a", "failed", "another"), *FINE]


Attempt = tuple[str, list[Finding] | str]  # the nodes that run when it begins, and its outcome


def node(name: str) -> dict[str, Any]:
    return {"NodeID": name * 6, "NodeManagerAddress": name}


def examined(monkeypatch: pytest.MonkeyPatch, attempts: Sequence[Attempt]) -> list[Finding]:
    """What the doctor says after attempts of such outcomes: findings, or an error's text."""
    left = list(attempts)
    alive = list(left[0][0])

    def examine(nodes: dict[str, Any], storage: Storage, mib: int) -> list[Finding]:
        _, found = left.pop(0)
        if left:
            alive[:] = left[0][0]
        if isinstance(found, str):
            raise ClusterError(found)
        return found

    monkeypatch.setattr(examination, "GONE_WAIT_S", 0.0)
    monkeypatch.setattr(examination, "_alive", lambda: {name * 6: node(name) for name in alive})
    monkeypatch.setattr(examination, "_examine", examine)
    return examination.examine(Storage("/nowhere"), mib=1)


def left_nodes(found: list[Finding]) -> list[str]:
    return [each.place[0] for each in found if each.check == "nodes"]


def test_nodes_that_stay_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (FINE, SICK, BROKEN):
        assert examined(monkeypatch, [("ab", found)]) == found


def test_what_remains_is_looked_at_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(monkeypatch, [("abc", "b does not answer"), ("ac", BROKEN), ("a", FINE)])
    assert found[:-2] == FINE
    assert left_nodes(found) == ["b", "c"]


def test_a_node_that_goes_where_nothing_failed_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert examined(monkeypatch, [("ab", FINE), ("a", BROKEN)]) == FINE


def test_a_node_that_stays_and_does_not_answer_is_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ClusterError, match=r"^a does not answer$"):
        examined(monkeypatch, [("ab", "a does not answer")])


def test_the_last_attempt_names_what_left(monkeypatch: pytest.MonkeyPatch) -> None:
    going: list[Attempt] = [("abcd", "gone"), ("abc", "gone"), ("ab", BROKEN), ("a", FINE)]
    found = examined(monkeypatch, going)
    assert (found[:1], left_nodes(found)) == (BROKEN, ["d", "c", "b"])
    with pytest.raises(ClusterError, match=r"nodes left in each of 3 attempts \(d .*, c .*, b "):
        examined(monkeypatch, [*going[:2], ("ab", "gone"), ("a", FINE)])
