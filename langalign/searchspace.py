"""What a sweep searches: domains of pipeline keys, and how Optuna draws a trial from them.

Parameters are conditional on the aligner's kind: a depth, width or dropout is drawn only for kinds
that have one (Listings 1 and 2), and where `kinds` names some, only for those.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

from pydantic import Field, ValidationError, model_validator

from langalign.aligners import LEARNED_KINDS, deepest
from langalign.config import AlignerConfig, AlignerKind, PipelineConfig, Section
from langalign.searchdomains import FloatDomain, IntDomain

__all__ = [
    "SearchConfig",
    "SpaceConfig",
    "SweepConfig",
    "paper_points",
    "pipeline_values",
    "suggest",
]

# The kinds that have each shape option, and what the paper's listings (or our own kind) set it to.
_LISTED: dict[str, dict[str, float]] = {
    "depth": {"fc": 6, "ae": 3, "residual": 2},
    "hidden": {"fc": 1024, "ae": 512, "residual": 512},
    "dropout": {"fc": 0.5, "residual": 0.1},
}
_KINDS: list[AlignerKind] = ["fc", "ae"]
_KEYS = {
    "pooling": "encoder.pooling",
    "kind": "aligner.kind",
    "hidden": "aligner.hidden",
    "depth": "aligner.depth",
    "dropout": "aligner.dropout",
    "learning_rate": "aligner.learning_rate",
    "batch_size": "aligner.batch_size",
    "weight_decay": "aligner.weight_decay",
    "identity_weight": "aligner.identity_weight",
    "head_learning_rate": "head.learning_rate",
}


class Asker(Protocol):
    """The part of an Optuna trial that draws values."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class SpaceConfig(Section):
    """The searched parameters; one that is unset keeps the value of its section."""

    kind: list[AlignerKind] | None = Field(_KINDS, description="aligner kinds to try")
    depth: IntDomain | None = Field(
        IntDomain(low=2, high=8), description="layers (fc) or halvings (ae)"
    )
    dropout: FloatDomain | None = Field(
        FloatDomain(low=0.0, high=0.6), description="kinds with dropout only"
    )
    learning_rate: FloatDomain | None = Field(
        FloatDomain(low=1e-5, high=1e-2, log=True), description="of the aligner"
    )
    hidden: IntDomain | None = Field(None, description="widest hidden layer")
    batch_size: IntDomain | None = Field(None, description="pairs a step")
    weight_decay: FloatDomain | None = Field(None, description="of the aligner")
    identity_weight: FloatDomain | None = Field(None, description="weight of identity pairs")
    head_learning_rate: FloatDomain | None = Field(None, description="of the head")
    pooling: list[Literal["cls", "mean"]] | None = Field(
        None, description="poolings to try; each is embedded once"
    )

    @model_validator(mode="after")
    def _searches_something(self) -> Self:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("space is empty; set at least one parameter, as kind: [fc, ae]")
        return self


class SearchConfig(Section):
    """How the search runs."""

    trials: int = Field(32, gt=0, description="trials in all, those of an earlier run included")
    seeds: int = Field(1, gt=0, description="seeds of a trial; its score is their mean")
    scheduler: Literal["asha", "none"] = Field("asha", description="asha: stop poor trials early")
    grace_epochs: int = Field(8, gt=0, description="epochs every trial gets (asha)")
    reduction_factor: int = Field(3, gt=1, description="one in so many goes on at a rung (asha)")
    stack: int = Field(
        4,
        gt=0,
        description="trials that one process trains as one; more: faster, drawn less wisely",
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "highest",
        description="torch.set_float32_matmul_precision of trials; medium: factors rounded to bf16 "
        "on CPUs that multiply it (AVX512_BF16, AMX) and to TF32 on GPUs, sums in fp32. The best "
        "trial is compared and trained anew in fp32",
    )
    cpus_per_stack: float = Field(1, gt=0, description="CPU cores of such a process")
    gpus_per_stack: float = Field(
        0, ge=0, description="GPUs of such a process; 0.1: ten processes on one GPU"
    )
    max_concurrent: int | None = Field(
        None, gt=0, description="trials at once; unset: as many as the cluster holds, as it grows"
    )
    max_failures: int = Field(3, ge=0, description="restarts of a trial whose worker died")
    confirm_seeds: int = Field(
        5,
        ge=0,
        description="fresh seeds on which the best is compared with the config's own values",
    )


class SweepConfig(PipelineConfig):
    """A pipeline and the search around it."""

    sweep: SearchConfig = SearchConfig()
    space: SpaceConfig = SpaceConfig()

    @model_validator(mode="after")
    def _is_searchable(self) -> Self:
        if set(self.head.train) != {"head"}:
            raise ValueError(
                f"head.train={self.head.train}: a sweep runs on frozen embeddings; "
                f"set head.train=[head]"
            )
        if self.stop_after is not None:
            raise ValueError(f"stop_after={self.stop_after} is for jobs/train.py; leave it unset")
        for kind in self.space.kind or [self.aligner.kind]:
            for name in _KEYS:
                self._check_values(name, kind)
            self._check_depths(kind)
        return self

    def _check_values(self, name: str, kind: AlignerKind) -> None:
        """Raise ValueError where an end of a range, or a choice, breaks the rule of its key."""
        domain = getattr(self.space, name)
        if name in ("kind", "pooling") or domain is None or not _applies(name, domain, kind):
            return
        key = _KEYS[name]
        tried = domain.choices or [domain.low, domain.high]
        if name == "batch_size" and not domain.choices and domain.low < domain.high:
            # Workers share a batch evenly, which the ends of a range may allow and others not.
            tried.append(domain.low + 1)
        for value in tried:
            values = pipeline_values(self, {"aligner.kind": kind, key: value})
            try:
                PipelineConfig.model_validate(values)
            except ValidationError as error:
                rule = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(
                    f"space.{name} holds {value}, which {key} cannot be: {rule}"
                ) from None

    def _check_depths(self, kind: AlignerKind) -> None:
        """Raise ValueError where a choice of depth is too deep; a range is cut instead."""
        depths, widths = self.space.depth, self.space.hidden
        if depths is None or not depths.choices or not _applies("depth", depths, kind):
            return
        narrowest = self.aligner.hidden if kind == self.aligner.kind else None
        if widths and _applies("hidden", widths, kind):
            narrowest = min(widths.choices) if widths.choices else widths.low
        most = deepest(kind, narrowest)
        if max(depths.choices) > most:
            raise ValueError(
                f"space.depth holds {max(depths.choices)}, but aligner.kind={kind} is {most} deep "
                f"at most where it is narrowest; leave that depth out, or raise the width"
            )


def suggest(trial: Asker, space: SpaceConfig, aligner: AlignerConfig) -> dict[str, Any]:
    """Draw the values of one trial, by config key (`aligner.depth`); `aligner` has the rest."""
    values: dict[str, Any] = {}
    if space.pooling:
        values["encoder.pooling"] = trial.suggest_categorical("encoder.pooling", space.pooling)
    if space.kind:
        values["aligner.kind"] = trial.suggest_categorical("aligner.kind", space.kind)
    kind = values.get("aligner.kind", aligner.kind)
    for name in ("hidden", "depth", "dropout", "learning_rate", "batch_size"):
        _draw(trial, space, name, kind, aligner, values)
    for name in ("weight_decay", "identity_weight", "head_learning_rate"):
        _draw(trial, space, name, kind, aligner, values)
    return values


def paper_points(space: SpaceConfig, config: PipelineConfig) -> list[dict[str, Any]]:
    """The config's own values as first trials, one for each kind: the paper's where none is set.

    No sweep ends below these trials. A value outside its range is moved to the nearest end, and one
    that is no choice to the first, so that a sweep may end below the value itself.
    """
    # A sweep of one trial has the config's own kind.
    kinds = sorted(space.kind or [config.aligner.kind], key=lambda k: k != config.aligner.kind)
    return [suggest(_Defaults(kind, config), space, config.aligner) for kind in kinds]


def pipeline_values(config: PipelineConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's config, as nested values, with a trial's in place of its own."""
    nested = config.model_dump(include=set(PipelineConfig.model_fields))
    kind = values.get("aligner.kind", config.aligner.kind)
    for name, listed in _LISTED.items():
        # A shape option of the configured kind may not exist for the trial's.
        if kind not in listed or kind != config.aligner.kind:
            nested["aligner"][name] = None
    for key, value in values.items():
        section, name = key.split(".")
        nested[section][name] = value
    return nested


def _draw(
    trial: Asker,
    space: SpaceConfig,
    name: str,
    kind: str,
    aligner: AlignerConfig,
    values: dict[str, Any],
) -> None:
    domain = getattr(space, name)
    if domain is None or not _applies(name, domain, kind):
        return
    key, low, high = _KEYS[name], domain.low, domain.high
    if domain.choices:
        values[key] = trial.suggest_categorical(key, domain.choices)
    elif isinstance(domain, IntDomain):
        hidden = values.get("aligner.hidden", aligner.hidden)
        high = min(high, deepest(kind, hidden)) if name == "depth" else high
        values[key] = trial.suggest_int(key, min(low, high), high, log=domain.log)
    else:
        values[key] = trial.suggest_float(key, low, high, log=domain.log)


def _applies(name: str, domain: Any, kind: str) -> bool:
    if name in _LISTED and kind not in _LISTED[name]:
        return False
    if name != "head_learning_rate" and kind not in LEARNED_KINDS:
        return False
    kinds = getattr(domain, "kinds", None)
    return kinds is None or kind in kinds


class _Defaults:
    """An Asker that answers with the config's values, or the paper's where it has none."""

    def __init__(self, kind: str, config: PipelineConfig) -> None:
        self.kind = kind
        self.config = config

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Moved into the range."""
        return int(min(max(self._value(name), low), high))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Moved into the range."""
        return float(min(max(self._value(name), low), high))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """The first choice where the default is none of them."""
        value = self._value(name)
        return value if value in choices else choices[0]

    def _value(self, key: str) -> Any:
        if key == "aligner.kind":
            return self.kind
        section, name = key.split(".")
        value = getattr(getattr(self.config, section), name)
        return _LISTED[name][self.kind] if value is None else value
