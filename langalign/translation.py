"""T(d): texts into the target language, whoever translates; kept as it is made, and accounted for.

A translator is asked for a few texts at a time. What it gave is on storage before the next ones, so
that a run that was stopped asks, and pays, for nothing twice.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from langalign.counterpart import Counterpart
from langalign.errors import TranslationError
from langalign.outputs import digest_of
from langalign.storage import Storage

__all__ = [
    "DictionaryTranslator",
    "Translated",
    "TranslationRun",
    "Translator",
    "Usage",
    "translate_all",
]


@dataclass(frozen=True)
class Usage:
    """What translations took: calls and tokens as the service counts them, and seconds."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )

    def money(self, prompt_price: float, completion_price: float) -> float:
        """In the currency of the prices, which are for a million tokens."""
        prompt = self.prompt_tokens * prompt_price
        return (prompt + self.completion_tokens * completion_price) / 1e6


@dataclass(frozen=True)
class Translated:
    """One translation, and what it took."""

    text: str
    usage: Usage = Usage()


class Translator(Protocol):
    """Anything that translates."""

    def identity(self) -> list[Any]:
        """Plain values that a translation depends on besides the text."""

    def translate(self, texts: Sequence[str]) -> list[Translated]:
        """One translation for each text, in their order.

        Raises:
            TranslationError: one of them cannot be had.
        """


class DictionaryTranslator:
    """The demo's: word by word into a counterpart language, exact and free."""

    def __init__(self, counterpart: Counterpart | None = None) -> None:
        self.counterpart = counterpart or Counterpart()

    def identity(self) -> list[Any]:
        """The language's properties."""
        own = self.counterpart
        return ["dictionary", own.script, own.order, own.one_to_many, own.seed]

    def translate(self, texts: Sequence[str]) -> list[Translated]:
        """One translation for each text."""
        return [Translated(self.counterpart.translate(text)) for text in texts]


@dataclass(frozen=True)
class TranslationRun:
    """All translations in the order of the texts.

    `usage` is what they took in all, those of earlier runs included; `asked` is of this run.
    """

    texts: list[str]
    usage: Usage
    asked: int


def translate_all(
    translator: Translator,
    texts: Sequence[str],
    storage: Storage,
    *,
    chunk_texts: int = 200,
    report: Callable[[int, int, Usage], None] | None = None,
) -> TranslationRun:
    """Translate every distinct text once; each chunk is kept at `translations/<digest>/`.

    `report(done, total, usage)` is called after each chunk, in texts.

    Raises:
        TranslationError: a text cannot be translated; what is done is kept.
    """
    wanted = list(dict.fromkeys(texts))
    folder = f"translations/{digest_of(*translator.identity())}"
    found: dict[str, str] = {}
    usage, asked = Usage(), 0
    for chunk in _chunks(wanted, chunk_texts):
        key = f"{folder}/{digest_of(*chunk)}.json"
        if not storage.exists(key):
            storage.write_json(key, _ask(translator, chunk))
            asked += len(chunk)
        kept = storage.read_json(key)
        found |= dict(zip(chunk, kept["translations"], strict=True))
        usage += Usage(**kept["usage"])
        if report:
            report(len(found), len(wanted), usage)
    return TranslationRun([found[text] for text in texts], usage, asked)


def _ask(translator: Translator, chunk: Sequence[str]) -> dict[str, Any]:
    start = time.monotonic()
    translated = translator.translate(chunk)
    usage = Usage(seconds=round(time.monotonic() - start, 3))
    for text, each in zip(chunk, translated, strict=True):
        if not each.text.strip():
            raise TranslationError(
                f"the translation of {text[:60]!r} is empty; change translator.prompt or the model"
            )
        usage += each.usage
    return {"translations": [each.text for each in translated], "usage": asdict(usage)}


def _chunks(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))
