"""Serve on this machine until interrupted: `python -m serve [KEY=VALUE ...]`, as `make serve` does.

Keys are those of `serve.settings`, and host and port; prints the address and a line to try it with.
Always on a Ray of its own: to a running cluster `serve deploy serve/config.yaml` goes.
"""

import json
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import ray
from pydantic import Field
from ray import serve

from langalign.authtoken import protect_token
from langalign.command import exit_status
from langalign.configfile import describe_keys, load_config
from langalign.errors import ConfigError, ServingError
from serve.app import build, open_keys
from serve.client import Client
from serve.schemas import ModelCard
from serve.settings import Settings

__all__ = ["main"]


class LocalSettings(Settings):
    """Settings, and the address."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, gt=0, lt=65536, description="port to listen on")


def main(arguments: list[str]) -> int:
    """Serve until interrupted; returns the exit status: 0 done, 1 failed, 2 bad usage."""
    if set(arguments) & {"-h", "--help"}:
        print(__doc__)
        for key, kind, default, text in describe_keys(LocalSettings):
            print(f"  {key}  {kind} = {default}\n      {text}")
        return 0
    try:
        return exit_status(lambda: _serve(arguments))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 0


def _serve(arguments: list[str]) -> None:
    local = load_config(LocalSettings, overrides=arguments)
    settings = Settings(**local.model_dump(exclude={"host", "port"}))
    needs_key = open_keys(settings, local.host) is not None
    _check_port(local.host, local.port)
    application = build(settings)
    # Not of a cluster that RAY_ADDRESS or this machine has: what it serves would end with this.
    ray.init(address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        protect_token()
        try:
            serve.start(http_options={"host": local.host, "port": local.port})
            serve.run(application)
        except (RuntimeError, TimeoutError) as error:
            # Serve's own words for a deployment or proxy that does not come up; the cause is there.
            raise ServingError(f"the service did not start: {error}") from error
        host = f"[{local.host}]" if ":" in local.host else local.host
        _tell(f"http://{host}:{local.port}", needs_key)
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()
        ray.shutdown()


def _check_port(host: str, port: int) -> None:
    """Refuse a port on which something listens, before anything is trained or started.

    Raises:
        ConfigError: it is taken, or the address is none of this machine.
    """
    try:
        place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(place[0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place[4])
    except OSError as error:
        raise ConfigError(
            f"cannot listen on host={host} port={port}: {error.strerror}; end what listens "
            "there, or name another port or address"
        ) from None


def _tell(url: str, needs_key: bool) -> None:
    """Print the addresses, and a curl line; with keys, KEY and LANGUAGE are to be filled in."""
    (node,) = ray.nodes()
    metrics = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    print(f"\nserving at {url}  (API: {url}/docs, metrics: {metrics}, stop with Ctrl-C)")
    key = "-H 'Authorization: Bearer KEY' " if needs_key else ""
    asked = {"language": "LANGUAGE", "inputs": ["a sentence"]}
    if not needs_key:
        with Client(url) as client:
            asked = _question(client.models())
    body = shlex.quote(json.dumps(asked))
    print(
        f"curl -s {url}/v1/classify -H 'Content-Type: application/json' {key}-d {body}", flush=True
    )


def _question(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """What the first model can be asked."""
    first = cards[0]
    pair = {"premise": "a sentence", "hypothesis": "another one"}
    inputs = [pair if first.inputs == "pair" else "a sentence"]
    asked = {"language": first.target_language, "inputs": inputs}
    # Several models may know the language.
    return {"model": first.name, **asked} if len(cards) > 1 else asked


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
