"""A full service refuses before it tokenises, and estimates what it refuses."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from local_service import LocalParts, parts_of

from langalign.storage import Storage
from serve.density import MEMORY_CHARACTERS, TokenDensity
from serve.engine import Engine, FloatArray, Rows
from serve.problems import ProblemError
from serve.schemas import ClassifyRequest

REQUEST = ClassifyRequest(language="xc", inputs=["a good film", "dull"])


@dataclass
class Held:
    """A model that has begun with a batch, and waits until it may go on."""

    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


def hold(parts: LocalParts, monkeypatch: pytest.MonkeyPatch) -> Held:
    held, run = Held(), Engine(threads=1).run

    def late(requests: Sequence[Rows]) -> list[FloatArray]:
        held.begun.set()
        assert held.go_on.wait(60)
        return run(requests)

    monkeypatch.setattr(parts.batcher, "_run", late)
    monkeypatch.setattr(parts.batcher, "_is_small", lambda requests: False)
    return held


@pytest.mark.parametrize(("cache_rows", "tokenised"), [(0, 2), (10, 3)])
def test_a_full_service_does_not_tokenise_unless_the_cache_may_know(
    cache_rows: int, tokenised: int, models: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(models, ["one"], queue_tokens=1, cache_rows=cache_rows)
    held = hold(parts, monkeypatch)
    encoder = parts.registry.choose("one", "xc").model.encoder
    tokenize, calls = encoder.tokenize, []

    class Counted:
        max_length = tokenize.max_length

        def __call__(self, *texts: Any) -> Any:
            calls.append(texts)
            return tokenize(*texts)

    monkeypatch.setattr(encoder, "tokenize", Counted())

    async def scenario() -> None:
        asked = [asyncio.create_task(parts.service.classify(REQUEST))]
        await asyncio.to_thread(held.begun.wait, 60)
        asked.append(asyncio.create_task(parts.service.classify(REQUEST)))
        while not len(parts.batcher._lanes):
            await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="queue") as refused:
            await parts.service.classify(REQUEST)
        assert refused.value.problem.status == 503
        held.go_on.set()
        answers = await asyncio.gather(*asked)
        assert answers[0].predictions == answers[1].predictions

    asyncio.run(scenario())
    assert len(calls) == tokenised


def test_tokens_are_expected_as_they_were_seen_in_the_language() -> None:
    density = TokenDensity()
    assert density.tokens("ko", [100], max_length=500) == 0
    density.saw("ko", characters=100, tokens=80)
    density.saw("en", characters=100, tokens=25)
    density.saw("ko", characters=300, tokens=120)
    assert density.tokens("ko", [1000, 10], max_length=1000) == 505
    assert density.tokens("en", [1000, 10], max_length=1000) == 252
    assert density.tokens("ko", [20_000] * 50, max_length=128) == 50 * 128, "the rest is cut off"


def test_what_was_seen_long_ago_counts_less() -> None:
    density = TokenDensity()
    density.saw("ko", characters=10 * MEMORY_CHARACTERS, tokens=MEMORY_CHARACTERS)
    for _ in range(20):
        density.saw("ko", characters=MEMORY_CHARACTERS, tokens=MEMORY_CHARACTERS)
    assert density.tokens("ko", [1000], max_length=1000) > 990
