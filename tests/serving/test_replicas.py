"""Several replicas of an encoder in the real service: one of them is killed under load."""

import time
from collections.abc import Callable, Iterator

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
        wait_for(lambda: len(running.replicas(DEPLOYMENT)) == 2, limit_s=WAIT_S)
        yield running


def test_one_of_two_replicas_killed_fails_only_the_requests_that_it_had(
    service: RunningService, store: Storage, record_property: Callable[[str, object], None]
) -> None:
    alone = langalign.load(store.uri("models/one"), device="cpu")
    asked = texts(50)
    labels = dict(zip(asked, alone.predict(asked), strict=True))
    before = set(service.replicas(DEPLOYMENT))
    victim, _ = before
    with asking(
        lambda: Client(service.url, retries=0, timeout_s=10), "xc", labels, clients=CLIENTS
    ) as seen:
        wait_for(lambda: len(seen.answered) >= 100, limit_s=WAIT_S)
        victim.kill()
        killed = time.monotonic()
        wait_for(lambda: set(service.replicas(DEPLOYMENT)) - before, limit_s=WAIT_S)
        so_far = len(seen.answered)
        wait_for(lambda: len(seen.answered) >= so_far + 100, limit_s=WAIT_S)
    # Those that it had when it died: one for each client at most.
    assert [error for began, error in seen.failed if began > killed] == []
    assert len(seen.failed) <= CLIENTS
    pause_s, _ = seen.longest_pause(since=killed)
    record_property("pause_s", round(pause_s, 2))
    record_property("failed_requests", len(seen.failed))
