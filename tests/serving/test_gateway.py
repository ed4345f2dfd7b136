"""Several encoders behind one address: who is asked, and what a lost or full replica gives."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from fastapi.testclient import TestClient
from local_service import LocalParts, parts_of
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import DeploymentUnavailableError

from langalign.storage import Storage
from serve.api import create_api
from serve.app import Encoder
from serve.gateway import RemoteBackends
from serve.replica import Replica
from serve.schemas import PROBLEM_MEDIA_TYPE
from serve.telemetry import Observer

BODY = {"language": "xc", "inputs": ["a"]}
# What a call in Serve's throughput mode raises whose replica shuts down.
CANCELLED = grpc.aio.AioRpcError(
    grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata()
)
LANGUAGES = {"one": ("en", "xc"), "two": ("en", "xd")}


class Statuses(Observer):
    """Keeps the model, language and status of every answer."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def request(
        self, *, model: str, language: str, status: int, inputs: int, tokens: int, seconds: float
    ) -> None:
        self.seen.append((model, language, status))


def handle_of(parts: LocalParts, name: str) -> Any:
    """Calls as Ray's handle of an encoder does."""
    encoder = object.__new__(Encoder)
    encoder._replica = Replica(parts.service, parts.batcher, None)
    return SimpleNamespace(
        deployment_name=name,
        classify=SimpleNamespace(remote=encoder.classify),
        models=SimpleNamespace(remote=encoder.models),
    )


def api_of(handles: dict[str, Any], parts: LocalParts, observer: Observer | None = None) -> Any:
    limits = parts.settings.limits()
    return create_api(RemoteBackends(handles, LANGUAGES, limits.request_s), limits, None, observer)


def losing(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any) -> Any:
        raise error

    return call


async def never(*args: Any) -> Any:
    """As a call waits whose encoder has no replica."""
    await asyncio.sleep(60)


def test_every_answer_is_counted_where_it_leaves(models: Storage) -> None:
    statuses = Statuses()
    parts = parts_of(models, ["one"], ongoing_requests=1, inputs=2)
    handles = {"one": handle_of(parts, "a"), "two": handle_of(parts_of(models, ["two"]), "b")}
    with TestClient(api_of(handles, parts, statuses)) as client:
        assert client.post("/v1/classify", json=BODY).json()["model"] == "one"
        assert client.post("/v1/classify", json={**BODY, "language": "xd"}).json()["model"] == "two"
        client.post("/v1/classify", json={**BODY, "language": "ko"})
        client.post("/v1/classify", json={**BODY, "inputs": ["a"] * 3})
        client.post("/v1/classify", json={**BODY, "inputs": []})
    assert statuses.seen == [
        ("one", "xc", 200),
        ("two", "xd", 200),
        ("", "", 422),
        ("one", "xc", 422),
        ("", "", 422),
    ]


@pytest.mark.parametrize(
    "error",
    [ActorDiedError(), DeploymentUnavailableError(SimpleNamespace(name="a")), CANCELLED],
    ids=lambda error: type(error).__name__,
)
def test_a_lost_replica_is_a_problem_with_retry_after(models: Storage, error: Exception) -> None:
    statuses, parts = Statuses(), parts_of(models, ["one"])
    handle = handle_of(parts, "a")
    with TestClient(api_of({"one": handle}, parts, statuses)) as client:
        assert client.post("/v1/classify", json=BODY).status_code == 200
        handle.classify.remote = losing(error)
        answer = client.post("/v1/classify", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE
    assert statuses.seen == [("one", "xc", 200), ("one", "xc", 503)]


def test_a_fault_of_an_encoder_reaches_no_log_with_its_text(
    models: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    statuses, parts = Statuses(), parts_of(models, ["one"])
    monkeypatch.setattr(parts.service, "classify", losing(RuntimeError("of Zanzibar")))
    with TestClient(api_of({"one": handle_of(parts, "a")}, parts, statuses)) as client:
        answer = client.post("/v1/classify", json=BODY)
    assert (answer.status_code, statuses.seen) == (500, [("one", "xc", 500)])
    assert "Zanzibar" not in answer.text + caplog.text


def test_the_time_of_a_request_holds_for_an_encoder_that_never_answers(models: Storage) -> None:
    statuses, parts = Statuses(), parts_of(models, ["one"], request_s=0.05)
    handle = handle_of(parts, "a")
    handle.classify.remote = never
    with TestClient(api_of({"one": handle}, parts, statuses)) as client:
        answer = client.post("/v1/classify", json=BODY)
    assert answer.status_code == 504
    assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE
    assert "0.05 s" in answer.json()["detail"]
    assert statuses.seen == [("one", "xc", 504)]


def test_an_encoder_that_is_away_takes_no_other_along(
    models: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.gateway.CARDS_LIMIT_S", 0.05)
    parts = parts_of(models, ["one"])
    near, far = handle_of(parts, "a"), handle_of(parts_of(models, ["two"]), "b")
    answering, far.models.remote = far.models.remote, never
    with TestClient(api_of({"one": near, "two": far}, parts)) as client:

        def names() -> list[str]:
            return [card["name"] for card in client.get("/v1/models").json()["models"]]

        assert names() == ["one"]
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/classify", json=BODY).json()["model"] == "one"
        far.models.remote = answering
        assert names() == ["one", "two"]
        far.models.remote = losing(ActorDiedError())
        assert names() == ["one", "two"]
        near.models.remote = never
        for path in ("/readyz", "/v1/models"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "no encoder answers" in answer.json()["detail"]
