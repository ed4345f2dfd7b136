"""Tiny random transformers encoders, made on the spot."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from langalign import counterpart
from langalign.pretraining import train_tokenizer

WIDTH = 32
POSITIONS = 66  # of an XLM-R shape, which numbers them from 2: 64 tokens
TEXTS = [
    "a good film",
    "the plot was dull, and the end was worse",
    "",
    "well made",
    "i liked it. " * 20,
]


def write_encoder(folder: Path, kind: str = "xlmr") -> Path:
    """An `xlmr` (one token type) or a `bert` (two) with seeded random weights."""
    tokenizer = train_tokenizer(counterpart.unpaired_texts(50, 0, "en"), 400)
    vocabulary = tokenizer.get_vocab_size()
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    if kind == "bert":
        model = BertModel(BertConfig(**shape, type_vocab_size=2))
    else:
        model = XLMRobertaModel(XLMRobertaConfig(**shape, type_vocab_size=1))
    model.save_pretrained(folder)
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        mask_token="<mask>",
        **{f"{role}_token": token for role, token in names.items()},
    )
    fast.save_pretrained(folder)
    return folder
