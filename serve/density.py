"""How many tokens texts will have by their number of characters, before they are tokenised."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["TokenDensity"]

# What is older than about so many characters of a language counts half and less.
MEMORY_CHARACTERS = 1_000_000


@dataclass
class _Seen:
    tokens: float = 0.0
    characters: float = 0.0


class TokenDensity:
    """Tokens a character of each language, as texts before had them."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = defaultdict(_Seen)

    def saw(self, language: str, *, characters: int, tokens: int) -> None:
        """Learn from texts that are tokenised."""
        seen = self._seen[language]
        if seen.characters > MEMORY_CHARACTERS:
            seen.tokens, seen.characters = seen.tokens / 2, seen.characters / 2
        seen.tokens += tokens
        seen.characters += characters

    def tokens(self, language: str, lengths: Iterable[int], *, max_length: int) -> int:
        """Expected of texts with so many characters, of which no one has more than `max_length`
        tokens; 0 before any were seen.
        """
        seen = self._seen[language]
        if not seen.characters:
            return 0
        density = seen.tokens / seen.characters
        return round(sum(min(max_length, length * density) for length in lengths))
