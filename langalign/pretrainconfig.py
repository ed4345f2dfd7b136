"""Keys of `jobs/pretrain.py`: the texts, the dictionary, and the encoder's shape."""

from typing import Self

from pydantic import Field, model_validator

from langalign.config import Section

__all__ = ["PretrainConfig"]


class PretrainConfig(Section):
    """Texts of two languages to a small encoder; no text need translate another."""

    out: str = Field("encoder", description="new folder for encoder and tokenizer")
    seed: int = Field(0, ge=0, description="seeds weights, order and masks")
    source: str = Field(
        "demo",
        description="texts: lines of a .txt file, or rows of any file, folder, s3://…, hub:…",
    )
    target: str = Field("demo", description="texts of the other language, in the same ways")
    column: str = Field("text", description="column of the texts, where they are rows")
    texts: int | None = Field(None, gt=1, description="use at most this many of each language")
    dictionary: str | None = Field(
        None, description="word pairs, a tab between the two; the demo has one of its own"
    )
    align_weight: float = Field(
        0.0, ge=0, description="weight of ALIGN-MLM's loss on the dictionary; 0: plain masked LM"
    )
    mlm_steps: int = Field(200, ge=0, description="batches of masked LM alone, first")
    contrastive_steps: int = Field(
        350, ge=0, description="batches that also tell the halves of texts apart"
    )
    batch_size: int = Field(96, gt=1, description="texts of a batch, all of one language")
    max_length: int = Field(64, ge=8, le=256, description="longer texts are cut, in tokens")
    vocab_size: int = Field(8000, gt=100, description="tokens of both languages together")
    hidden_size: int = Field(128, gt=0, description="width of the embeddings")
    layers: int = Field(3, gt=0, description="of the encoder")
    heads: int = Field(4, gt=0, description="attention heads; hidden_size is a multiple of them")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW, after warm-up falling to 0")

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of {self.heads}")
        if not self.mlm_steps + self.contrastive_steps:
            raise ValueError("mlm_steps and contrastive_steps are both 0; give one of them")
        if (self.source == "demo") != (self.target == "demo"):
            raise ValueError("source and target are both `demo`, or both of your own")
        if self.align_weight and self.source != "demo" and not self.dictionary:
            raise ValueError(f"align_weight={self.align_weight:g} needs a dictionary of word pairs")
        return self
