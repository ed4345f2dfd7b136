"""A service on published models without Ray."""

from dataclasses import dataclass
from typing import Any

from fastapi.testclient import TestClient

from langalign.storage import Storage
from serve.api import create_api
from serve.batching import TokenBatcher
from serve.engine import Engine
from serve.keys import KeyFile
from serve.loading import Loader
from serve.registry import Registry, parse_sources
from serve.service import Service
from serve.settings import Settings
from serve.telemetry import Observer


@dataclass(frozen=True)
class Parts:
    """A service and what it is made of."""

    registry: Registry
    batcher: TokenBatcher
    service: Service
    settings: Settings


def parts_of(storage: Storage, names: list[str], **settings: Any) -> Parts:
    """Everything of a replica but Ray."""
    wanted = Settings(model=names, storage=storage.root, api_keys_file=None, **settings)
    engine = Engine(forward_tokens=wanted.forward_tokens)
    observer = Observer()
    sources = parse_sources(wanted.model, wanted.storage)
    registry = Registry(sources, Loader(device="cpu"), engine, observer)
    registry.load()
    batcher = TokenBatcher(
        engine.run,
        batch_tokens=wanted.batch_tokens,
        wait_s=wanted.batch_wait_s,
        queue_tokens=wanted.queue_tokens,
        queue_s=wanted.queue_s,
        observer=observer,
    )
    service = Service(
        registry,
        batcher,
        limits=wanted.limits(),
        observer=observer,
        cache_rows=wanted.cache_rows,
    )
    return Parts(registry, batcher, service, wanted)


def client_of(parts: Parts, keys: KeyFile | None = None) -> TestClient:
    api = create_api(parts.service, parts.settings.limits(), keys)
    return TestClient(api, raise_server_exceptions=False)
