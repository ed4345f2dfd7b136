"""The real service under Ray Serve, over HTTP: answers, updates, faults, keys, metrics."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from askers import asking
from published import LABELS, publish, texts, write_encoder
from real_service import RunningService, running_service, wait_for

import langalign
from langalign.storage import Storage
from serve.client import Client, ServiceError
from serve.keys import new_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

WATCH_S = 0.5
WAIT_S = 40.0
# Longer than a client goes on asking a full service (5 times, with 1 s between).
BODY_S = 10.0
# Requests inside the replica that takes HTTP; more than any test has at a time.
PLACES = 32


@dataclass(frozen=True)
class World:
    """A running service, the storage and encoder behind it, and a key for it."""

    service: RunningService
    storage: Storage
    encoder: Path
    scratch: Path
    key: str

    def client(self, **options: Any) -> Client:
        return Client(self.service.url, api_key=self.key, **options)

    def publish(self, name: str, seed: int) -> str:
        root = Path(self.storage.root)
        return publish(root, self.encoder, self.scratch, name=name, seed=seed).version

    def card(self, name: str) -> Any:
        with self.client() as client:
            return next(card for card in client.models() if card.name == name)

    def label(self, name: str, text: str) -> str:
        """What the version in service says, asked without the service."""
        version = self.card(name).version
        alone = langalign.load(self.storage.uri(f"models/{name}/{version}"), device="cpu")
        (label,) = alone.predict([text])
        return label


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    store, scratch = folder / "store", folder / "scratch"
    encoder, other = write_encoder(folder / "encoder"), write_encoder(folder / "other", seed=7)
    publish(store, encoder, scratch, name="one", seed=1)
    publish(store, encoder, scratch, name="two", seed=2, target="xd")
    publish(store, other, scratch, name="far", seed=3, target="xf")
    keys = folder / "keys.json"
    key = new_key(keys, "tests")
    settings = {
        "model": ["one", "two", "far"],
        "storage": str(store),
        "watch_s": WATCH_S,
        "auth": "keys",
        "api_keys_file": str(keys),
        "cpus": 0.5,
        "threads": 1,
        "body_s": BODY_S,
        "ongoing_requests": PLACES,
    }
    with running_service(folder, **settings) as service:
        yield World(service, Storage(str(store)), encoder, scratch, key)


def test_many_clients_get_the_answers_to_their_own_questions(world: World) -> None:
    asked = texts(240)
    languages = ["xc", "xd", "xf"]
    names = {"xc": "one", "xd": "two", "xf": "far"}
    with world.client() as client, ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda place: client.classify([asked[place]], language=languages[place % 3]),
                range(len(asked)),
            )
        )
    for shift, language in enumerate(languages):
        alone = langalign.load(world.storage.uri(f"models/{names[language]}"), device="cpu")
        wanted = alone.predict_proba(asked[shift::3])
        for answer, row in zip(answers[shift::3], wanted, strict=True):
            assert answer.model == names[language]
            found = answer.predictions[0].probabilities
            np.testing.assert_allclose([found[label] for label in LABELS], row, atol=1e-4)


def test_the_service_stands_behind_haproxy(world: World) -> None:
    assert world.service.proxies()


def test_keys_and_problems_over_http(world: World) -> None:
    url = f"{world.service.url}/v1/classify"
    body = {"language": "xc", "inputs": ["a"]}
    strangers = [{}, {"Authorization": "Bearer la_x"}, {"Authorization": f"Basic {world.key}"}]
    for stranger in strangers:
        answer = httpx2.post(url, json=body, headers=stranger)
        assert_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    headers = {"Authorization": f"Bearer {world.key}"}
    faults: list[tuple[bytes, int]] = [
        (b"{", 400),
        (b'{"language": "xc", "inputs": ["\\ud800"]}', 400),
        (b'{"language": "xc", "inputs": ["\x01"]}', 400),
        (b"[]", 422),
        (json.dumps({**body, "language": 5}).encode(), 422),
        (json.dumps({**body, "inputs": "a"}).encode(), 422),
        (json.dumps({**body, "inputs": ["a", 3]}).encode(), 422),
        (json.dumps({**body, "inputs": [{"premise": "a", "hypothesis": "b"}]}).encode(), 422),
        (json.dumps({**body, "top_k": "2"}).encode(), 422),
        (json.dumps({**body, "inputs": []}).encode(), 422),
        (json.dumps({**body, "inputs": ["a"] * 10_000}).encode(), 422),
        (json.dumps({**body, "inputs": ["a" * 100_000]}).encode(), 422),
        (json.dumps({**body, "language": "zz"}).encode(), 422),
        (json.dumps({**body, "model": "none"}).encode(), 404),
        (b" " * 10_000_000, 413),
    ]
    for content, status in faults:
        sent = {**headers, "Content-Type": "application/json"}
        assert_problem(httpx2.post(url, content=content, headers=sent), status)
    # Escaped, control characters are text as any other.
    body["inputs"] = ["\x00\x01\x7f a \u202e\ufeff"]
    assert httpx2.post(url, json=body, headers=headers).status_code == 200


def assert_problem(answer: httpx2.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_clients_that_leave_hold_no_place(world: World) -> None:
    head, body = raw_request(world)
    for sent in (head, head + body[: len(body) // 2], head + body):
        for _ in range(PLACES + 1):
            with world.service.connection() as leaving:
                leaving.sendall(sent)
    # A place that a client left behind would stay taken for BODY_S, and this gives up before.
    with world.client() as client:
        assert client.classify(["a"], language="xc").predictions


def test_a_client_that_dawdles_is_let_go(world: World) -> None:
    head, body = raw_request(world)
    answer = b""
    with world.service.connection() as slow:
        slow.sendall(head)
        slow.settimeout(BODY_S / 10)
        for place in range(len(body)):
            slow.sendall(body[place : place + 1])
            try:
                answer = slow.recv(65_536)
            except TimeoutError:
                continue
            break
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    with world.client(retries=0) as client:
        assert client.classify(["a"], language="xc").predictions


def raw_request(world: World) -> tuple[bytes, bytes]:
    """Head and body of a request that is answered when both are sent."""
    body = {"language": "xc", "inputs": texts(10)}
    return world.service.request(body, f"Authorization: Bearer {world.key}")


def test_a_new_version_takes_over_without_a_failed_request(world: World) -> None:
    old = world.card("two").version
    seen: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with world.client(retries=0) as client:
            while not stop.is_set():
                seen.append(client.classify(["a good film"], language="xd").version)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        root = Path(world.storage.root)
        try:
            # A new version may be in service sooner than a client has its first answer.
            wait_for(lambda: seen, limit_s=WAIT_S)
            new = publish(
                root, world.encoder, world.scratch, name="two", seed=12, target="xd"
            ).version
            wait_for(lambda: new in seen[-3:], limit_s=WAIT_S)
        finally:
            stop.set()
        for asked in asking:
            asked.result()
    assert set(seen) == {old, new}


def test_an_altered_version_is_refused(world: World) -> None:
    good = world.card("one").version
    broken = world.scratch / "broken"
    elsewhere = publish(broken, world.encoder, world.scratch, name="one", seed=21)
    head = Path(elsewhere.uri, "head.safetensors")
    data = bytearray(head.read_bytes())
    data[-1] ^= 1
    # The whole altered version appears in one step, before its pointer.
    folder = Path(world.storage.root, "models", "one")
    head.write_bytes(data)
    Path(elsewhere.uri).rename(folder / elsewhere.version)
    world.storage.write_json(
        "models/one/latest.json", {"name": "one", "version": elsewhere.version}
    )
    wait_for(lambda: world.card("one").refused, limit_s=WAIT_S)
    card = world.card("one")
    assert card.version == good
    assert [refused.version for refused in card.refused] == [elsewhere.version]
    assert "sha256" in card.refused[0].reason
    with world.client() as client:
        assert client.classify(["a"], language="xc").version == good


def test_a_replica_killed_under_load_comes_back_and_no_answer_is_wrong(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    alone = langalign.load(world.storage.uri("models/far"), device="cpu")
    asked = texts(50)
    labels = dict(zip(asked, alone.predict(asked), strict=True))
    deployment = f"Encoder-{world.card('far').encoder[:8]}"
    (victim,) = world.service.replicas(deployment)

    def impatient() -> Client:
        return world.client(retries=0, timeout_s=10)

    with (
        asking(impatient, "xc", {"a": world.label("one", "a")}, clients=1) as beside,
        asking(impatient, "xf", labels, clients=4) as seen,
    ):
        wait_for(lambda: len(seen.answered) >= 20, limit_s=WAIT_S)
        victim.kill()
        killed = time.monotonic()
        wait_for(lambda: set(world.service.replicas(deployment)) - {victim}, limit_s=WAIT_S)
        so_far = len(seen.answered)
        wait_for(lambda: len(seen.answered) >= so_far + 20, limit_s=WAIT_S)
    assert beside.answered
    assert beside.failed == []
    # None: a connection that broke.
    assert {error.status for _, error in seen.failed} <= {None, 500, 502, 503}
    # It answers again after the longest pause, and from then on fails no request.
    recovery_s, back = seen.longest_pause(since=killed)
    assert [error for began, error in seen.failed if began > back] == []
    record_property("recovery_s", round(recovery_s, 1))
    record_property("failed_requests", len(seen.failed))


def test_headers_that_never_end_hold_up_nobody(world: World) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            slow = stack.enter_context(world.service.connection())
            slow.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: service\r\nX-Slow: ")
        with world.client(retries=0, timeout_s=10) as client:
            for text in texts(5):
                assert client.classify([text], language="xc").predictions


def test_no_text_of_a_request_is_in_the_log(world: World) -> None:
    log = world.service.log
    with world.client() as client:
        client.classify(["Zanzibar"], language="xc")
        with pytest.raises(ServiceError):
            client.classify(["Zanzibar"], language="zz")
    # What processes write reaches the log a moment later, this after all that came before.
    version = world.publish("one", seed=31)
    wait_for(lambda: version in log.read_text(), limit_s=WAIT_S)
    assert "Zanzibar" not in log.read_text()
