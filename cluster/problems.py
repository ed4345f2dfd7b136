"""What `python -m cluster check` finds: a mistake with its place, and the words for it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Problem", "closest"]


@dataclass(frozen=True)
class Problem:
    """One mistake: the file, the path of the key in it, and value, rule and remedy in a line.

    File and key are empty where the message names them itself, or the whole file is meant.
    """

    file: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.file, self.key, self.message]))


def closest(word: str, words: Iterable[str]) -> str:
    """` (did you mean …?)`, or nothing where no word is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
