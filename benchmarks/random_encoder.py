"""Encoders with random weights, and sentences of mixed lengths: speed does not depend on more."""

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, XLMRobertaConfig

from langalign.counterpart import unpaired_texts
from langalign.pretraining import fast_tokenizer, train_tokenizer

__all__ = ["MAX_LENGTH", "SHAPES", "make_config", "make_tokenizer", "sentences"]

MAX_LENGTH = 128
# Layers, width, heads: the demo's encoder, and XLM-R base but for its vocabulary.
SHAPES = {"tiny": (3, 128, 4), "base": (12, 768, 12)}


def sentences(rows: int) -> list[str]:
    """Mixed lengths: one to six reviews joined, most of them short."""
    generator = np.random.default_rng(0)
    pool = unpaired_texts(20_000, 0, "en")
    counts = np.clip(generator.geometric(0.5, size=rows), 1, 6)
    picks = generator.integers(0, len(pool), size=(rows, 6))
    return [" ".join(pool[i] for i in row[:n]) for row, n in zip(picks, counts, strict=True)]


def make_tokenizer() -> PreTrainedTokenizerBase:
    """Trained on such sentences, 8,000 tokens."""
    return fast_tokenizer(train_tokenizer(sentences(5_000), 8000))


def make_config(
    size: str, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...] = ()
) -> XLMRobertaConfig:
    """Of the shape `size`; `labels` for a classifier."""
    layers, width, heads = SHAPES[size]
    named: dict[str, Any] = {}
    if labels:
        named["id2label"] = dict(enumerate(labels))
        named["label2id"] = {label: place for place, label in enumerate(labels)}
    return XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        **named,
    )
