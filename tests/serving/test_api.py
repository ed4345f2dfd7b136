"""Over HTTP without Ray: the answer, and every fault with its status and its problem details."""

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from local_service import client_of, parts_of
from published import LABELS

import langalign
from langalign.storage import Storage
from serve.engine import Engine, Rows
from serve.keys import KeyFile, new_key
from serve.schemas import ClassifyRequest
from serve.telemetry import Observer

CLASSIFY = "/v1/classify"
SECRET = "Zanzibar"


def ask(client: TestClient, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, bytes | Iterator) else json.dumps(body).encode()
    return client.post(
        CLASSIFY, content=content, headers={"content-type": "application/json", **headers}
    )


def assert_problem(answer: Any, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert text in problem["detail"]
    assert SECRET not in answer.text


def test_the_answer_is_the_models_own(client: TestClient, models: Storage) -> None:
    texts = ["a good film", "dull", ""]
    answer = ask(client, {"model": "one", "language": "xc", "inputs": texts}).json()
    alone = langalign.load(models.uri("models/one"), device="cpu")
    wanted = alone.predict_proba(texts)
    assert (answer["model"], answer["language"]) == ("one", "xc")
    assert answer["version"].startswith("v-")
    assert [found["label"] for found in answer["predictions"]] == alone.predict(texts)
    for found, row in zip(answer["predictions"], wanted, strict=True):
        assert list(found["probabilities"].values()) == sorted(
            found["probabilities"].values(), reverse=True
        )
        by_label = [found["probabilities"][label] for label in LABELS]
        np.testing.assert_allclose(by_label, row, atol=1e-5)
        assert found["probability"] == max(by_label)
    assert answer["timing"]["total_ms"] >= answer["timing"]["compute_ms"] > 0


def test_pairs_and_top_k(client: TestClient, models: Storage) -> None:
    pair = {"premise": "a good film", "hypothesis": "a film"}
    answer = ask(client, {"language": "xe", "inputs": [pair], "top_k": 2}).json()
    assert answer["model"] == "pairs"
    alone = langalign.load(models.uri("models/pairs"), device="cpu")
    assert answer["predictions"][0]["label"] == alone.predict([("a good film", "a film")])[0]
    assert len(answer["predictions"][0]["probabilities"]) == 2


def test_a_comparison_is_the_same_head_without_the_aligner(
    client: TestClient, models: Storage
) -> None:
    texts = ["a good film", "dull"]
    answer = ask(client, {"language": "xc", "inputs": texts, "compare": True}).json()
    alone = langalign.load(models.uri("models/one"), device="cpu")
    embeddings = torch.from_numpy(alone.encoder.embed(texts))
    wanted = alone.model.head(embeddings).softmax(-1).detach().numpy()
    for found, row in zip(answer["predictions"], wanted, strict=True):
        np.testing.assert_allclose([found["unaligned"][label] for label in LABELS], row, atol=1e-5)
        assert found["unaligned"] != found["probabilities"]
    plain = ask(client, {"language": "xc", "inputs": texts}).json()
    assert [found["unaligned"] for found in plain["predictions"]] == [None, None]


@pytest.mark.parametrize("cache_rows", [0, 10])
def test_a_comparison_embeds_once_and_is_cached_apart(
    cache_rows: int, models: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(models, ["one"], cache_rows=cache_rows)
    passes = []
    embed = Engine._embed

    def counted(engine: Engine, requests: Sequence[Rows]) -> torch.Tensor:
        passes.append(sum(map(len, requests)))
        return embed(engine, requests)

    monkeypatch.setattr(Engine, "_embed", counted)
    wanted = {"language": "xc", "inputs": ["a good film", "dull"]}
    with client_of(parts) as opened:
        for compare in (True, False) * 2:
            answer = ask(opened, {**wanted, "compare": compare}).json()
            assert [p["unaligned"] is not None for p in answer["predictions"]] == [compare] * 2
    assert passes == [2] * (2 if cache_rows else 4)


def test_a_body_full_of_faults_is_refused_at_the_first(client: TestClient) -> None:
    body = b'{"language": "xc", "inputs": [' + b"1," * 500_000 + b"1]}"
    answer = ask(client, body)
    assert_problem(answer, 422, "inputs.0")
    # One for each form that an input may have.
    assert len(answer.json()["errors"]) == 2


def test_the_models_in_service(client: TestClient) -> None:
    cards = {card["name"]: card for card in client.get("/v1/models").json()["models"]}
    assert list(cards) == ["one", "pairs", "two"]
    assert (cards["one"]["target_language"], cards["two"]["target_language"]) == ("xc", "xd")
    assert (cards["one"]["inputs"], cards["pairs"]["inputs"]) == ("text", "pair")
    assert cards["one"]["labels"] == list(LABELS)
    assert len({card["encoder"] for card in cards.values()}) == 1


TEXT_REQUEST = {"language": "xc", "inputs": [SECRET]}
ANSWERABLE = {"language": "xc", "inputs": ["a"]}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b'{"language": "xc", "inputs": ["\\ud800 Zanzibar"]}', 400, "not JSON"),
        (b'{"language": "xc", "inputs": ["\xff Zanzibar"]}', 400, "not JSON"),
        ([], 422, "object"),
        ({"inputs": [SECRET]}, 422, "language: Field required"),
        ({**TEXT_REQUEST, "inputs": []}, 422, "at least 1 item"),
        ({**TEXT_REQUEST, "inputs": SECRET}, 422, "inputs"),
        ({**TEXT_REQUEST, "inputs": [SECRET, 3]}, 422, "inputs.1"),
        ({**TEXT_REQUEST, "inputs": [{"premise": SECRET}]}, 422, "inputs.0"),
        ({**TEXT_REQUEST, "top_k": 0}, 422, "top_k"),
        ({**TEXT_REQUEST, "top_k": "2"}, 422, "top_k"),
        ({**TEXT_REQUEST, SECRET: 1}, 422, "the body: Extra inputs are not permitted"),
        (
            {"language": "xe", "inputs": [{"premise": "a", "hypothesis": "b", SECRET: 1}]},
            422,
            "inputs.0",
        ),
        ({**TEXT_REQUEST, "language": "ko"}, 422, "choose from en, xc, xd, xe"),
        ({**TEXT_REQUEST, "language": "en"}, 422, "several know this language"),
        ({**TEXT_REQUEST, "model": "two"}, 422, "model two knows en and xd only"),
        ({**TEXT_REQUEST, "model": "../one"}, 404, "choose from one, pairs, two"),
        ({**TEXT_REQUEST, "language": "xe"}, 422, "premise and hypothesis"),
        (
            {"language": "xc", "inputs": [{"premise": SECRET, "hypothesis": "b"}]},
            422,
            "inputs.0: this model takes a text",
        ),
    ],
)
def test_a_faulty_body_is_a_clear_problem(
    client: TestClient, body: Any, status: int, text: str
) -> None:
    assert_problem(ask(client, body), status, text)
    assert ask(client, {"language": "xc", "inputs": ["a"]}).status_code == 200


def test_control_characters_are_text(client: TestClient) -> None:
    answer = ask(client, {"language": "xc", "inputs": ["\x00\x01\x7f a \u202e\ufeff"]})
    assert answer.status_code == 200


def test_the_content_type_must_say_json(client: TestClient) -> None:
    answer = ask(client, TEXT_REQUEST, **{"content-type": "text/plain"})
    assert_problem(answer, 415, "Content-Type")
    answer = ask(client, TEXT_REQUEST, **{"content-type": "application/json; charset=utf-8"})
    assert answer.status_code == 200


def test_unknown_paths_and_methods(client: TestClient) -> None:
    assert_problem(client.get("/v2"), 404, "/docs")
    answer = client.get(CLASSIFY)
    assert_problem(answer, 405, "method")
    assert answer.headers["allow"] == "POST"


@pytest.fixture(scope="module")
def strict(models: Storage) -> Iterator[TestClient]:
    limits = {"body_bytes": 2000, "inputs": 3, "characters": 100}
    with client_of(parts_of(models, ["one"], **limits)) as opened:
        yield opened


def test_limits_of_a_request(strict: TestClient) -> None:
    def inputs(*texts: str) -> Any:
        return ask(strict, {"language": "xc", "inputs": texts})

    assert inputs("a" * 100, "b", "c").status_code == 200
    assert_problem(inputs("a", "b", "c", "d"), 422, "4 inputs, and a request may hold 3")
    assert_problem(inputs("a", "b" * 101), 422, "inputs.1: 101 characters")
    assert_problem(inputs("a" * 2000), 413, "2000 bytes")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
NEARLY_A_REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["one", "two", None]) | ANY_JSON,
        "language": st.sampled_from(["xc", "en"]) | ANY_JSON,
        "inputs": st.lists(st.text(max_size=120), max_size=4) | ANY_JSON,
        "top_k": st.integers(-1, 5) | ANY_JSON,
        "compare": st.booleans() | ANY_JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given((NEARLY_A_REQUEST | ANY_JSON).map(json.dumps).map(str.encode) | st.binary(max_size=60))
def test_no_body_whatever_is_a_fault_of_the_service(strict: TestClient, body: bytes) -> None:
    answer = ask(strict, body)
    assert answer.status_code in (200, 400, 404, 413, 422)
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_that_hides_its_length_is_cut_off_too(strict: TestClient) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            sent.append(1)
            yield b" " * 500

    assert_problem(ask(strict, endless()), 413, "2000 bytes")


def test_a_client_that_never_finishes_its_body_is_let_go(models: Storage) -> None:
    """Straight to the application, because the test client sends bodies whole."""
    parts = parts_of(models, ["one"], body_s=0.1)
    sent: list[Any] = []

    async def scenario() -> None:
        async def receive() -> dict[str, Any]:
            if not sent and not started:
                started.append(1)
                return {"type": "http.request", "body": b'{"lang', "more_body": True}
            await asyncio.sleep(60)
            raise AssertionError("asked for more after the limit")

        async def send(message: Any) -> None:
            sent.append(message)

        started: list[int] = []
        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": CLASSIFY,
            "headers": headers,
            "query_string": b"",
        }
        await client_of(parts).app(scope, receive, send)

    asyncio.run(scenario())
    assert sent[0]["status"] == 408


def test_no_answer_in_time_is_a_504(models: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of(models, ["one"], request_s=0.05)

    async def never(rows: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(parts.batcher, "submit", never)
    with client_of(parts) as client:
        assert_problem(ask(client, TEXT_REQUEST), 504, "0.05 s")


def test_a_full_service_refuses_with_a_problem_and_serves_again(
    models: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(models, ["one"], ongoing_requests=2)
    submit, inside = parts.batcher.submit, asyncio.Semaphore(0)

    async def scenario() -> None:
        go_on = asyncio.Event()

        async def held(rows: Any) -> Any:
            inside.release()
            await go_on.wait()
            return await submit(rows)

        monkeypatch.setattr(parts.batcher, "submit", held)
        transport = httpx2.ASGITransport(app=client_of(parts).app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:
            accepted = [asyncio.create_task(http.post(CLASSIFY, json=ANSWERABLE)) for _ in "ab"]
            await inside.acquire()
            await inside.acquire()
            refused = await http.post(CLASSIFY, json=ANSWERABLE)
            assert_problem(refused, 503, "Retry-After")
            assert refused.headers["retry-after"] == "1"
            assert (await http.get("/v1/models")).status_code == 200
            go_on.set()
            assert [(await task).status_code for task in accepted] == [200, 200]
            assert (await http.post(CLASSIFY, json=ANSWERABLE)).status_code == 200

    asyncio.run(scenario())


class Counted(Observer):
    """Keeps the status of every answer, and for what a batch was waited."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int, int]] = []
        self.waits: list[tuple[str, str]] = []

    def waited(self, seconds: float, *, model: str, language: str) -> None:
        self.waits.append((model, language))

    def request(
        self, *, model: str, language: str, status: int, inputs: int, tokens: int, seconds: float
    ) -> None:
        assert seconds > 0
        self.seen.append((model, language, status, tokens))


def test_every_answer_is_counted_by_model_language_and_status(
    models: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    parts = parts_of(models, ["one"], body_bytes=2000, inputs=3)
    monkeypatch.setattr(parts.service, "_observer", counted)
    key = {"authorization": f"Bearer {new_key(tmp_path / 'keys.json', 'alice')}"}
    with client_of(parts, KeyFile(tmp_path / "keys.json"), counted) as client:
        answer = ask(client, ANSWERABLE, **key).json()
        ask(client, {**ANSWERABLE, "compare": True, "language": "en"}, **key)
        for body, headers in (
            (ANSWERABLE, {}),
            (b"{", key),
            ({**TEXT_REQUEST, "inputs": ["a" * 2000]}, key),
            (ANSWERABLE, {**key, "content-type": "text/plain"}),
            ({**TEXT_REQUEST, "inputs": []}, key),
            ({**TEXT_REQUEST, "language": SECRET}, key),
            ({**TEXT_REQUEST, "model": SECRET}, key),
            ({**TEXT_REQUEST, "inputs": ["a"] * 4}, key),
        ):
            ask(client, body, **headers)
        client.get(CLASSIFY)
        client.get("/v1/models")

        async def broken(request: ClassifyRequest) -> Any:
            raise RuntimeError("out of order")

        monkeypatch.setattr(parts.service, "classify", broken)
        ask(client, ANSWERABLE, **key)
    tokens = answer["predictions"][0]["tokens"]
    # What a client wrote is never a tag.
    unnamed = [("", "", status, 0) for status in (401, 400, 413, 415, 422, 422, 404)]
    assert counted.seen == [
        ("one", "xc", 200, tokens),
        ("one", "en", 200, tokens),
        *unnamed,
        ("one", "xc", 422, 0),
        ("", "", 405, 0),
        ("one", "xc", 500, 0),
    ]
    # A comparison takes two passes.
    assert counted.waits == [("one", "xc"), ("one", "en")]


def test_a_client_that_leaves_is_counted(models: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, parts = Counted(), parts_of(models, ["one"])

    async def scenario() -> None:
        inside = asyncio.Event()

        async def never(rows: Any) -> Any:
            inside.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(parts.batcher, "submit", never)
        transport = httpx2.ASGITransport(app=client_of(parts, observer=counted).app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:
            gone = asyncio.create_task(http.post(CLASSIFY, json=ANSWERABLE))
            await inside.wait()
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        assert counted.seen == [("one", "xc", 499, 0)]

    asyncio.run(scenario())


@pytest.mark.parametrize("root", ["", "/behind"])
def test_to_classify_is_no_matter_of_fastapi(
    models: Storage, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    async def never(*arguments: object) -> None:
        raise AssertionError("the way through FastAPI was taken")

    with client_of(parts_of(models, ["one"]), root_path=root) as client:
        monkeypatch.setattr(FastAPI, "__call__", never)
        answer = client.post(f"{root}{CLASSIFY}", json=ANSWERABLE)
        assert answer.json()["predictions"][0]["label"] in LABELS
        assert client.get(f"{root}/v1/models").status_code == 500
        monkeypatch.undo()
        assert client.get(f"{root}{CLASSIFY}").status_code == 405


# Without the prefix it is FastAPI that finds the function.
@pytest.mark.parametrize("root", ["", "/behind"])
def test_an_unforeseen_fault_is_a_500_and_neither_it_nor_the_log_has_the_text(
    models: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    root: str,
) -> None:
    parts = parts_of(models, ["one"])

    def broken(pieces: Sequence[Rows]) -> Any:
        try:
            raise RuntimeError(f"while reading {SECRET}")
        except RuntimeError as error:
            fault = ValueError(f"no answer to {SECRET}")
            error.__context__ = fault  # a circle of two
            raise fault from error

    monkeypatch.setattr(parts.batcher, "_run", broken)
    # uvicorn's and Serve's loggers may write what they are handed; Serve's does not propagate.
    logging.getLogger("ray.serve").addHandler(caplog.handler)
    try:
        with client_of(parts, root_path=root) as client:
            answer = ask(client, {**TEXT_REQUEST, "inputs": [SECRET]})
    finally:
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
    assert_problem(answer, 500, "a fault of the service")
    assert "ValueError" in caplog.text
    assert "RuntimeError" in caplog.text
    assert "in broken" in caplog.text
    assert SECRET not in caplog.text + answer.text


def test_a_key_opens_v1_and_the_rest_is_open(models: Storage, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "alice")
    with client_of(parts_of(models, ["one"]), KeyFile(path)) as client:
        for answer in (ask(client, TEXT_REQUEST), client.get("/v1/models")):
            assert_problem(answer, 401, "no API key")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert_problem(ask(client, TEXT_REQUEST, authorization="Bearer la_x"), 401, "wrong")
        assert_problem(ask(client, TEXT_REQUEST, authorization=f"Basic {key}"), 401, "no API key")
        assert ask(client, TEXT_REQUEST, authorization=f"Bearer {key}").status_code == 200
        for open_path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert client.get(open_path).status_code == 200


def test_the_openapi_document_describes_the_request(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for reference in (part["$ref"] for part in _references(document)):
        assert reference.removeprefix("#/components/schemas/") in schemas
    body = document["paths"][CLASSIFY]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["$ref"].endswith("/ClassifyRequest")
    assert schemas["ClassifyRequest"]["properties"]["inputs"]["maxItems"] == 256


def test_pages_load_nothing_from_other_hosts(client: TestClient) -> None:
    for path in ("/", "/docs", "/static/docs.js", "/static/style.css", "/static/app.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace("http://www.w3.org/", "")
        assert "https://" not in answer.text
    assert client.get("/static/..%2Fapi.py").status_code == 404


def test_the_cache_gives_the_same_answers_and_asks_the_model_once(
    models: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(models, ["one", "two"], cache_rows=3)
    asked: list[int] = []
    submit = parts.batcher.submit

    async def counted(rows: Any) -> Any:
        asked.append(len(rows))
        return await submit(rows)

    monkeypatch.setattr(parts.batcher, "submit", counted)
    with client_of(parts) as client:

        def labels(language: str, *texts: str) -> list[Any]:
            answer = ask(client, {"language": language, "inputs": texts}).json()
            return [found["probabilities"] for found in answer["predictions"]]

        first = labels("xc", "a good film", "dull")
        assert labels("xc", "dull", "a good film") == first[::-1]
        assert asked == [2]
        assert labels("xd", "dull") != first[1:]
        assert asked == [2, 1]
        labels("xc", "new", "newer")
        labels("xc", "a good film")
        assert asked == [2, 1, 2, 1]


def _references(node: Any) -> Iterator[dict[str, str]]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
