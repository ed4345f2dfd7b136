"""Labels of many rows from a service: their order, and one version for all of them."""

import json
from typing import Any

import httpx2
import pytest
from cards import CARD

from serve.client import Client, ServiceError
from serve.labels import BYTES_A_REQUEST, ROWS_A_REQUEST, ServiceLabels


def service(versions: list[str], **card: Any) -> Client:
    """Calls a text odd if its number is; answers with the versions given, the last one for ever."""
    transport = httpx2.MockTransport(lambda request: answering(versions, request, **card))
    return Client("http://service", transport=transport)


def answering(versions: list[str], request: httpx2.Request, **card: Any) -> httpx2.Response:
    if request.url.path == "/v1/models":
        return httpx2.Response(200, json={"models": [CARD | card]})
    body = json.loads(request.content)
    labels = ["odd" if int(text[-1]) % 2 else "even" for text in body["inputs"]]
    predictions = [
        {"label": label, "probability": 1, "probabilities": {label: 1}, "tokens": 3}
        for label in labels
    ]
    version = versions.pop(0) if len(versions) > 1 else versions[0]
    found = {"model": "m", "version": version, "language": body["language"]}
    timing = {"queue_ms": 0, "compute_ms": 0, "total_ms": 0}
    return httpx2.Response(200, json=found | {"predictions": predictions, "timing": timing})


def test_labels_come_in_the_order_of_the_rows() -> None:
    with service(["v-1"]) as client:
        labels = ServiceLabels(client, "m")
        numbers = list(range(5 * ROWS_A_REQUEST + 3))
        found = labels.ask([str(number) for number in numbers], None, "xc")
    assert labels.version == "v-1"
    assert found == ["odd" if number % 2 else "even" for number in numbers]


def test_long_rows_are_sent_in_requests_that_every_service_takes() -> None:
    long = "1" * (BYTES_A_REQUEST // 2 - 1)
    asked: list[int] = []

    def counted(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/v1/models":
            asked.append(len(json.loads(request.content)["inputs"]))
        return answering(["v-1"], request)

    with Client("http://service", transport=httpx2.MockTransport(counted)) as client:
        found = ServiceLabels(client, "m").ask([long, long, long, "2", 3 * long], None, "xc")
    assert found == ["odd", "odd", "odd", "even", "odd"]
    assert sorted(asked) == [1, 2, 2]


def test_a_version_that_takes_over_ends_it() -> None:
    with service(["v-1", "v-2"]) as client, pytest.raises(ServiceError, match="v-2 of m took over"):
        ServiceLabels(client, "m").ask(["1"] * (2 * ROWS_A_REQUEST), None, "xc")


def test_a_canary_is_refused() -> None:
    client = service(["v-1"], canary_version="v-2")
    with client, pytest.raises(ServiceError, match="has a canary"):
        ServiceLabels(client, "m")


def test_a_model_that_is_not_in_service_names_those_that_are() -> None:
    with service(["v-1"]) as client, pytest.raises(ServiceError, match=r"no model other; .* m$"):
        ServiceLabels(client, "other")
