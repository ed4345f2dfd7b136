"""One request from its schema to its answer, inside one replica; no HTTP.

Everything a client can get wrong is checked here before anything enters the queue: what is in the
queue cannot fail for the fault of one request.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from langalign.errors import DataError
from langalign.tokens import TokenizedText
from serve.batching import TokenBatcher
from serve.cache import AnswerCache, cache_keys
from serve.density import TokenDensity
from serve.engine import FloatArray, Rows
from serve.inputs import check_limits, columns
from serve.lanes import Answer
from serve.loading import ServedModel
from serve.problems import ProblemError, in_time
from serve.registry import Registry
from serve.schemas import ClassifyRequest, ClassifyResponse, ModelCard, Prediction, Timing
from serve.settings import Limits
from serve.telemetry import Observer

__all__ = ["Backend", "Service"]

logger = logging.getLogger("ray.serve")

# Tokenising more characters than this takes longer than handing it to a thread.
THREAD_CHARACTERS = 4000


class Backend(Protocol):
    """What answers requests: a Service in this process, or replicas elsewhere."""

    async def model_of(self, request: ClassifyRequest) -> str:
        """The name of the model that is to answer, or raise ProblemError."""

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Answer a request, or raise ProblemError."""

    async def models(self) -> list[ModelCard]:
        """What is in service."""


class Service:
    """The models of one replica behind one queue."""

    def __init__(
        self,
        registry: Registry,
        batcher: TokenBatcher,
        *,
        limits: Limits,
        observer: Observer,
        cache_rows: int = 0,
    ) -> None:
        self._registry = registry
        self._batcher = batcher
        self._limits = limits
        self._observer = observer
        self._cache = AnswerCache(cache_rows) if cache_rows else None
        self._density = TokenDensity()

    async def models(self) -> list[ModelCard]:
        """What is in service."""
        return self._registry.cards()

    async def watch(self, every_s: float) -> None:
        """Look for new versions for ever."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await asyncio.to_thread(self._registry.refresh)
            except Exception:
                # The watch has to outlive whatever one look met, or updates would end unseen.
                logger.exception("looking for new versions failed; the next look comes")

    async def model_of(self, request: ClassifyRequest) -> str:
        """The name of the model that is to answer.

        Raises:
            ProblemError: an unknown model (404), an unknown or ambiguous language (422).
        """
        return self._registry.name_of(request.model, request.language)

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Answer a request.

        Raises:
            ProblemError: a wrong request (404, 422), a full queue (503), or no time left (504).
        """
        started = time.perf_counter()
        served = self._registry.choose(request.model, request.language)
        async with in_time(self._limits.request_s):
            return await self._answer(request, served, started)

    async def _answer(
        self, request: ClassifyRequest, served: ServedModel, started: float
    ) -> ClassifyResponse:
        check_limits(request.inputs, self._limits)
        try:
            texts, pairs = columns(request.inputs, is_pair_task=served.model.is_pair_task)
        except DataError as error:
            raise ProblemError(422, str(error)) from None
        lengths = _characters(texts, pairs)
        characters = sum(lengths)
        if self._cache is None:
            self._refuse_early(request.language, lengths, served)
        tokens = await _tokenized(served, texts, pairs, in_thread=characters > THREAD_CHARACTERS)
        model = served.compared if request.compare else served.model
        rows = Rows(model, request.language == model.target_language, tokens)
        self._density.saw(request.language, characters=characters, tokens=rows.token_count)
        answer = await self._classified(rows, served)
        return ClassifyResponse(
            model=served.name,
            version=served.version,
            language=request.language,
            predictions=_predictions(rows, answer.probabilities, request.top_k),
            timing=Timing(
                queue_ms=round(answer.queue_s * 1000, 3),
                compute_ms=round(answer.compute_s * 1000, 3),
                total_ms=round((time.perf_counter() - started) * 1000, 3),
            ),
        )

    def _refuse_early(self, language: str, lengths: list[int], served: ServedModel) -> None:
        """Refuse before tokenising, which a full service has no time for, what it will refuse."""
        max_length = served.model.encoder.tokenize.max_length
        expected = self._density.tokens(language, lengths, max_length=max_length)
        if expected:
            self._batcher.admit(expected)

    async def _classified(self, rows: Rows, served: ServedModel) -> Answer:
        """The answer from the cache, if there is one that holds every row, else from the model."""
        if self._cache is None:
            return await self._computed(rows, served)
        kind = type(rows.model).__name__  # a comparison has more columns
        keys = cache_keys(rows, f"{served.name}/{served.version}/{kind}")
        known = self._cache.find(keys)
        if known is not None:
            return Answer(known, 0.0, 0.0)
        answer = await self._computed(rows, served)
        self._cache.keep(keys, answer.probabilities)
        return answer

    async def _computed(self, rows: Rows, served: ServedModel) -> Answer:
        """The answer of the model, and its wait counted."""
        answer = await self._batcher.submit(rows)
        self._observer.waited(answer.queue_s, model=served.name, language=rows.language)
        return answer


def _characters(texts: list[str], pairs: list[str] | None) -> list[int]:
    """Of each input, both texts of a pair together."""
    if pairs is None:
        return list(map(len, texts))
    return [len(text) + len(pair) for text, pair in zip(texts, pairs, strict=True)]


async def _tokenized(
    served: ServedModel, texts: list[str], pairs: list[str] | None, *, in_thread: bool
) -> TokenizedText:
    tokenize = served.model.encoder.tokenize
    if in_thread:
        return await asyncio.to_thread(tokenize, texts, pairs)
    return tokenize(texts, pairs)


def _predictions(rows: Rows, found: FloatArray, top_k: int | None) -> list[Prediction]:
    """Of probabilities (N, C), or (N, 2C) of a comparison."""
    labels = rows.model.labels
    ranked = _ranked(labels, found[:, : len(labels)], top_k)
    unaligned = found[:, len(labels) :]
    plain = _ranked(labels, unaligned, top_k) if unaligned.size else [None] * len(ranked)
    return [
        Prediction(
            label=next(iter(probabilities)),
            probability=next(iter(probabilities.values())),
            probabilities=probabilities,
            unaligned=unaligned,
            tokens=tokens,
        )
        for probabilities, unaligned, tokens in zip(
            ranked, plain, rows.tokens.lengths().tolist(), strict=True
        )
    ]


def _ranked(labels: Sequence[str], found: FloatArray, top_k: int | None) -> list[dict[str, float]]:
    """Probabilities by label of each row, likeliest first, at most `top_k`."""
    order = np.argsort(-found, axis=1, kind="stable")[:, :top_k].tolist()
    values = found.astype(float).round(6).tolist()
    return [
        {labels[place]: row[place] for place in best}
        for best, row in zip(order, values, strict=True)
    ]
