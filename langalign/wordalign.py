"""ALIGN-MLM's auxiliary loss: words that translate each other get similar word embeddings.

Tang, Deshpande and Narasimhan (2022) add -w times the cosine of the input embeddings of every
dictionary pair to the masked LM loss, as a sum; here it is their mean, so that w does not depend on
the size of the dictionary.

Shapes: V tokens of the vocabulary, D width, P dictionary pairs.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from langalign.alignment import cosine, retrieval
from langalign.errors import DataError

__all__ = ["alignment_loss", "dictionary_ids", "word_alignment"]

_EMBEDDINGS = "embeddings.word_embeddings.weight"


def dictionary_ids(tokenizer: Tokenizer, dictionary: Iterable[tuple[str, str]]) -> Tensor:
    """Token ids (P, 2) of the pairs of which both words are a token of their own.

    Raises:
        DataError: none is.
    """
    found = []
    for pair in dictionary:
        ids = [tokenizer.encode(word, add_special_tokens=False).ids for word in pair]
        if all(len(each) == 1 for each in ids):
            found.append([each[0] for each in ids])
    if not found:
        raise DataError(
            "no pair of the dictionary is a pair of single tokens; raise vocab_size, or give words "
            "of the texts"
        )
    return torch.tensor(found)


def alignment_loss(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Minus the mean cosine of the pairs (P, 2) by embeddings (V, D)."""
    return -F.cosine_similarity(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]).mean()


def word_alignment(folder: Path, dictionary: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Cosine and retrieval of the dictionary's word embeddings in an encoder's folder."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pairs = dictionary_ids(tokenizer, dictionary)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        embeddings = file.get_tensor(_EMBEDDINGS).float()
    sides = [embeddings[pairs[:, side]].numpy() for side in (0, 1)]
    forward, backward = retrieval(*sides)
    return {
        "cosine": cosine(*sides),
        "retrieval_forward": forward,
        "retrieval_backward": backward,
    }
