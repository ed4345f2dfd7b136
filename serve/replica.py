"""Puts the parts of one replica together."""

import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serve.batching import TokenBatcher
from serve.engine import Engine
from serve.loading import Loader
from serve.registry import Registry, parse_sources
from serve.service import Service
from serve.settings import Settings
from serve.telemetry import Observer

__all__ = ["Parts", "Replica", "assemble", "start_replica"]

logger = logging.getLogger("ray.serve")

# New objects after which Python looks for cycles among them, as a web server on CPython sets it: a
# request makes hundreds, nearly all of which end with it.
YOUNG_OBJECTS = 20_000


@dataclass(frozen=True)
class Parts:
    """What answers requests in one process."""

    registry: Registry
    batcher: TokenBatcher
    service: Service


@dataclass(frozen=True)
class Replica:
    """A service with its models loaded, and the task that looks for new versions, if any does."""

    service: Service
    batcher: TokenBatcher
    watch: "asyncio.Task[None] | None"

    def check(self) -> None:
        """Raise RuntimeError where the replica can do no more work."""
        self.batcher.check()
        if self.watch is not None and self.watch.done():
            raise RuntimeError("the watch for new versions has ended")


async def start_replica(
    settings: Settings, models: Sequence[str], observer: Observer, encoders: int = 1
) -> Replica:
    """Load models and begin to watch them; `models` are those of `settings.model` it serves.

    `encoders` is how many the application has, this one included: they share the cores.

    Raises:
        LangAlignError: a model that cannot be served.
    """
    started = time.perf_counter()
    torch.set_num_threads(settings.threads_of_replica(encoders))
    parts = await asyncio.to_thread(assemble, settings, models, observer)
    service = parts.service
    watch = asyncio.create_task(service.watch(settings.watch_s)) if settings.watch_s else None
    cards = await service.models()
    _spare_what_stays()
    logger.info(
        "%d models on %d encoders loaded in %.1f s",
        len(cards),
        len({card.encoder for card in cards}),
        time.perf_counter() - started,
    )
    return Replica(service, parts.batcher, watch)


def assemble(settings: Settings, models: Sequence[str], observer: Observer) -> Parts:
    """Load models and put what they need around them; nothing here is Ray's.

    Raises:
        LangAlignError: a model that cannot be served.
    """
    sources = parse_sources(models, settings.storage)
    loader = Loader(device=settings.device, precision=settings.precision)
    engine = Engine(forward_tokens=settings.forward_tokens)
    registry = Registry(sources, loader, engine, observer)
    registry.load()
    batcher = TokenBatcher(
        engine.run,
        is_small=engine.is_small,
        batch_tokens=settings.batch_tokens,
        wait_s=settings.batch_wait_s,
        queue_tokens=settings.queue_tokens,
        queue_s=settings.queue_s,
        observer=observer,
    )
    service = Service(
        registry,
        batcher,
        limits=settings.limits(),
        observer=observer,
        cache_rows=settings.cache_rows,
    )
    return Parts(registry, batcher, service)


def _spare_what_stays() -> None:
    """Exempt modules and models from the search for cycles, which stops all requests meanwhile.

    It went through a million objects of torch and transformers again and again: a quarter of a
    second for whoever waited, and a seventh of all processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
