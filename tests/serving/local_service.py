"""A service on published models without Ray."""

from dataclasses import dataclass
from typing import Any

from fastapi.testclient import TestClient

from langalign.storage import Storage
from serve.api import create_api
from serve.keys import KeyFile
from serve.replica import Parts, assemble
from serve.settings import Settings
from serve.telemetry import Observer


@dataclass(frozen=True)
class LocalParts(Parts):
    """A service, what it is made of, and its settings."""

    settings: Settings


def parts_of(storage: Storage, names: list[str], **settings: Any) -> LocalParts:
    """Everything of a replica but Ray."""
    wanted = Settings(storage=storage.root, device="cpu", **settings)
    parts = assemble(wanted, names, Observer())
    return LocalParts(parts.registry, parts.batcher, parts.service, wanted)


def client_of(
    parts: LocalParts,
    keys: KeyFile | None = None,
    observer: Observer | None = None,
    root_path: str = "",
) -> TestClient:
    api = create_api(parts.service, parts.settings.limits(), keys, observer)
    return TestClient(api, raise_server_exceptions=False, root_path=root_path)
