"""Typed configuration: every key of the jobs with type, default, bounds and meaning.

`configfile.py` fills the models from a file and the command line and lists their keys. Units
stand in the names (`_s`) or in the descriptions. Only builders (`cluster/`, `jobs/`) read these
models; classes and functions of `langalign/` take plain arguments.

The defaults are the paper's (Table 2, Listings 1 and 2, section 3.4.4) where it speaks with one
voice. It contradicts itself on learning rates: see `TuneConfig` and `AlignerConfig`.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AlignerConfig",
    "ClusterConfig",
    "CompareConfig",
    "DataConfig",
    "EncoderConfig",
    "HeadConfig",
    "PipelineConfig",
    "ScoreConfig",
    "Section",
    "TaskConfig",
    "TuneConfig",
]

AlignerKind = Literal[
    "fc", "ae", "linear", "procrustes", "procrustes-uncentred", "residual", "none"
]
Method = Literal["english", "translated", "native", "omission"]
Step = Literal["prepare", "tune", "embed", "align", "head"]
Precision = Literal["fp32", "bf16", "fp16"]

TABLE2_RATES = {"tune": 1e-4, "aligner": 1e-5, "head": 1e-4}


class Section(BaseModel):
    """Keys that belong together; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskConfig(Section):
    """What is predicted from which columns."""

    name: str = Field("sentiment", description="preset `sentiment` or `nli`, or a name of yours")
    text: str | None = Field(None, description="column of the text (or premise); preset's if unset")
    text_pair: str | None = Field(None, description="column of the second text of a pair task")
    label: str | None = Field(None, description="column of the label")
    labels: list[str] | None = Field(None, description="label names, in the order of their ints")
    metric: Literal["f1", "accuracy", "macro_f1"] | None = Field(
        None, description="score that is reported; f1 takes the second label as positive"
    )


class DataConfig(Section):
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


class EncoderConfig(Section):
    """The multilingual language model and how a sentence embedding is read off it."""

    name: str = Field(
        "FacebookAI/xlm-roberta-base", description="hub name, local folder, or `demo`"
    )
    revision: str | None = Field(None, description="hub commit or tag to pin")
    pooling: Literal["cls", "mean"] = Field("cls", description="first token, or mean of all tokens")
    max_length: int = Field(256, ge=8, description="longer inputs are cut, in tokens")
    precision: Precision = Field("fp32", description="arithmetic of the frozen encoder")
    batch_tokens: int | None = Field(
        None, ge=64, description="padded tokens of an encoder batch; unset: by device"
    )


class TuneConfig(Section):
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


class AlignerConfig(Section):
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
    identity_weight: float = Field(1.0, gt=0, description="weight of their squared error")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW (Listings 1 and 2)")
    batch_size: int = Field(16, gt=0, description="pairs a step over all workers (Table 2)")
    max_epochs: int = Field(100, gt=0, description="passes over the pairs at most")
    patience: int = Field(10, gt=0, description="stop after so many epochs without a lower MSE")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")


class HeadConfig(Section):
    """Step 3: a new task head on the aligned English embeddings."""

    train: list[Literal["head", "aligner", "encoder"]] = Field(
        ["head"], description="what trains in step 3; `encoder` embeds again every epoch"
    )
    residuals: bool = Field(
        False,
        description="move each English row by what A leaves of some translated pair: our addition "
        "to the paper (docs/method.md)",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="before both layers of the head")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW (Table 2)")
    batch_size: int = Field(16, gt=0, description="rows a step over all workers (Table 2)")
    max_epochs: int = Field(100, gt=0, description="passes over the rows at most")
    patience: int = Field(10, gt=0, description="stop after so many epochs without a better score")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")


class CompareConfig(Section):
    """What is trained beside the chosen model, for the table."""

    methods: list[Method] = Field(
        ["english", "translated", "native", "omission"],
        description="baselines; those without rows are left out, and the table says so",
    )
    aligners: list[AlignerKind] = Field(
        ["linear", "procrustes"], description="further aligner kinds, scored as LangAlign is"
    )


class ActorsConfig(Section):
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
    max_failures: int = Field(
        3,
        ge=-1,
        description="worker restarts a run of Ray Train (steps 2 and 3 are one); -1: without limit",
    )
    checkpoint_interval_s: float = Field(
        30.0, ge=0, description="seconds between checkpoints of a step, at the end of an epoch"
    )


class PipelineConfig(Section):
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

    @model_validator(mode="before")
    @classmethod
    def _preset_rates(cls, values: dict[str, Any]) -> dict[str, Any]:
        """With `preset: table2`, its learning rates where none is given."""
        if values.get("preset") != "table2":
            return values
        values = dict(values)
        for section, rate in TABLE2_RATES.items():
            given = values.get(section) or {}
            # Anything but a mapping is left for validation to name.
            if isinstance(given, dict):
                values[section] = {"learning_rate": rate, **given}
        return values

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if "head" not in self.head.train or len(set(self.head.train)) < len(self.head.train):
            raise ValueError(f"head.train={self.head.train} must hold `head`, and nothing twice")
        if self.aligner.direction == "reverse" and set(self.head.train) != {"head"}:
            raise ValueError(
                "aligner.direction=reverse keeps encoder and aligner out of step 3: "
                "set head.train=[head]"
            )
        if self.head.residuals and self.head.train != ["head"]:
            raise ValueError(
                f"head.residuals moves the inputs of a frozen aligner, and head.train="
                f"{self.head.train}: set head.train=[head] or head.residuals=false"
            )
        for section in ("tune", "aligner", "head"):
            batch = getattr(self, section).batch_size
            if batch % self.cluster.workers:
                raise ValueError(
                    f"{section}.batch_size={batch} is shared by cluster.workers="
                    f"{self.cluster.workers} and must be a multiple of it"
                )
        return self


class ScoredRowsConfig(Section):
    """How the rows to score are written; unset: as the model's training rows were."""

    text: str | None = Field(None, description="column of the text (or premise)")
    text_pair: str | None = Field(None, description="column of the second text of a pair task")
    label: str | None = Field(None, description="column of the label")
    labels: list[str] | None = Field(
        None, description="the rows' names for the model's labels, in the model's order"
    )


class ScoreConfig(Section):
    """A published model and labelled rows to score it on."""

    model: str = Field(
        "demo", description="name under storage, or ROOT/models/NAME[/VERSION], a folder or s3://"
    )
    version: str = Field("latest", description="model version")
    service: str | None = Field(
        None, description="URL of a service to ask instead; its key is in LANGALIGN_API_KEY"
    )
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
