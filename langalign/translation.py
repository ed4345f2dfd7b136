"""T(d): texts into the target language, whoever translates; kept as it is made, and accounted for.

What a translator gave is on storage a few seconds later, each text under its own digest, so that a
run that was stopped asks, and pays, for nothing twice, and a larger run only for what is new.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from langalign.counterpart import Counterpart
from langalign.errors import TranslationError
from langalign.outputs import digest_of
from langalign.storage import Storage

__all__ = [
    "DictionaryTranslator",
    "Keep",
    "Translated",
    "TranslationRun",
    "Translator",
    "Usage",
    "translate_all",
]

# A process that is killed outright loses the answers of so many seconds.
WRITE_EVERY_S = 5.0
# Of fewer answers the share that is refused says little of all texts.
FEWEST_ANSWERS = 100


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
    """What came of one text: a translation, or None and the `refusal`; and what it took.

    A refusal that is not `is_paid` is asked for again by the next run.
    """

    text: str | None
    usage: Usage = Usage()
    refusal: str = ""
    is_paid: bool = True


Keep = Callable[[Sequence[tuple[str, Translated]]], None]
"""Takes texts with what came of them."""


class Translator(Protocol):
    """Anything that translates."""

    def identity(self) -> list[Any]:
        """Plain values that a translation depends on besides the text."""

    def translate(self, texts: Sequence[str], keep: Keep) -> None:
        """Hand every text with what came of it to `keep`, some at a time, in any order.

        Raises:
            TranslationError: it cannot go on; what was paid for has been handed over.
        """


class DictionaryTranslator:
    """The demo's: word by word into a counterpart language, exact and free."""

    def __init__(self, counterpart: Counterpart | None = None) -> None:
        self.counterpart = counterpart or Counterpart()

    def identity(self) -> list[Any]:
        """The language's properties."""
        own = self.counterpart
        return ["dictionary", own.script, own.lexicon, own.order, own.one_to_many, own.seed]

    def translate(self, texts: Sequence[str], keep: Keep) -> None:
        """All at once."""
        keep([(text, Translated(self.counterpart.translate(text))) for text in texts])


@dataclass(frozen=True)
class TranslationRun:
    """All translations in the order of the texts; None for the `refused`, which have reasons.

    `usage` is what they took in all, in earlier and interrupted runs too; `asked` is of this run.
    """

    texts: list[str | None]
    refused: dict[str, str]
    usage: Usage
    asked: int


def translate_all(
    translator: Translator,
    texts: Sequence[str],
    storage: Storage,
    *,
    part_texts: int = 200,
    refused_share: float = 0.05,
    report: Callable[[int, int, Usage], None] | None = None,
) -> TranslationRun:
    """Translate every distinct text once; answers are kept in parts at `translations/<digest>/`.

    `report(done, total, usage)` is called as answers come, in texts.

    Raises:
        TranslationError: the translator cannot go on, or more than `refused_share` of the texts
            are refused; what was paid for is kept.
    """
    wanted = list(dict.fromkeys(texts))
    folder = f"translations/{digest_of(*translator.identity())}/parts"
    kept = _Kept(storage, folder, wanted, part_texts)
    missing = [text for text in wanted if text not in kept.found]

    def keep(answers: Sequence[tuple[str, Translated]]) -> None:
        kept.add(answers)
        _check_refused(kept, len(wanted), refused_share)
        if report:
            report(len(kept.found), len(wanted), kept.usage)

    # Enough may have been refused before.
    keep([])
    try:
        if missing:
            translator.translate(missing, keep)
    finally:
        kept.write()
    return TranslationRun(
        [kept.found[text].text for text in texts], kept.refused, kept.usage, len(missing)
    )


@dataclass
class _Part:
    """Answers that are one object on storage, and the seconds of it that are accounted for."""

    answers: dict[str, Translated] = field(default_factory=dict)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    opened: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


class _Kept:
    """Answers to the texts of a job, those of earlier runs and those that come.

    `usage` is of all of them. A part is written again as it grows, and closed when it is full.
    """

    def __init__(
        self, storage: Storage, folder: str, texts: Sequence[str], part_texts: int
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.part_texts = part_texts
        self.found: dict[str, Translated] = {}
        self.refused: dict[str, str] = {}
        self.usage = Usage()
        by_digest = {digest_of(text): text for text in texts}
        for item in storage.list(folder):
            for entry in storage.read_json(item.key):
                if text := by_digest.get(entry["text"]):
                    usage = Usage(**entry["usage"])
                    self._take(text, Translated(entry["translation"], usage, entry["refusal"]))
        self._part = _Part()
        self._written = self._part.opened

    def add(self, answers: Sequence[tuple[str, Translated]]) -> None:
        """Take the answers that are new, and write them if it is time."""
        for text, answer in answers:
            # Handed over again where a run was interrupted in between.
            if text in self.found:
                continue
            if answer.is_paid:
                self._part.answers[text] = answer
            self._take(text, answer)
        is_full = len(self._part.answers) >= self.part_texts
        if is_full or time.monotonic() - self._written >= WRITE_EVERY_S:
            self.write()
        if is_full:
            self._part = _Part()

    def write(self) -> None:
        """Put the part on storage as it is; its seconds are shared out among its texts."""
        part, self._written = self._part, time.monotonic()
        if not part.answers:
            return
        seconds = self._written - part.opened
        self.usage += Usage(seconds=seconds - part.seconds)
        part.seconds = seconds
        share = round(seconds / len(part.answers), 6)
        entries = [
            {
                "text": digest_of(text),
                "translation": answer.text,
                "refusal": answer.refusal,
                "usage": asdict(replace(answer.usage, seconds=share)),
            }
            for text, answer in part.answers.items()
        ]
        self.storage.write_json(f"{self.folder}/{part.name}.json", entries)

    def _take(self, text: str, answer: Translated) -> None:
        self.found[text] = answer
        self.usage += answer.usage
        if answer.text is None:
            self.refused[text] = answer.refusal


def _check_refused(kept: _Kept, total: int, share: float) -> None:
    answers = max(len(kept.found), min(total, FEWEST_ANSWERS))
    if len(kept.refused) > share * answers:
        text, reason = next(iter(kept.refused.items()))
        raise TranslationError(
            f"{len(kept.refused)} of {len(kept.found)} texts were refused, more than "
            f"translator.refused_share={share:g} allows; of {text[:60]!r}: {reason}; change "
            f"translator.model or translator.prompt, or raise the share"
        )
