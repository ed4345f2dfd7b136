"""Sections of a benchmark's configuration: its steps, its translator, its prices, its processes."""

from pydantic import Field

from langalign.config import Section
from langalign.counterpart import Order

__all__ = [
    "AlignStepConfig",
    "ColumnsConfig",
    "CostsConfig",
    "CounterpartConfig",
    "GroupsConfig",
    "LocalConfig",
    "LoraConfig",
    "SimcseConfig",
]


class ColumnsConfig(Section):
    """How target-language rows differ from the English ones; unset: they do not."""

    text: str | None = Field(None, description="column of the text (or premise)")
    text_pair: str | None = Field(None, description="column of the second text of a pair task")
    label: str | None = Field(None, description="column of the label")
    labels: list[str] | None = Field(
        None, description="the task's label names in the order of these rows' ints"
    )


class CounterpartConfig(Section):
    """The demo's second language: its properties switched one by one, as ALIGN-MLM does.

    `align_weight` is that of ALIGN-MLM's loss when the demo's encoder is pre-trained on it.
    """

    script: bool = Field(True, description="Georgian letters; false: Latin ones")
    lexicon: bool | None = Field(
        None, description="made-up words; false: the English ones; unset: as `script` says"
    )
    order: Order = Field("verb_final", description="same, inverted, or verb_final")
    one_to_many: float = Field(0.15, ge=0, le=1, description="share of words with two senses")
    align_weight: float = Field(
        0.0, ge=0, description="0: plain masked LM; the preset benchmark-align-mlm takes 10"
    )


class AlignStepConfig(Section):
    """Step 2, for every kind: their shapes are the paper's listings."""

    identity_pairs: bool = Field(True, description="also train target to target (section 3.2)")
    learning_rate: float = Field(1e-4, gt=0, description="AdamW (Listings 1 and 2)")
    batch_size: int = Field(16, gt=0, description="pairs a step (Table 2)")
    max_epochs: int = Field(100, gt=0, description="passes over the pairs at most")
    patience: int = Field(10, gt=0, description="stop after so many epochs without a lower MSE")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")


class LoraConfig(Section):
    """LoRA task adaptation (appendix G.1), on translated rows; the rest is as in `tune`."""

    rank: int = Field(8, gt=0, description="rank of the updates of query and key")
    alpha: int = Field(8, gt=0, description="scaling")
    dropout: float = Field(0.1, ge=0, lt=1, description="before the low-rank pair")
    learning_rate: float = Field(1e-5, gt=0, description="AdamW")
    max_epochs: int = Field(20, gt=0, description="passes over the rows at most")


class SimcseConfig(Section):
    """Unsupervised SimCSE (appendix G.2) on translated rows, before step 1 on them."""

    learning_rate: float = Field(1e-5, gt=0, description="AdamW")
    batch_size: int = Field(16, gt=1, description="texts that are contrasted with one another")
    max_epochs: int = Field(10, gt=0, description="passes over the texts")
    temperature: float = Field(0.05, gt=0, description="of the similarities")
    dropout: float = Field(0.1, gt=0, lt=1, description="noise between the two views of a text")


class LocalConfig(Section):
    """A local translation model, fine-tuned on the pairs (NMT mT5 of section 3.4.3)."""

    model: str = Field(
        "google/mt5-base", description="hub name, local folder, or `demo`: a tiny one"
    )
    revision: str | None = Field(None, description="hub commit or tag to pin")
    prefix: str = Field(
        "", description="before each text, as `Translate into {language}: `, which is put in"
    )
    max_length: int = Field(128, ge=8, description="longer texts are cut, in tokens")
    learning_rate: float = Field(1e-5, gt=0, description="AdamW (Table 2)")
    batch_size: int = Field(8, gt=0, description="pairs a step (Table 2)")
    max_epochs: int = Field(20, gt=0, description="passes over the pairs at most")
    patience: int = Field(10, gt=0, description="stop after so many epochs without a lower loss")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")


class CostsConfig(Section):
    """Assumptions, to be replaced by your own: prices in one currency, seconds of work."""

    currency: str = Field("USD", description="of all prices")
    english_row: float = Field(0.0, ge=0, description="price of a labelled English row")
    native_row: float = Field(0.1, ge=0, description="price of a row written and labelled anew")
    native_row_s: float = Field(30.0, ge=0, description="seconds of a person's work on it")
    translated_row: float = Field(
        0.002, ge=0, description="price of a translation; jobs/translate.py measures it"
    )
    translated_row_s: float = Field(0.3, ge=0, description="seconds for it, calls side by side")
    machine_h: float = Field(0.2, ge=0, description="price of an hour of the machine that trains")


class GroupsConfig(Section):
    """How the grid is spread over Ray: a process holds one tuned encoder and all its cells."""

    address: str | None = Field(None, description="Ray cluster; unset: RAY_ADDRESS, else local")
    cpus_per_group: float = Field(1, gt=0, description="CPU cores of such a process")
    gpus_per_group: float = Field(0, ge=0, description="GPUs of such a process")
    max_failures: int = Field(2, ge=0, description="restarts of a process that died")
    shard_rows: int = Field(4096, gt=0, description="rows of a shard of prepared data")
