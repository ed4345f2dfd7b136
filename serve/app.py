"""The Ray Serve application.

    serve run serve.app:build model=s3://bucket/prefix/models/NAME
    serve run serve.app:build                       the demo's model, trained if need be
    serve deploy serve/config.yaml                  on a running cluster, every key commented

One encoder: replicas that take HTTP themselves. Several encoders: a deployment for each, behind
one that takes HTTP. `serve.settings` has all arguments.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.context import _get_global_client

from langalign import artifacts
from langalign.artifacts import LATEST, Manifest
from langalign.errors import ConfigError, IntegrityError
from langalign.storage import Storage
from serve.api import create_api
from serve.demo import ensure_demo
from serve.gateway import RemoteBackends
from serve.keys import KeyFile
from serve.loading import encoder_digest
from serve.problems import ProblemError, unforeseen
from serve.registry import Source, parse_sources
from serve.release import older_versions, read_release, resolve
from serve.replica import start_replica
from serve.schemas import ClassifyRequest, ClassifyResponse, ModelCard
from serve.settings import API_KEYS_VARIABLE, Settings
from serve.telemetry import RayMetrics

__all__ = ["build", "open_keys"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Ray answers in plain text where a request is over its limits, so the application's own, which
# answers with a problem, has to act first: refusing takes no time, and these leave room for it.
RAY_ROOM = 4


def build(args: Settings) -> Application:
    """The application for the settings.

    Raises:
        LangAlignError: a model that does not exist, or settings that cannot work together.
    """
    models = args.model or [ensure_demo(Storage.from_environment(args.storage))]
    manifests = [_manifest(source) for source in parse_sources(models, args.storage)]
    groups = _by_encoder(manifests, models)
    limits = _ray_limits(args)
    options = limits | {
        "num_replicas": args.replicas,
        "ray_actor_options": {"num_cpus": args.cpus, "num_gpus": args.gpus},
    }
    if len(groups) == 1:
        return _deployment(serve.ingress()(Classifier), **options).bind(args, models)
    # What waits for encoders that are away must leave places to the others.
    waiting = {"max_queued_requests": max(1, args.ongoing_requests // len(groups))}
    handles: dict[str, Application] = {}
    for digest, members in groups.items():
        encoder = _deployment(Encoder, name=f"Encoder-{digest[:8]}", **options | waiting)
        bound = encoder.bind(args, list(members.values()), len(groups))
        handles |= dict.fromkeys(members, bound)
    gateway = _deployment(
        serve.ingress()(Gateway),
        **limits,
        num_replicas=args.replicas,
        # It only forwards, and must find a place beside encoders that fill the machine.
        ray_actor_options={"num_cpus": 0},
    )
    languages = {model.name: (model.source_language, model.target_language) for model in manifests}
    return gateway.bind(args, handles, languages)


def open_keys(settings: Settings, host: str | None) -> KeyFile | None:
    """The API keys that requests need, None where they need none.

    Raises:
        ConfigError: keys are needed and there is no file with one.
    """
    if settings.auth == "off" or (settings.auth == "auto" and host in LOOPBACK):
        return None
    path = settings.api_keys_file or os.environ.get(API_KEYS_VARIABLE)
    if not path:
        raise ConfigError(
            f"the service listens on {host}, which others can reach, and there are no API keys: "
            f"name a file with api_keys_file or {API_KEYS_VARIABLE} (python -m serve.keys new NAME "
            "--file FILE makes it), listen on 127.0.0.1, or say auth=off"
        )
    return KeyFile(Path(path))


class Classifier:
    """Takes HTTP, and holds one encoder with all models that share it."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, models: Sequence[str]
    ) -> None:
        self._settings = settings
        self._keys = await asyncio.to_thread(_keys_here, settings)
        self._metrics = RayMetrics()
        self._replica = await start_replica(settings, models, self._metrics)

    def __serve_build_asgi_app__(self) -> FastAPI:
        limits = self._settings.limits()
        return create_api(self._replica.service, limits, self._keys, self._metrics)

    def check_health(self) -> None:
        """Asked by Serve; a replica that raises is replaced."""
        self._replica.check()


class Encoder:
    """Holds one of several encoders with all models that share it."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, models: Sequence[str], encoders: int
    ) -> None:
        self._replica = await start_replica(settings, models, RayMetrics(), encoders)

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse | ProblemError:
        """The answer; a problem is a value here, because Ray would wrap an exception."""
        try:
            return await self._replica.service.classify(request)
        except ProblemError as problem:
            return problem
        except Exception as fault:  # noqa: BLE001 (Ray would log its message)
            return unforeseen(fault)

    async def models(self) -> list[ModelCard]:
        """What is in service."""
        return await self._replica.service.models()

    def check_health(self) -> None:
        """Asked by Serve; a replica that raises is replaced."""
        self._replica.check()


class Gateway:
    """Takes HTTP for several encoders."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, handles: dict[str, Any], languages: dict[str, tuple[str, str]]
    ) -> None:
        self._settings = settings
        self._keys = await asyncio.to_thread(_keys_here, settings)
        self._backends = RemoteBackends(handles, languages, settings.request_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._backends, self._settings.limits(), self._keys, RayMetrics())


def _by_encoder(manifests: Sequence[Manifest], models: Sequence[str]) -> dict[str, dict[str, str]]:
    """Encoder digest → name of a model → how it was given."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for manifest, given in zip(manifests, models, strict=True):
        groups[encoder_digest(manifest)][manifest.name] = given
    return dict(groups)


def _manifest(source: Source) -> Manifest:
    """Of the version to serve; where the latest is damaged, of the newest one before it."""
    place = (source.storage, source.name)
    if source.version != LATEST:
        return artifacts.read_manifest(*place, source.version)
    # As the replicas will, which may be told to stay with another than the latest.
    version = resolve(*place, read_release(*place))
    try:
        return artifacts.read_manifest(*place, version)
    except IntegrityError:
        older = older_versions(*place, version)
        if not older:
            raise
        return artifacts.read_manifest(*place, older[0])


def _deployment(kind: type, **options: Any) -> Any:
    """A Serve deployment of one of the classes above, which stay plain classes."""
    return serve.deployment(kind, **options)


def _ray_limits(settings: Settings) -> dict[str, Any]:
    """Bounds of a deployment's requests, no tighter than those that the application sets itself."""
    bound = RAY_ROOM * settings.ongoing_requests
    return {
        "max_ongoing_requests": bound,
        "max_queued_requests": bound,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        # A replica that is replaced answers what it has first.
        "graceful_shutdown_timeout_s": settings.body_s + settings.request_s,
    }


def _keys_here(settings: Settings) -> KeyFile | None:
    """`open_keys` for the address that this Serve instance listens on."""
    return open_keys(settings, _get_global_client().http_config.host)
