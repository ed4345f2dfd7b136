"""Typed configuration: defaults, then a YAML file, then `a.b=value` from the command line.

An unknown key is an error that lists the valid ones. Units stand in the names (`_s`) or in the
descriptions, which `describe_keys` turns into the table of `--help`. Only builders (`cluster/`,
`jobs/`) read these models; classes and functions of `langalign/` take plain arguments.

The defaults are the paper's (Table 2, Listings 1 and 2, section 3.4.4) where it speaks with one
voice. It contradicts itself on learning rates: see `TuneConfig` and `AlignerConfig`.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from langalign.errors import ConfigError

__all__ = [
    "AlignerConfig",
    "ClusterConfig",
    "CompareConfig",
    "DataConfig",
    "EncoderConfig",
    "HeadConfig",
    "PipelineConfig",
    "ScoreConfig",
    "TaskConfig",
    "TuneConfig",
    "describe_keys",
    "load_config",
]

AlignerKind = Literal["fc", "ae", "linear", "procrustes", "residual", "none"]
Method = Literal["english", "translated", "native", "omission"]
Step = Literal["prepare", "tune", "embed", "align", "head"]
Precision = Literal["fp32", "bf16", "fp16"]
Model = TypeVar("Model", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskConfig(_Section):
    """What is predicted from which columns."""

    name: str = Field("sentiment", description="preset `sentiment` or `nli`, or a name of yours")
    text: str | None = Field(None, description="column of the text (or premise); preset's if unset")
    text_pair: str | None = Field(None, description="column of the second text of a pair task")
    label: str | None = Field(None, description="column of the label")
    labels: list[str] | None = Field(None, description="label names, in the order of their ints")
    metric: Literal["f1", "accuracy", "macro_f1"] | None = Field(
        None, description="score that is reported; f1 takes the second label as positive"
    )


class DataConfig(_Section):
    """Where rows come from: a path, a folder, a glob, s3://…, a hub data set, or `demo`."""

    train: str = Field("demo", description="labelled English rows")
    parallel: str = Field("demo", description="translated sentences: source, target, label?")
    test: str = Field("demo", description="labelled target-language rows, only ever scored")
    native: str | None = Field(
        None, description="labelled target-language rows for the `native` upper bound"
    )
    source_language: str = Field("en", description="language code of the labelled rows")
    target_language: str = Field("ko", description="language code of the rows to classify")
    train_rows: int | None = Field(None, gt=0, description="use at most this many rows")
    parallel_rows: int | None = Field(None, gt=0, description="use at most this many pairs")
    test_rows: int | None = Field(None, gt=0, description="use at most this many rows")
    native_rows: int | None = Field(None, gt=0, description="use at most this many rows")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of rows and pairs held out for choosing (section 3.4.4)"
    )


class EncoderConfig(_Section):
    """The multilingual language model and how a sentence embedding is read off it."""

    name: str = Field(
        "FacebookAI/xlm-roberta-base", description="hub name, local folder, or `demo`"
    )
    revision: str | None = Field(None, description="hub commit or tag to pin")
    pooling: Literal["cls", "mean"] = Field("cls", description="first token, or mean of all tokens")
    max_length: int = Field(256, ge=8, description="longer inputs are cut, in tokens")
    precision: Precision = Field("fp32", description="arithmetic of the frozen encoder")
    batch_tokens: int = Field(8192, ge=64, description="padded tokens in one encoder batch")


class TuneConfig(_Section):
    """Step 1: fine-tune the encoder on the task (optional; section 3.2).

    Table 2 trains the task at 1e-4 and the appendix at 1e-5; full fine-tuning of XLM-R base at
    1e-4 is known to be unstable, so 1e-5 is the default and `preset: table2` the other reading.
    """

    rows: Literal["none", "english", "translated", "both"] = Field(
        "english", description="labelled rows to tune on; `none` leaves the encoder as it is"
    )
    learning_rate: float = Field(1e-5, gt=0, description="AdamW, after warm-up constant")
    batch_size: int = Field(16, gt=0, description="rows a step over all workers")
    max_epochs: int = Field(20, gt=0, description="passes over the rows at most")
    patience: int = Field(10, gt=0, description="stop after so many epochs without a better score")
    warmup_fraction: float = Field(0.06, ge=0, lt=1, description="share of the first epoch")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    max_gradient_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast forward pass")


class AlignerConfig(_Section):
    """Step 2: the network between encoder and head, trained by MSE with the encoder frozen."""

    kind: AlignerKind = Field("ae", description="`none` is the paper's omission ablation")
    direction: Literal["forward", "reverse"] = Field(
        "forward",
        description="forward: English to target while the head is trained; "
        "reverse: target to English at inference (Rev-LangAlign)",
    )
    depth: int | None = Field(None, ge=1, description="fc: linear layers (6); ae: halvings (3)")
    hidden: int | None = Field(None, ge=8, description="widest hidden layer (fc 1024, ae 512)")
    dropout: float | None = Field(None, ge=0, lt=1, description="fc 0.5, residual 0.1")
    identity_pairs: bool = Field(True, description="also train target to target (section 3.2)")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW (Listings 1 and 2)")
    batch_size: int = Field(16, gt=0, description="pairs a step over all workers (Table 2)")
    max_epochs: int = Field(100, gt=0, description="passes over the pairs at most")
    patience: int = Field(10, gt=0, description="stop after so many epochs without a lower MSE")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")


class HeadConfig(_Section):
    """Step 3: a new task head on the aligned English embeddings."""

    train: list[Literal["head", "aligner", "encoder"]] = Field(
        ["head"], description="what trains in step 3; `encoder` embeds again every epoch"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="before both layers of the head")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW (Table 2)")
    batch_size: int = Field(16, gt=0, description="rows a step over all workers (Table 2)")
    max_epochs: int = Field(100, gt=0, description="passes over the rows at most")
    patience: int = Field(10, gt=0, description="stop after so many epochs without a better score")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")


class CompareConfig(_Section):
    """What is trained beside the chosen model, for the table."""

    methods: list[Method] = Field(
        ["english", "translated", "native", "omission"],
        description="baselines; those without rows are left out, and the table says so",
    )
    aligners: list[AlignerKind] = Field(
        ["linear", "procrustes"], description="further aligner kinds, scored as LangAlign is"
    )


class ActorsConfig(_Section):
    """How embedding is spread over Ray."""

    address: str | None = Field(None, description="Ray cluster; unset: RAY_ADDRESS, else local")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of a worker and an embedding actor")
    cpus_per_worker: float = Field(1, gt=0, description="CPU cores of a worker")
    embed_actors: int | None = Field(
        None, gt=0, description="encoder actors; unset: one a GPU, else one a CPU core"
    )
    shard_rows: int = Field(4096, gt=0, description="rows of a shard, the unit of embedding work")


class ClusterConfig(ActorsConfig):
    """How the run is spread over Ray."""

    workers: int = Field(1, gt=0, description="Ray Train workers of steps 1 to 3")
    max_failures: int = Field(3, ge=-1, description="worker restarts a step; -1: without limit")
    checkpoint_interval_s: float = Field(
        30.0, ge=0, description="seconds between checkpoints of a step, at the end of an epoch"
    )


class PipelineConfig(_Section):
    """Everything one run of the pipeline needs."""

    name: str = Field("langalign", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="run name")
    seed: int = Field(0, ge=0, description="seeds data splits, weights, order and dropout")
    storage: str | None = Field(
        None, description="folder or s3://bucket/prefix; unset: LANGALIGN_STORAGE"
    )
    stop_after: Step | None = Field(None, description="end the run after this step")
    preset: Literal["table2"] | None = Field(
        None, description="table2: learning rates of the paper's Table 2 (aligner 1e-5, task 1e-4)"
    )
    publish: bool = Field(True, description="store the model as a new version of `model`")
    model: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="model name; unset: run name"
    )
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    tune: TuneConfig = TuneConfig()
    aligner: AlignerConfig = AlignerConfig()
    head: HeadConfig = HeadConfig()
    compare: CompareConfig = CompareConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if "head" not in self.head.train or len(set(self.head.train)) < len(self.head.train):
            raise ValueError(f"head.train={self.head.train} must hold `head`, and nothing twice")
        if self.aligner.direction == "reverse" and set(self.head.train) != {"head"}:
            raise ValueError(
                "aligner.direction=reverse keeps encoder and aligner out of step 3: "
                "set head.train=[head]"
            )
        for section in ("tune", "aligner", "head"):
            batch = getattr(self, section).batch_size
            if batch % self.cluster.workers:
                raise ValueError(
                    f"{section}.batch_size={batch} is shared by cluster.workers="
                    f"{self.cluster.workers} and must be a multiple of it"
                )
        return self


class ScoredRowsConfig(_Section):
    """How the rows to score are written; unset: as the model's training rows were."""

    text: str | None = Field(None, description="column of the text (or premise)")
    text_pair: str | None = Field(None, description="column of the second text of a pair task")
    label: str | None = Field(None, description="column of the label")
    labels: list[str] | None = Field(
        None, description="the rows' names for the model's labels, in the model's order"
    )


class ScoreConfig(_Section):
    """A published model and labelled rows to score it on."""

    model: str = Field(
        "demo", description="name under storage, or ROOT/models/NAME[/VERSION], a folder or s3://"
    )
    version: str = Field("latest", description="model version")
    data: str | None = Field(
        None, description="labelled rows, or `demo`; unset: the demo's test rows, for its models"
    )
    rows: int | None = Field(None, gt=0, description="score at most this many rows")
    language: str | None = Field(None, description="language code of the rows; unset: target's")
    storage: str | None = Field(
        None, description="folder or s3://bucket/prefix; unset: LANGALIGN_STORAGE"
    )
    name: str = Field("score", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="run name")
    baselines: bool = Field(True, description="also score the English-only and omission heads")
    task: ScoredRowsConfig = ScoredRowsConfig()
    cluster: ActorsConfig = ActorsConfig()


_TABLE2: dict[str, dict[str, float]] = {
    "tune": {"learning_rate": 1e-4},
    "aligner": {"learning_rate": 1e-5},
    "head": {"learning_rate": 1e-4},
}


def load_config(
    model: type[Model], path: Path | None = None, overrides: Sequence[str] = ()
) -> Model:
    """Build a config from its defaults, a YAML file and `a.b=value` overrides, in that order.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value breaks its rule.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _apply_override(values, override)
    if values.get("preset") == "table2":
        for section, rates in _TABLE2.items():
            given = values.get(section) or {}
            # Anything but a mapping is left for validation to name.
            values[section] = {**rates, **given} if isinstance(given, dict) else given
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_problem(model, error)) from None


def describe_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, description) of every leaf key, in order of definition."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section:
            yield from describe_keys(section, f"{prefix}{name}.")
        else:
            kind = _type_name(field.annotation)
            yield f"{prefix}{name}", kind, _show(field.default), field.description or ""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = _load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; give a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config {path} is not YAML: {reason}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"--config {path} must hold `key: value` lines, not a {type(loaded)}")
    return loaded


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"argument {override!r} is not of the form key=value, as in seed=1")
    try:
        value = _load_yaml(text) if text else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{key}={_cut(text)} is not a YAML value; quote it") from error
    *sections, leaf = key.split(".")
    node = values
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {section!r} is a value, not a section with keys")
        node = child
    node[leaf] = value


class _ConfigLoader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `no` and 2024-01-01 are text, 1e-4 is a number."""


def _core_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    dropped = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"}
    return {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in dropped]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_ConfigLoader.yaml_implicit_resolvers = _core_resolvers()
_ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _load_yaml(text: str) -> Any:
    loader = _ConfigLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def _type_name(annotation: Any) -> str:
    choices = getattr(annotation, "__args__", None)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    if isinstance(annotation, type) and not choices:
        return annotation.__name__
    origin = getattr(annotation, "__origin__", None)
    if origin is list:
        return f"list of {_type_name(choices[0])}" if choices else "list"
    kinds = [_type_name(choice) for choice in choices or () if choice is not type(None)]
    return " or ".join(kinds)


def _show(default: Any) -> str:
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return "[" + ", ".join(str(item) for item in default) + "]"
    return str(default)


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = [name for name, *_ in describe_keys(model)]
        close = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {key!r}; {hint}valid keys: {', '.join(valid)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}={_cut(problem['input'])}: {message}" if key else message
