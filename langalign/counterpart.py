"""The demo's bilingual corpus: English reviews with labels, and an exact counterpart language.

As in ALIGN-MLM (Tang, Deshpande and Narasimhan, 2022) the second language is made from the first
by changing chosen properties (script, word order, lexicon), so the true translation is known.
Languages are named by code: `en`, and `xc` for the counterpart (a private code).
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, get_args

import pyarrow as pa

from langalign.errors import ConfigError
from langalign.lexicon import (
    ADJECTIVES,
    ADVERBS,
    CLOSINGS,
    CONJUNCTIONS,
    DEGREES,
    DOMAINS,
    EFFECTS,
    FEELINGS,
    FILLERS,
    NOUNS,
    PERSONS,
    PLACES,
    TIMES,
    VERBAL,
    Domain,
)
from langalign.spelling import hash_of, own_word, transliterated

__all__ = [
    "COUNTERPART",
    "ENGLISH",
    "Counterpart",
    "Language",
    "Order",
    "Review",
    "Split",
    "dictionary",
    "labelled_table",
    "parallel_table",
    "reviews",
    "unpaired_texts",
]

Language = Literal["en", "xc"]
Order = Literal["same", "inverted", "verb_final"]
Split = Literal["train", "native", "parallel", "validation", "test", "unpaired_en", "unpaired_xc"]

ENGLISH: Final = "en"
COUNTERPART: Final = "xc"

# A text's hash modulo 16 names the split it belongs to, so splits are disjoint for every seed.
_SPLIT_OF: Final[tuple[Split, ...]] = (
    *("unpaired_en",) * 4,
    *("unpaired_xc",) * 4,
    *("train",) * 3,
    *("native",) * 2,
    "parallel",
    "validation",
    "test",
)


@dataclass(frozen=True)
class Review:
    """One English review; `label` is 0 (negative) or 1 (positive)."""

    text: str
    label: int


class _Writer:
    """Writes reviews; every random choice comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.pick = rng.choice
        self.clauses: tuple[Callable[[Domain, int], str], ...] = (
            self._described,
            self._described,
            self._felt,
            self._affected,
            self._made,
            self._called,
        )

    def review(self, label: int) -> str:
        """Two or three opinions that agree on `label`, filler among them, sometimes a closing.

        Half of the opinions stray to another domain: were the domain all that the halves of a
        review share, contrastive pre-training would learn topics and no polarity.
        """
        domain = self.pick(DOMAINS)
        sentences = [
            self._opinion(domain if self.rng.random() < 0.5 else self.pick(DOMAINS), label)
            for _ in range(self.pick((2, 3, 3)))
        ]
        if self.rng.random() < 0.25:
            sentences.insert(self.rng.randrange(len(sentences) + 1), self._filler(domain))
        if self.rng.random() < 0.15:
            sentences.append(self.pick(CLOSINGS[label]))
        return " ".join(f"{sentence}." for sentence in sentences)

    def _opinion(self, domain: Domain, label: int) -> str:
        """One sentence; where it holds a contrast, its later clause agrees with `label`."""
        clause = self.pick(self.clauses)(domain, label)
        draw = self.rng.random()
        if draw > 0.15:
            return clause
        conceded = self.pick(self.clauses)(domain, 1 - label)
        return f"although {conceded}, {clause}" if draw < 0.05 else f"{conceded} but {clause}"

    def _negated(self) -> bool:
        return self.rng.random() < 0.12

    def _adjective(self, domain: Domain, label: int) -> str:
        pool = domain.adjectives if self.rng.random() < 0.3 else ADJECTIVES
        return self.pick(pool[label])

    def _described(self, domain: Domain, label: int) -> str:
        negated = self._negated()
        adjective = self._adjective(domain, 1 - label if negated else label)
        degree = f"{self.pick(DEGREES)} " if self.rng.random() < 0.25 else ""
        verb = "was not" if negated else "was"
        return f"the {self.pick(domain.aspects)} {verb} {degree}{adjective}"

    def _felt(self, domain: Domain, label: int) -> str:
        aspect = self.pick(domain.aspects)
        if self._negated():
            return f"i did not {self.pick(FEELINGS[1 - label])[1]} the {aspect}"
        return f"i {self.pick(FEELINGS[label])[0]} the {aspect}"

    def _affected(self, domain: Domain, label: int) -> str:
        aspect, person = self.pick(domain.aspects), self.pick(("me", "us", "everyone"))
        if self._negated():
            return f"the {aspect} did not {self.pick(EFFECTS[1 - label])[1]} {person}"
        return f"the {aspect} {self.pick(EFFECTS[label])[0]} {person}"

    def _made(self, domain: Domain, label: int) -> str:
        adverb, made = self.pick(ADVERBS[label]), self.pick(domain.made)
        return f"the {self.pick(domain.aspects)} was {adverb} {made}"

    def _called(self, domain: Domain, label: int) -> str:
        aspect = self.pick(domain.aspects)
        if self._negated():
            return f"the {aspect} was never a {self.pick(NOUNS[1 - label])}"
        return f"the {aspect} was a {self.pick(NOUNS[label])}"

    def _filler(self, domain: Domain) -> str:
        return str(self.pick(FILLERS)).format(
            person=self.pick(PERSONS),
            aspect=self.pick(domain.aspects),
            time=self.pick(TIMES),
            place=self.pick(PLACES),
            number=self.rng.randrange(10, 100),
        )


def reviews(rows: int, seed: int, split: Split = "train") -> Iterator[Review]:
    """Yields `rows` reviews with distinct texts, labels 0 and 1 in turn.

    No text of one split is in another, whatever the seeds. Raises ConfigError for an unknown
    split or a negative number of rows.
    """
    if split not in get_args(Split):
        raise ConfigError(f"split {split!r} is unknown: use one of {', '.join(get_args(Split))}")
    if rows < 0:
        raise ConfigError(f"rows {rows} is negative: ask for 0 or more reviews")
    # A string seeds Random through sha512, the same in every process and version.
    writer = _Writer(random.Random(f"{split}/{seed}"))  # noqa: S311 - a corpus, not a secret
    seen: set[str] = set()
    while len(seen) < rows:
        label = len(seen) % 2
        text = writer.review(label)
        if text not in seen and _SPLIT_OF[hash_of(text) % len(_SPLIT_OF)] == split:
            seen.add(text)
            yield Review(text, label)


_WORD: Final = re.compile(r"n't\b|[^\W\d_]+(?:['’][^\W\d_]+)*")
# A point or comma between digits (3.50) ends nothing.
_CLAUSE_END: Final = re.compile(r"((?:(?<!\d)[.,:]|[.,:](?!\d)|[;!?()\[\]\"“”…\n])+)")


class Counterpart:
    """Translates English into a counterpart language, the same way every time.

    - `script`: True writes in Georgian letters, so the languages share punctuation and digits
      only; False in Latin ones.
    - `lexicon`: True has a made-up word for every word; False keeps the English words, in another
      script letter by letter (other senses of one-to-many entries are made up all the same).
      None goes with the script: a word of its own in Georgian letters, or the English word.
    - `order`: of the words within a clause. `same`; `inverted` reverses them; `verb_final` moves
      verbs, auxiliaries and negations to the end, reversed, as Japanese and Korean do. Clauses
      keep their order, so a contrast keeps its meaning.
    - `one_to_many`: share of words, in [0, 1], with two translations; the word before decides
      which is used.
    - `seed`: another seed is another language.

    Raises ConfigError for an unknown order or a share outside [0, 1].
    """

    def __init__(
        self,
        *,
        script: bool = True,
        lexicon: bool | None = None,
        order: Order = "verb_final",
        one_to_many: float = 0.15,
        seed: int = 0,
    ) -> None:
        if order not in get_args(Order):
            raise ConfigError(
                f"order {order!r} is unknown: use one of {', '.join(get_args(Order))}"
            )
        if not 0 <= one_to_many <= 1:
            raise ConfigError(f"one_to_many {one_to_many} is not a share: use 0 to 1")
        self.script = script
        self.lexicon = script if lexicon is None else lexicon
        self.order = order
        self.one_to_many = one_to_many
        self.seed = seed
        self._spelt: dict[str, str] = {}

    def translate(self, text: str) -> str:
        """Translates any English text word by word and reorders its clauses.

        Letters are lower-cased; digits, punctuation and other signs are kept.
        """
        parts = _CLAUSE_END.split(text.lower())
        return "".join(
            part if index % 2 else self._phrase(part) for index, part in enumerate(parts)
        )

    def _phrase(self, text: str) -> str:
        """Translates what stands between two punctuation marks; keeps the space around it."""
        words = text.split()
        if not words:
            return text
        before = ["", *words[:-1]]
        translated = [
            _WORD.sub(partial(self._word, before=left), word)
            for word, left in zip(words, before, strict=True)
        ]
        start = text[: len(text) - len(text.lstrip())]
        end = text[len(text.rstrip()) :]
        return start + " ".join(translated[i] for i in self._positions(words)) + end

    def _positions(self, words: list[str]) -> list[int]:
        """The places of `words` in the counterpart's order, clause by clause."""
        ordered: list[int] = []
        clause: list[int] = []
        for place, word in enumerate(words):
            if word in CONJUNCTIONS:
                ordered += [*self._reordered(words, clause), place]
                clause = []
            else:
                clause.append(place)
        return ordered + self._reordered(words, clause)

    def _reordered(self, words: list[str], clause: list[int]) -> list[int]:
        if self.order == "same":
            return clause
        if self.order == "inverted":
            return clause[::-1]
        verbs = [place for place in clause if words[place] in VERBAL]
        return [place for place in clause if words[place] not in VERBAL] + verbs[::-1]

    def _word(self, match: re.Match[str], before: str) -> str:
        word = match[0]
        # The key alone says whether a word has two senses, so every text agrees on it.
        if hash_of(f"{self.seed}/senses/{word}") >= self.one_to_many * 2**64:
            return self._sense(word, 0)
        return self._sense(word, hash_of(f"{before} {word}") % 2)

    def _sense(self, word: str, sense: int) -> str:
        if not self.lexicon and sense == 0:
            return transliterated(word) if self.script else word
        key = f"{self.seed}/{sense}/{word}"
        if key not in self._spelt:
            self._spelt[key] = own_word(key, is_georgian=self.script)
        return self._spelt[key]


def labelled_table(
    rows: int,
    seed: int,
    language: Language = "en",
    *,
    split: Split = "train",
    counterpart: Counterpart | None = None,
) -> pa.Table:
    """Labelled reviews: columns `text` (string), `label` (int64), `lang` (string).

    `language` "xc" gives the reviews in `counterpart` (default: `Counterpart()`). Raises
    ConfigError for an unknown language or split.
    """
    drawn = list(reviews(rows, seed, split))
    texts = _in_language([review.text for review in drawn], language, counterpart)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "label": pa.array([review.label for review in drawn], pa.int64()),
            "lang": pa.array([language] * rows, pa.string()),
        }
    )


def parallel_table(
    rows: int, seed: int, *, split: Split = "parallel", counterpart: Counterpart | None = None
) -> pa.Table:
    """Pairs for the aligner: columns `source` (English), `target` (counterpart), `label`."""
    english = labelled_table(rows, seed, ENGLISH, split=split)
    target = _in_language(english["text"].to_pylist(), COUNTERPART, counterpart)
    return pa.table(
        {
            "source": english["text"],
            "target": pa.array(target, pa.string()),
            "label": english["label"],
        }
    )


def dictionary(
    texts: Iterable[str], counterpart: Counterpart | None = None
) -> list[tuple[str, str]]:
    """Every word of English texts with its translation standing alone, in order of the alphabet."""
    translator = counterpart or Counterpart()
    words = {word for text in texts for word in _WORD.findall(text.lower())}
    return [(word, translator.translate(word)) for word in sorted(words)]


def unpaired_texts(
    rows: int, seed: int, language: Language, *, counterpart: Counterpart | None = None
) -> list[str]:
    """Texts to pre-train on: no review is drawn in both languages, or in any other split."""
    split: Split = "unpaired_en" if language == ENGLISH else "unpaired_xc"
    texts = [review.text for review in reviews(rows, seed, split)]
    return _in_language(texts, language, counterpart)


def _in_language(
    texts: list[str], language: Language, counterpart: Counterpart | None
) -> list[str]:
    if language == ENGLISH:
        return texts
    if language != COUNTERPART:
        raise ConfigError(f"language {language!r} is unknown here: use {ENGLISH} or {COUNTERPART}")
    translator = counterpart or Counterpart()
    return [translator.translate(text) for text in texts]
