"""Every setting of the application, flat: `serve run serve.app:build KEY=VALUE` takes them."""

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["API_KEYS_VARIABLE", "Limits", "Settings"]

API_KEYS_VARIABLE = "LANGALIGN_API_KEYS_FILE"

Precision = Literal["model", "fp32", "bf16", "int8"]


def _listed(value: Any) -> Any:
    """The command line gives one string: names between commas."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def _said_off(value: Any) -> Any:
    """YAML 1.1, which Serve reads its files as, takes a bare `off` for false."""
    return "off" if value is False else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Section):
    """What requests may take; beyond it the answer is a problem, never a wait."""

    body_bytes: int = Field(2**20, gt=0, description="largest request body (413)")
    inputs: int = Field(256, gt=0, description="most inputs of a request (422)")
    characters: int = Field(20_000, gt=0, description="longest text of an input (422)")
    body_s: float = Field(10.0, gt=0, description="longest time for sending the body (408)")
    request_s: float = Field(30.0, gt=0, description="longest time for the answer (504)")
    ongoing_requests: int = Field(
        512, gt=0, description="requests inside one replica at a time, waiting ones included (503)"
    )


class Settings(Limits):
    """Arguments of `serve.app:build`."""

    model: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="models to serve: names under storage, or ROOT/models/NAME[/VERSION], folders "
        "or s3://; a list, or names between commas; unset: the demo's model, trained if need be",
    )
    storage: str | None = Field(
        None, description="folder or s3://bucket/prefix of named models; unset: LANGALIGN_STORAGE"
    )
    watch_s: float = Field(
        30.0, ge=0, description="look for new versions and releases this often; 0: never"
    )

    auth: Annotated[Literal["auto", "keys", "off"], BeforeValidator(_said_off)] = Field(
        "auto", description="auto: API keys unless the service listens on loopback only"
    )
    api_keys_file: str | None = Field(
        None, description=f"file of `python -m serve.keys`; unset: {API_KEYS_VARIABLE} of the node"
    )

    batch_tokens: int = Field(4096, gt=0, description="tokens taken from the queue for one batch")
    forward_tokens: int = Field(2048, gt=0, description="padded tokens of one forward pass at most")
    batch_wait_s: float = Field(
        0.0, ge=0, le=1, description="wait this long for more requests when a batch is not full"
    )
    queue_tokens: int = Field(262_144, gt=0, description="tokens that may wait (503 beyond)")
    queue_s: float = Field(
        2.0,
        gt=0,
        description="no new request that would wait longer by the pace of the last batches, or "
        "while the oldest of its kind (longer than a batch, or not) has waited longer (503)",
    )
    cache_rows: int = Field(0, ge=0, description="answers kept for repeated inputs; 0: no cache")

    precision: Precision = Field(
        "model", description="of the encoder: the model's own, fp32, bf16, or int8 (CPU only)"
    )
    device: str | None = Field(None, description="torch device; unset: a GPU if there is one")
    threads: int = Field(
        0,
        ge=0,
        description="CPU threads of one replica at most; short batches leave one idle, for "
        "requests that come meanwhile; 0: the cores of its machine over the replicas of all "
        "encoders, as if they all were there: set it where each has a machine of its own",
    )

    replicas: int = Field(
        1, gt=0, description="replicas of each encoder, and of what takes HTTP for several"
    )
    cpus: float = Field(1.0, ge=0, description="CPUs that Ray reserves for a replica")
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a replica")

    def limits(self) -> Limits:
        """The part that requests are held to."""
        return Limits(**{key: getattr(self, key) for key in Limits.model_fields})

    def threads_of_replica(self, encoders: int = 1) -> int:
        """`threads`, or this machine's usable cores divided among the replicas of all encoders."""
        cores = len(os.sched_getaffinity(0))
        return self.threads or max(1, cores // (self.replicas * encoders))
