"""Encoders with random weights, and sentences of mixed lengths: speed does not depend on more."""

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, XLMRobertaConfig

from langalign.counterpart import unpaired_texts
from langalign.pretraining import fast_tokenizer, train_tokenizer

__all__ = [
    "MAX_LENGTH",
    "SHAPES",
    "make_config",
    "make_tokenizer",
    "sentences",
    "sentences_as_long_as_real_ones",
]

MAX_LENGTH = 128
# Layers, width, heads: the demo's encoder, and XLM-R base but for its vocabulary.
SHAPES = {"tiny": (3, 128, 4), "base": (12, 768, 12)}
# Words of the 872 sentences of SST-2's validation set (film reviews): such a share has at most so
# many.
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
WORDS = (2, 9, 11, 14, 16, 19, 21, 24, 27, 32, 34, 42, 47)


def sentences(rows: int) -> list[str]:
    """Mixed lengths: one to six reviews joined, most of them short."""
    generator = np.random.default_rng(0)
    pool = unpaired_texts(20_000, 0, "en")
    counts = np.clip(generator.geometric(0.5, size=rows), 1, 6)
    picks = generator.integers(0, len(pool), size=(rows, 6))
    return [" ".join(pool[i] for i in row[:n]) for row, n in zip(picks, counts, strict=True)]


def sentences_as_long_as_real_ones(rows: int) -> list[str]:
    """Words of generated reviews, as many in each text as real sentences have."""
    generator = np.random.default_rng(0)
    words = " ".join(unpaired_texts(20_000, 0, "en")).split()
    counts = np.rint(np.interp(generator.random(rows), SHARES, WORDS)).astype(int)
    starts = generator.integers(0, len(words) - max(WORDS), size=rows)
    return [
        " ".join(words[start : start + count]) for start, count in zip(starts, counts, strict=True)
    ]


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
