"""Answers to inputs seen before; off unless `cache_rows` says how many to keep."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serve.engine import Rows

__all__ = ["AnswerCache", "cache_keys"]

FloatArray = npt.NDArray[np.float32]
Key = tuple[str, bool, bytes]


class AnswerCache:
    """Probabilities of rows seen lately, by `cache_keys`."""

    def __init__(self, rows: int) -> None:
        """Holds at most `rows` rows; the one used longest ago goes first."""
        self._most = rows
        self._rows: OrderedDict[Key, FloatArray] = OrderedDict()

    def find(self, keys: Sequence[Key]) -> FloatArray | None:
        """Probabilities (rows, C), or None if one row is missing."""
        found = []
        for key in keys:
            if key not in self._rows:
                return None
            self._rows.move_to_end(key)
            found.append(self._rows[key])
        return np.stack(found)

    def keep(self, keys: Sequence[Key], probabilities: FloatArray) -> None:
        """Remember the answers (rows, C)."""
        for key, answer in zip(keys, probabilities, strict=True):
            self._rows[key] = answer.copy()
            self._rows.move_to_end(key)
        while len(self._rows) > self._most:
            self._rows.popitem(last=False)


def cache_keys(rows: Rows, version: str) -> list[Key]:
    """A key for each row: model version, side of the aligner, token ids and types."""
    ids, types = rows.tokens.ids, rows.tokens.types
    keys = []
    for start, end in itertools.pairwise(rows.tokens.offsets.tolist()):
        content = ids[start:end].tobytes() + (b"" if types is None else types[start:end].tobytes())
        keys.append((version, rows.of_target, content))
    return keys
