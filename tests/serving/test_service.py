"""A full service refuses before it tokenises, and estimates what it refuses."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from local_service import LocalParts, parts_of

from langalign.storage import Storage
from serve.density import MEMORY_CHARACTERS, TokenDensity
from serve.engine import Engine, FloatArray, Rows
from serve.problems import ProblemError
from serve.schemas import ClassifyRequest

REQUEST = ClassifyRequest(language="xc", inputs=["a good film", "dull"])


def held(parts: LocalParts, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have the model wait for the event that is returned."""
    gate, run = threading.Event(), Engine(threads=1).run

    def late(requests: Sequence[Rows]) -> list[FloatArray]:
        gate.wait(10)
        return run(requests)

    monkeypatch.setattr(parts.batcher, "_run", late)
    monkeypatch.setattr(parts.batcher, "_is_small", lambda requests: False)
    return gate


@pytest.mark.parametrize(("cache_rows", "tokenised"), [(0, 2), (10, 3)])
def test_a_full_service_does_not_tokenise_unless_the_cache_may_know(
    cache_rows: int, tokenised: int, models: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(models, ["one"], queue_s=0.05, cache_rows=cache_rows)
    gate = held(parts, monkeypatch)
    encoder = parts.registry.choose("one", "xc").model.encoder
    tokenize, calls = encoder.tokenize, []

    def counted(*texts: Any) -> Any:
        calls.append(texts)
        return tokenize(*texts)

    monkeypatch.setattr(encoder, "tokenize", counted)

    async def scenario() -> None:
        asked = [asyncio.create_task(parts.service.classify(REQUEST))]
        await asyncio.sleep(0.1)  # the model has begun with it
        asked.append(asyncio.create_task(parts.service.classify(REQUEST)))
        await asyncio.sleep(0.1)
        with pytest.raises(ProblemError, match="queue") as refused:
            await parts.service.classify(REQUEST)
        assert refused.value.problem.status == 503
        gate.set()
        answers = await asyncio.gather(*asked)
        assert answers[0].predictions == answers[1].predictions

    asyncio.run(scenario())
    assert len(calls) == tokenised


def test_tokens_are_expected_as_they_were_seen_in_the_language() -> None:
    density = TokenDensity()
    assert density.tokens("ko", 100) == 0
    density.saw("ko", characters=100, tokens=80)
    density.saw("en", characters=100, tokens=25)
    density.saw("ko", characters=300, tokens=120)
    assert (density.tokens("ko", 1000), density.tokens("en", 1000)) == (500, 250)


def test_what_was_seen_long_ago_counts_less() -> None:
    density = TokenDensity()
    density.saw("ko", characters=10 * MEMORY_CHARACTERS, tokens=MEMORY_CHARACTERS)
    for _ in range(20):
        density.saw("ko", characters=MEMORY_CHARACTERS, tokens=MEMORY_CHARACTERS)
    assert density.tokens("ko", 1000) > 990
