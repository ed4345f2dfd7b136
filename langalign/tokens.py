"""Tokenising with the encoder's own fast tokenizer, apart from the model so that it needs no torch.

Shapes: N sentences, B rows of a batch, T tokens.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from langalign.errors import EncoderError

__all__ = ["TextTokenizer", "TokenizedText", "length_batches"]

IntArray = npt.NDArray[np.int64]
TokenArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenizedText:
    """Token ids of N sentences end to end: sentence i is ids[offsets[i]:offsets[i + 1]].

    `types` is None unless the model tells the two texts of a pair apart by token type.
    """

    ids: TokenArray
    offsets: IntArray
    types: TokenArray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> IntArray:
        """Tokens of each sentence (N,)."""
        return self.offsets[1:] - self.offsets[:-1]

    def followed_by(self, other: "TokenizedText") -> "TokenizedText":
        """These sentences and then those of `other`."""
        both_typed = self.types is not None and other.types is not None
        return TokenizedText(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            np.concatenate([self.types, other.types]) if both_typed else None,
        )

    def padded(self, rows: IntArray, pad: int) -> dict[str, npt.NDArray[Any]]:
        """Some sentences as `ids`, `mask` and (if there are any) `types`, each (B, T) int64."""
        starts, lengths = self.offsets[rows], self.lengths()[rows]
        columns = np.arange(int(lengths.max()))
        mask = columns < lengths[:, None]
        places = np.where(mask, starts[:, None] + columns, 0)
        arrays = {"ids": np.where(mask, self.ids[places], pad).astype(np.int64)}
        arrays["mask"] = mask.astype(np.int64)
        if self.types is not None:
            arrays["types"] = np.where(mask, self.types[places], 0).astype(np.int64)
        return arrays


class TextTokenizer:
    """A `tokenizers` tokenizer that cuts at `max_length` tokens and pads nothing."""

    def __init__(self, backend: Tokenizer, *, max_length: int, has_types: bool) -> None:
        self.backend = backend
        self.max_length = max_length
        self.has_types = has_types
        backend.no_padding()
        backend.enable_truncation(max_length=max_length)

    @classmethod
    def from_folder(cls, folder: Path, *, max_length: int) -> "TextTokenizer":
        """Read tokenizer.json and config.json of a transformers folder.

        Raises:
            EncoderError: one of the files is missing.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        except OSError as error:
            raise EncoderError(
                f"{folder} has no readable {Path(error.filename).name}; an encoder needs a fast "
                f"tokenizer (tokenizer.json) and a config.json"
            ) from error
        has_types = config.get("type_vocab_size", 1) > 1
        return cls(Tokenizer.from_str(text), max_length=max_length, has_types=has_types)

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None
    ) -> TokenizedText:
        """Token ids, special tokens included, of texts or of (text, pair) inputs."""
        inputs: list[Any] = list(texts)
        if pairs is not None and any(pair is not None for pair in pairs):
            inputs = list(zip(texts, pairs, strict=True))
        encoded = self.backend.encode_batch_fast(inputs)
        lengths = [len(row) for row in encoded]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        types = _end_to_end([row.type_ids for row in encoded]) if self.has_types else None
        return TokenizedText(_end_to_end([row.ids for row in encoded]), offsets, types)


def length_batches(lengths: IntArray, batch_tokens: int, call_tokens: int) -> list[IntArray]:
    """Cut rows, longest first, into batches of at most `batch_tokens` padded tokens.

    A batch also ends where its padding has cost `call_tokens` tokens, about what one more call of
    the model costs: one long row never pads many short ones. Longest first, so that the largest
    allocation comes first and an out-of-memory error shows at once. A row longer than the budget
    is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start, padding = 0, 0
    for place, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[start]])
        padding += longest - length
        if place > start and (
            padding > call_tokens or (place - start + 1) * longest > batch_tokens
        ):
            batches.append(order[start:place])
            start, padding = place, 0
    if len(order):
        batches.append(order[start:])
    return batches


def _end_to_end(rows: list[list[int]]) -> TokenArray:
    if not rows:
        return np.zeros(0, dtype=np.int32)
    return np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
