"""What goes over the wire: requests, answers, model cards and problem details (RFC 9457)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue

__all__ = [
    "ClassifyRequest",
    "ClassifyResponse",
    "Health",
    "ModelCard",
    "ModelList",
    "PairInput",
    "Prediction",
    "Problem",
    "Timing",
]

PROBLEM_MEDIA_TYPE = "application/problem+json"


class _Incoming(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Outgoing(BaseModel):
    model_config = ConfigDict(frozen=True)


class PairInput(_Incoming):
    """An input of a task on pairs of texts."""

    premise: str
    hypothesis: str


class ClassifyRequest(_Incoming):
    """Texts, or pairs of texts, of one language for one model."""

    model: str | None = Field(
        None, description="model name, as in /v1/models; unset: the only one of the language"
    )
    language: str = Field(min_length=1, max_length=64, description="language code of the inputs")
    # Only the first fault is looked for: a body within the limits has room for half a million.
    inputs: Annotated[list[str | PairInput], FailFast()] = Field(
        min_length=1,
        description="texts, or {premise, hypothesis} where the model's task is on pairs",
    )
    top_k: int | None = Field(
        None, ge=1, le=10_000, description="give only the k likeliest labels; unset: all"
    )
    compare: bool = Field(
        False, description="also answer without the aligner, from the same pass of the encoder"
    )


class Prediction(_Outgoing):
    """The answer to one input."""

    label: str = Field(description="the likeliest label")
    probability: float = Field(ge=0, le=1, description="of that label")
    probabilities: dict[str, float] = Field(description="by label, likeliest first")
    unaligned: dict[str, float] | None = Field(
        None, description="probabilities by label without the aligner, where compare asks for it"
    )
    tokens: int = Field(ge=0, description="tokens read; at the model's max_tokens it was cut there")


class Timing(_Outgoing):
    """Where the time of a request went, in milliseconds inside the replica."""

    queue_ms: float = Field(ge=0, description="waiting for a batch")
    compute_ms: float = Field(ge=0, description="in the batches that held the inputs")
    total_ms: float = Field(ge=0, description="from the parsed request to the answer")


class ClassifyResponse(_Outgoing):
    """The answers, in the order of the inputs."""

    model: str
    version: str
    language: str
    predictions: list[Prediction]
    timing: Timing


class Refusal(_Outgoing):
    """A version that was not taken into service."""

    version: str
    reason: str


class ModelCard(_Outgoing):
    """A model in service."""

    name: str
    version: str
    source_language: str = Field(description="language of the labelled training rows")
    target_language: str = Field(description="language the model was made for")
    labels: list[str]
    inputs: Literal["text", "pair"]
    max_tokens: int = Field(description="inputs are cut at this many tokens")
    encoder: str = Field(description="digest of the encoder; models with the same one share it")
    precision: str
    published_at: str
    metrics: list[dict[str, JsonValue]] = Field(description="scores of the training run")
    canary_version: str | None = Field(
        None, description="new version that gets a share of requests"
    )
    canary_share: float = Field(0.0, ge=0, le=1)
    refused: list[Refusal] = Field(
        default_factory=list, description="versions that failed their checks"
    )


class ModelList(_Outgoing):
    """All models in service."""

    models: list[ModelCard]


class Health(_Outgoing):
    """The answer of /healthz and /readyz."""

    status: Literal["ok"] = "ok"


class Problem(_Outgoing):
    """Problem details of RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    errors: list[dict[str, Any]] | None = Field(
        None, description="for a body that breaks the schema: the place and rule of each fault"
    )
