"""How the counterpart language spells: words of its own, or English ones in another script."""

import hashlib
from typing import Final

__all__ = ["hash_of", "own_word", "transliterated"]

# Georgian letters: one column wide in a terminal, no upper case, untouched by NFKC.
_GEORGIAN: Final = ("ბგდვზთკლმნპრსტფქყშჩხ", "აეიოუ", "ლმნრსტ")
_LATIN: Final = ("bgdvzjklmnprstfqyxch", "aeiou", "lmnrst")
_SYLLABLES: Final = 3
# A letter of its own for each of a to z, so that no two words become one.
_LETTERS: Final = str.maketrans("abcdefghijklmnopqrstuvwxyz", "აბცდეფგჰიჯკლმნოპქრსტუვწხყზ")


def hash_of(text: str) -> int:
    """64 bits, the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def own_word(key: str, *, is_georgian: bool) -> str:
    """Spells the hash of `key` in syllables; 3.7e8 words are possible, so two rarely meet."""
    onsets, vowels, codas = _GEORGIAN if is_georgian else _LATIN
    rest = hash_of(key)
    spelt = ""
    for _ in range(_SYLLABLES):
        for choices in (onsets, vowels, ("", *codas)):
            rest, place = divmod(rest, len(choices))
            spelt += choices[place]
    return spelt


def transliterated(word: str) -> str:
    """A lower-case word in Georgian letters, letter by letter; signs beyond a to z stay."""
    return word.translate(_LETTERS)
