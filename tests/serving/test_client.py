"""The client: what it asks, what it tries again and after how long, what it raises."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from serve.client import Client, ServiceError

ANSWER = {
    "model": "m",
    "version": "v-1",
    "language": "xc",
    "predictions": [
        {"label": "good", "probability": 0.9, "probabilities": {"good": 0.9}, "tokens": 4}
    ],
    "timing": {"queue_ms": 0.1, "compute_ms": 1, "total_ms": 2},
}
PROBLEM = {"type": "about:blank", "title": "T", "status": 503, "detail": "the queue is full"}


class Service:
    """Answers with the statuses given, the last one for ever; keeps requests and pauses."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options: Any) -> Client:
        transport = httpx2.MockTransport(self)
        return Client("http://service", transport=transport, sleep=self.pauses.append, **options)


def ok() -> httpx2.Response:
    return httpx2.Response(200, json=ANSWER)


def full(**headers: str) -> httpx2.Response:
    return httpx2.Response(503, json=PROBLEM, headers=headers)


def test_it_sends_what_the_service_reads() -> None:
    service = Service(ok())
    with service.client(api_key="la_x") as client:
        found = client.classify(["a", ("b", "c")], language="xc", model="m", top_k=2)
    (request,) = service.requests
    assert (request.method, request.url.path) == ("POST", "/v1/classify")
    assert request.headers["authorization"] == "Bearer la_x"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "model": "m",
        "language": "xc",
        "inputs": ["a", {"premise": "b", "hypothesis": "c"}],
        "top_k": 2,
    }
    assert found.predictions[0].label == "good"


def test_a_full_queue_is_tried_again_when_it_says() -> None:
    service = Service(full(**{"retry-after": "7"}), full(**{"retry-after": "30"}), ok())
    assert service.client().classify(["a"], language="xc").version == "v-1"
    assert service.pauses == [7.0, 30.0]


@pytest.mark.parametrize(
    ("content_type", "tries"), [("text/html", 2), ("application/problem+json", 1)]
)
def test_a_proxy_without_a_replica_is_tried_again_and_a_fault_of_the_service_is_not(
    content_type: str, tries: int
) -> None:
    failed = httpx2.Response(500, headers={"content-type": content_type})
    service = Service(failed, ok())
    with service.client(retries=1) as client:
        if tries == 1:
            with pytest.raises(ServiceError):
                client.classify(["a"], language="xc")
        else:
            client.classify(["a"], language="xc")
    assert len(service.requests) == tries


def test_a_wait_longer_than_a_caller_would_stand_raises_and_names_it() -> None:
    service = Service(full(**{"retry-after": "3600"}))
    with pytest.raises(ServiceError, match=r"the queue is full.*3600 s") as raised:
        service.client().classify(["a"], language="xc")
    assert (raised.value.status, service.pauses) == (503, [])


@pytest.mark.parametrize("content", [b"<html>", b'{"answer": 42}'])
def test_an_answer_of_another_server_names_the_address(content: bytes) -> None:
    client = Service(httpx2.Response(200, content=content)).client()
    with pytest.raises(ServiceError, match=r"http://service/v1/classify.*check the address"):
        client.classify(["a"], language="xc")
    with pytest.raises(ServiceError, match=r"http://service/v1/models.*check the address"):
        client.models()


def test_an_address_without_a_scheme_is_refused_at_once() -> None:
    with pytest.raises(ServiceError, match=r"localhost:8000 begins with neither http://"):
        Client("localhost:8000")


def test_pauses_grow_where_the_service_names_none() -> None:
    service = Service(full(), httpx2.ConnectError("refused"), full(), ok())
    service.client().classify(["a"], language="xc")
    assert len(service.pauses) == 3
    for attempt, pause in enumerate(service.pauses):
        assert 0.1 * 2**attempt <= pause <= 0.2 * 2**attempt


@pytest.mark.parametrize(
    ("answer", "status", "tries", "text"),
    [
        (lambda: full(), 503, 3, "the queue is full"),
        (lambda: httpx2.ConnectError("refused"), None, 3, "refused"),
        (lambda: httpx2.ReadTimeout("too late"), None, 1, "too late"),
        (lambda: httpx2.Response(502, text="<html>"), 502, 3, "Bad Gateway"),
        (lambda: httpx2.Response(401, json={**PROBLEM, "status": 401}), 401, 1, "401"),
        (lambda: httpx2.Response(422, text="no"), 422, 1, "422"),
        (lambda: httpx2.Response(408, text="no"), 408, 1, "408"),
        (lambda: httpx2.Response(504, text="no"), 504, 1, "504"),
    ],
)
def test_what_cannot_succeed_raises(
    answer: Callable[[], Any], status: int | None, tries: int, text: str
) -> None:
    service = Service(answer())
    with pytest.raises(ServiceError, match=text) as raised:
        service.client(retries=2).classify(["a"], language="xc")
    assert raised.value.status == status
    assert len(service.requests) == tries


@pytest.mark.parametrize(
    ("inputs", "language", "text"),
    [
        ([], "xc", "inputs: List should have at least 1 item"),
        (["a"], "", "language: String should have at least 1 character"),
        (["Zanzibar \ud800"], "xc", "surrogate"),
    ],
)
def test_what_could_only_be_refused_is_not_sent(
    inputs: list[str], language: str, text: str
) -> None:
    service = Service(ok())
    with pytest.raises(ServiceError, match=text) as raised:
        service.client().classify(inputs, language=language)
    assert raised.value.status is None
    assert "Zanzibar" not in str(raised.value)
    assert service.requests == []


def test_it_understands_the_service(client: TestClient) -> None:
    """Against the application itself, through the same bytes as over a network."""

    def passed_on(request: httpx2.Request) -> httpx2.Response:
        answer = client.request(
            request.method, request.url.path, content=request.content, headers=request.headers
        )
        return httpx2.Response(answer.status_code, content=answer.content)

    with Client("http://service", transport=httpx2.MockTransport(passed_on)) as asked:
        assert [card.name for card in asked.models()] == ["one", "pairs", "two"]
        answer = asked.classify([("a good film", "a film")], language="xe")
        assert answer.predictions[0].label in answer.predictions[0].probabilities
        with pytest.raises(ServiceError, match="no such model") as raised:
            asked.classify(["a"], language="xc", model="none")
    assert raised.value.status == 404
