"""Several replicas of an encoder in the real service: one of them is killed under load."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from select import select

import psutil
import pytest
from askers import asking
from published import publish, texts, write_encoder
from real_service import RunningService, running_service, wait_for

import langalign
from langalign.storage import Storage
from serve.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WAIT_S = 60.0
DEPLOYMENT = "Classifier"
CLIENTS = 4
# Ray's for replicas that take HTTP themselves (RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT).
HTTP_PORTS = range(30_000, 31_000)
# In which a replica has answered all that it was asked, and HAProxy has taken up a change.
SETTLED_S = 1.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    folder = tmp_path_factory.mktemp("replicas")
    encoder = write_encoder(folder / "encoder")
    publish(folder / "store", encoder, folder / "scratch", name="one", seed=1)
    return Storage(str(folder / "store"))


@pytest.fixture(scope="module")
def service(store: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    settings = {"model": "one", "storage": store.root, "replicas": 2, "cpus": 0.5, "threads": 1}
    with running_service(tmp_path_factory.mktemp("service"), **settings) as running:
        yield running


@pytest.fixture
def replicas(service: RunningService) -> set[psutil.Process]:
    """Both of them, when HAProxy asks both."""

    def both_are_asked() -> bool:
        found = service.replicas(DEPLOYMENT)
        with Client(service.url) as client:
            client.classify(["a"], language="xc")
        return len(found) == 2 and all(_is_asked(replica) for replica in found)

    wait_for(both_are_asked, limit_s=WAIT_S)
    time.sleep(SETTLED_S)
    return set(service.replicas(DEPLOYMENT))


def _is_asked(replica: psutil.Process) -> bool:
    """Whether HAProxy holds a connection to where a replica takes HTTP."""
    return any(
        connection.laddr.port in HTTP_PORTS and connection.status == psutil.CONN_ESTABLISHED
        for connection in replica.net_connections("tcp")
    )


def test_what_a_replica_that_dies_had_not_answered_is_asked_of_the_other(
    service: RunningService, replicas: set[psutil.Process]
) -> None:
    victim = replicas.pop()
    asked = b"".join(service.request({"language": "xc", "inputs": ["a good film"]}))
    with ExitStack() as stack:
        connections = [stack.enter_context(service.connection()) for _ in range(2 * CLIENTS)]
        victim.suspend()
        for connection in connections:
            connection.sendall(asked)
        # The other one answers its own at once.
        wait_for(lambda: select(connections, [], [], 0)[0], limit_s=WAIT_S)
        time.sleep(SETTLED_S)
        answered, _, _ = select(connections, [], [], 0)
        assert 0 < len(answered) < len(connections)
        victim.kill()
        for connection in connections:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_one_of_two_replicas_killed_fails_only_the_requests_that_it_had(
    service: RunningService,
    replicas: set[psutil.Process],
    store: Storage,
    record_property: Callable[[str, object], None],
) -> None:
    alone = langalign.load(store.uri("models/one"), device="cpu")
    asked = texts(50)
    labels = dict(zip(asked, alone.predict(asked), strict=True))
    victim, _ = replicas
    with asking(
        lambda: Client(service.url, retries=0, timeout_s=10), "xc", labels, clients=CLIENTS
    ) as seen:
        wait_for(lambda: len(seen.answered) >= 100, limit_s=WAIT_S)
        victim.kill()
        victim.wait(WAIT_S)
        killed = time.monotonic()
        wait_for(lambda: set(service.replicas(DEPLOYMENT)) - replicas, limit_s=WAIT_S)
        so_far = len(seen.answered)
        wait_for(lambda: len(seen.answered) >= so_far + 100, limit_s=WAIT_S)
    # Those that it had when it died: one for each client at most.
    assert [error for began, error in seen.failed if began > killed] == []
    assert len(seen.failed) <= CLIENTS
    pause_s, _ = seen.longest_pause(since=killed)
    record_property("pause_s", round(pause_s, 2))
    record_property("failed_requests", len(seen.failed))
