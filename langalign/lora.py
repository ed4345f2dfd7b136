"""LoRA task adaptation (appendix G.1): a frozen encoder, low-rank updates of query and key."""

from dataclasses import dataclass

from langalign.encoder import SentenceEncoder
from langalign.loop import seed_everything

__all__ = ["LoraOptions", "add_lora", "merge_lora"]

# Attention projections by transformers' names in XLM-R and its relatives.
TARGETS = ("query", "key")


@dataclass(frozen=True)
class LoraOptions:
    """The paper's defaults: rank r, scaling alpha, dropout before the low-rank pair."""

    rank: int = 8
    alpha: int = 8
    dropout: float = 0.1
    seed: int = 0


def add_lora(encoder: SentenceEncoder, options: LoraOptions) -> None:
    """Freeze the encoder and put trainable low-rank pairs beside its query and key matrices."""
    # Here, since it takes seconds to import, and few processes adapt an encoder.
    from peft import LoraConfig, get_peft_model

    seed_everything(options.seed, 4)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(TARGETS),
        bias="none",
    )
    encoder.model = get_peft_model(encoder.model, config)


def merge_lora(encoder: SentenceEncoder) -> None:
    """Add the low-rank products to the matrices: an encoder of the plain kind is left."""
    encoder.model = encoder.model.merge_and_unload()  # type: ignore[operator]
