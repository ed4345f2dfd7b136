"""One forward pass for inputs of many models and languages; no Ray.

Inputs that share an encoder are embedded together, whatever model and language they are for; then
each row goes through its own aligner and head. Rows are sorted by length and cut where padding
would cost more than another forward pass.

Shapes: N rows of a batch, T tokens, D embedding width, C classes of a model.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from langalign.encoder import SentenceEncoder
from langalign.model import TextModel
from langalign.tokens import TokenizedText

__all__ = ["Engine", "FloatArray", "Rows"]

FloatArray = npt.NDArray[np.float32]
# About 5 ms of one core in fp32. Threads that share less wait for one another longer than they
# save where the cores have requests to read besides.
SMALL_FLOPS = 250e6
# About 50 ms of one core. Batches of several requests that are shorter leave a core to those that
# are being read: threads that share a pass wait for the slowest at every operation, so one that has
# lost its core for a moment held up all (timed by hand, a batch of 15 ms took 150
# to 250).
SHORT_FLOPS = 2.5e9


@dataclass(frozen=True)
class Rows:
    """Tokenised inputs of one request: one model, one side of its aligner."""

    model: TextModel
    of_target: bool
    tokens: TokenizedText

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def language(self) -> str:
        """Of the texts."""
        return self.model.target_language if self.of_target else self.model.source_language

    @property
    def token_count(self) -> int:
        """Tokens of all rows, without padding."""
        return int(self.tokens.offsets[-1] - self.tokens.offsets[0])

    def split(self, rows: int) -> tuple["Rows", "Rows"]:
        """The first `rows` of them, and the others."""
        ids, offsets, types = self.tokens.ids, self.tokens.offsets, self.tokens.types
        parts = (offsets[: rows + 1], offsets[rows:])
        first, rest = (TokenizedText(ids, part, types) for part in parts)
        return (
            Rows(self.model, self.of_target, first),
            Rows(self.model, self.of_target, rest),
        )

    def rows_within(self, budget: int) -> int:
        """How many of the first rows have at most `budget` tokens together."""
        ends = self.tokens.offsets[1:] - self.tokens.offsets[0]
        return int(np.searchsorted(ends, budget, side="right"))


class Engine:
    """Turns rows of any models into probabilities, with one forward pass for each encoder."""

    def __init__(self, *, forward_tokens: int = 2048, threads: int | None = None) -> None:
        """`forward_tokens` bounds the padded tokens of one forward pass.

        `threads` of the CPU share long work, one less shorter work, and small work needs one; None:
        as many as torch has now.
        """
        self.forward_tokens = forward_tokens
        self.threads = threads or torch.get_num_threads()

    def is_small(self, requests: Sequence[Rows]) -> bool:
        """Whether the CPU is done with them so soon that one thread does best."""
        # All encoders of a replica are on one device.
        return _flops(requests) <= SMALL_FLOPS and requests[0].model.encoder.device.type == "cpu"

    @torch.inference_mode()
    def run(self, requests: Sequence[Rows]) -> list[FloatArray]:
        """Probabilities (rows, C) of each request, in the order of its model's labels."""
        # Of the thread that calls: torch keeps a number for each, and new ones begin with the last.
        torch.set_num_threads(self._threads_for(requests))
        answers: dict[int, FloatArray] = {}
        for sharing in _groups([id(rows.model.encoder) for rows in requests]):
            members = [requests[number] for number in sharing]
            sizes = [len(rows) for rows in members]
            parts = self._embed(members).split(sizes)  # type: ignore[no-untyped-call]
            for alike in _groups([(id(rows.model), rows.of_target) for rows in members]):
                first = members[alike[0]]
                probabilities = first.model.classify(
                    torch.cat([parts[place] for place in alike]), of_target=first.of_target
                )
                ends = np.cumsum([len(members[place]) for place in alike])[:-1]
                for place, answer in zip(alike, np.split(probabilities, ends), strict=True):
                    answers[sharing[place]] = answer
        return [answers[number] for number in range(len(requests))]

    def _threads_for(self, requests: Sequence[Rows]) -> int:
        if self.is_small(requests):
            return 1
        if len(requests) > 1 and _flops(requests) <= SHORT_FLOPS:
            return max(1, self.threads - 1)
        return self.threads

    def _embed(self, requests: Sequence[Rows]) -> Tensor:
        """Embeddings (N, D) of requests that share an encoder, one after the other."""
        encoder: SentenceEncoder = requests[0].model.encoder
        tokens = _joined([rows.tokens for rows in requests])
        out = torch.empty((len(tokens), encoder.width), device=encoder.device)
        for rows in encoder.batches(tokens, self.forward_tokens):
            out[torch.from_numpy(rows)] = encoder(*encoder.batch(tokens, rows))
        return out


def _flops(requests: Sequence[Rows]) -> float:
    return sum(rows.token_count * _token_flops(rows.model.encoder) for rows in requests)


def _token_flops(encoder: SentenceEncoder) -> float:
    """Of the products with weights, where the inner width is the usual four times the outer."""
    return float(24 * encoder.config.num_hidden_layers * encoder.width**2)


def _groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """The places of equal keys, together."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return list(places.values())


def _joined(parts: Sequence[TokenizedText]) -> TokenizedText:
    """All sentences of all parts; a part may be a window into longer arrays of ids."""
    if len(parts) == 1:
        return parts[0]
    windows = [slice(int(part.offsets[0]), int(part.offsets[-1])) for part in parts]
    lengths = np.concatenate([part.lengths() for part in parts])
    types = [
        part.types[window]
        for part, window in zip(parts, windows, strict=True)
        if part.types is not None
    ]
    return TokenizedText(
        np.concatenate([part.ids[window] for part, window in zip(parts, windows, strict=True)]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate(types) if types else None,
    )
