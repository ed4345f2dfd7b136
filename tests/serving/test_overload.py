"""Twice the capacity for a minute: the excess gets 503; no answer is lost or wrong."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from published import LABELS, publish, texts, write_encoder
from real_service import RunningService, running_service

import langalign
from serve.schemas import PROBLEM_MEDIA_TYPE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OVERLOAD_S = 60.0
QUEUE_S, REQUEST_S = 0.2, 10.0
POOL, INPUTS = 500, 200


@dataclass
class Asked:
    """What came of requests: statuses; of answered ones seconds, and texts' places with bodies."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    without_problem: int = 0
    answers: list[tuple[list[int], Any]] = field(default_factory=list)


class Asker:
    """Asks for INPUTS texts of a pool at a time."""

    def __init__(self, url: str, pool: list[str]) -> None:
        self.pool = pool
        self.asked = Asked()
        limits = httpx2.Limits(max_connections=400)
        self.http = httpx2.AsyncClient(base_url=url, timeout=60, limits=limits)

    async def ask(self, number: int) -> None:
        """One request; every one asks for other texts in another order."""
        places = [(number * 37 + step * 7) % POOL for step in range(INPUTS)]
        body = {"language": "xc", "inputs": [self.pool[place] for place in places]}
        began = time.perf_counter()
        answer = await self.http.post("/v1/classify", json=body)
        self.asked.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            self.asked.seconds.append(time.perf_counter() - began)
            self.asked.answers.append((places, json.loads(answer.content)["predictions"]))
            return
        self.asked.without_retry_after += "retry-after" not in answer.headers
        self.asked.without_problem += answer.headers["content-type"] != PROBLEM_MEDIA_TYPE

    async def rate(self, seconds: float) -> float:
        """Requests a second that four clients get answered, each asking again at once."""
        deadline = time.perf_counter() + seconds

        async def client(first: int) -> int:
            count = 0
            while time.perf_counter() < deadline:
                await self.ask(first + count)
                count += 1
            return count

        return sum(await asyncio.gather(*map(client, range(4)))) / seconds

    async def overload(self, per_s: float, seconds: float) -> int:
        """Arrivals at an even rate, whatever becomes of those before; returns their number."""
        count = int(per_s * seconds)
        started = time.perf_counter()
        waiting = []
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / per_s - time.perf_counter()))
            waiting.append(asyncio.create_task(self.ask(number)))
        await asyncio.gather(*waiting)
        return count


def test_twice_the_capacity(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    pool = texts(POOL)
    root, encoder = tmp_path / "store", write_encoder(tmp_path / "encoder")
    model = publish(root, encoder, tmp_path / "scratch")
    limits = {"queue_s": QUEUE_S, "request_s": REQUEST_S}
    settings = {"model": ["tiny"], "storage": str(root), "threads": 1, **limits}
    with running_service(tmp_path, **settings) as service:
        asker, capacity_p99, before, after, count = asyncio.run(_load(service, pool))
    asked = asker.asked
    assert sum(asked.statuses.values()) == count, "every request has one answer"
    assert set(asked.statuses) == {200, 503}
    assert (asked.without_retry_after, asked.without_problem) == (0, 0)
    p50, p99 = np.percentile(asked.seconds, [50, 99]).tolist()
    record_property("p50_s", round(p50, 2))
    record_property("p99_s", round(p99, 2))
    record_property("p99_at_capacity_s", round(capacity_p99, 2))
    wanted = langalign.load(model.uri, device="cpu").predict_proba(pool)
    for places, predictions in asked.answers:
        found = [[row["probabilities"][label] for label in LABELS] for row in predictions]
        np.testing.assert_allclose(found, wanted[places], atol=1e-4)
    assert after < 1.2 * before, "memory stays flat"


async def _load(service: RunningService, pool: list[str]) -> tuple[Asker, float, int, int, int]:
    """The overloading asker, p99 in seconds of four clients that ask again once they are answered,
    the replica's memory before and after in bytes, and the requests.
    """
    (replica,) = service.replicas("Classifier")
    warm = Asker(service.url, pool)
    per_s = await warm.rate(5.0)
    p99 = float(np.percentile(warm.asked.seconds, 99))
    await warm.overload(2 * per_s, 5.0)
    before = replica.memory_info().rss
    asker = Asker(service.url, pool)
    count = await asker.overload(2 * per_s, OVERLOAD_S)
    after = replica.memory_info().rss
    await asker.ask(count)
    assert asker.asked.statuses[200], "unharmed afterwards"
    return asker, p99, before, after, count + 1
