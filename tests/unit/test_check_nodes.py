"""Every node is asked for the storage, and a node that does not answer is named; without Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import exceptions

from cluster import session
from langalign.errors import ClusterError, StorageError
from langalign.storage import Storage

Answer = Callable[[], str]


class FakeRay:
    """What `check_nodes` uses of Ray: nodes, tasks that are answers to be, and `get`."""

    exceptions = exceptions

    def __init__(self, nodes: list[tuple[str, str, Answer]], leaves: str | None) -> None:
        """(id, address, answer) of each node; `leaves` does after the nodes were asked for once."""
        self._nodes = nodes
        self._leaves = leaves
        self._looked = 0

    def nodes(self) -> list[dict[str, Any]]:
        self._looked += 1
        gone = self._leaves if self._looked > 1 else None
        return [
            {"NodeID": node_id, "NodeManagerAddress": address, "Alive": node_id != gone}
            for node_id, address, _ in self._nodes
        ]

    def remote(self, **_: Any) -> Any:
        answers = {node_id: answer for node_id, _, answer in self._nodes}

        class Task:
            def options(self, *, scheduling_strategy: Any) -> "Task":
                self.node_id = scheduling_strategy.node_id
                return self

            def remote(self, *_: Any) -> Answer:
                return answers[self.node_id]

        return lambda _: Task()

    def get(self, reference: Answer, *, timeout: float) -> str:
        assert timeout > 0
        return reference()


def raising(error: Exception) -> Answer:
    def answer() -> str:
        raise error

    return answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`check_nodes` on nodes with these answers."""

    def check(*nodes: tuple[str, str, Answer], leaves: str | None = None) -> int:
        monkeypatch.setattr(session, "ray", FakeRay(list(nodes), leaves))
        monkeypatch.setattr(session, "GONE_LIMIT_S", 0.0)
        storage = Storage(str(tmp_path))
        try:
            return session.check_nodes(storage)
        finally:
            assert storage.list("") == []

    return check


def test_nodes_of_one_address_are_all_asked(asked: Callable[..., int]) -> None:
    well: Answer = str
    assert asked(("a" * 56, "10.0.0.1", well), ("b" * 56, "10.0.0.1", well)) == 2
    with pytest.raises(StorageError, match=r"on node 10\.0\.0\.1: access denied"):
        asked(("a" * 56, "10.0.0.1", lambda: "access denied"), ("b" * 56, "10.0.0.1", well))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (exceptions.GetTimeoutError(), "no answer in 120 s"),
        (exceptions.NodeDiedError("the node is gone"), "the node is gone"),
        (exceptions.WorkerCrashedError(), "crash|died|exited"),
    ],
)
def test_a_node_that_does_not_answer_is_named(
    asked: Callable[..., int], error: Exception, words: str
) -> None:
    with pytest.raises(ClusterError, match=rf"node 10\.0\.0\.2 .*({words})"):
        asked(("a" * 56, "10.0.0.1", str), ("b" * 56, "10.0.0.2", raising(error)))


def test_a_node_that_the_autoscaler_lets_go_meanwhile_is_not_counted(
    asked: Callable[..., int],
) -> None:
    gone = raising(exceptions.RayTaskError("probe", "infeasible", ValueError(), ip="here"))
    nodes = ("a" * 56, "10.0.0.1", str), ("b" * 56, "10.0.0.2", gone)
    assert asked(*nodes, leaves="b" * 56) == 1
    with pytest.raises(ClusterError, match=r"10\.0\.0\.2"):
        asked(*nodes, leaves="a" * 56)
