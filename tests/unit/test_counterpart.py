"""The demo's corpus and its counterpart language: exact, deterministic, disjoint."""

import pickle
import re
from itertools import combinations
from typing import Any, get_args

import pytest

from langalign.counterpart import (
    Counterpart,
    Split,
    labelled_table,
    parallel_table,
    reviews,
    unpaired_texts,
)
from langalign.errors import ConfigError


def test_reviews_are_unique_balanced_and_repeatable() -> None:
    drawn = list(reviews(400, 3))
    assert len({review.text for review in drawn}) == 400
    assert sum(review.label for review in drawn) == 200
    assert drawn == list(reviews(400, 3))
    assert drawn != list(reviews(400, 4))


def test_no_text_is_in_two_splits_even_for_different_seeds() -> None:
    texts = {split: {r.text for s in (0, 1) for r in reviews(300, s, split)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not texts[one] & texts[other]


SPLITS: tuple[Split, ...] = get_args(Split)


def test_the_later_clause_of_a_contrast_agrees_with_the_label() -> None:
    contrasts = [r for r in reviews(3000, 0) if " was good but the " in r.text]
    assert contrasts
    assert {review.label for review in contrasts} == {0}


def test_counterpart_shares_no_letter_with_english() -> None:
    translated = [Counterpart().translate(review.text) for review in reviews(200, 0)]
    assert not re.search("[a-z]", "".join(translated))


def test_translation_keeps_digits_and_signs_in_real_text() -> None:
    text = "It cost $3.50 ( well-made , is n't it ? ) ."
    translated = Counterpart(order="same").translate(text)
    assert re.sub(r"[^\W\d_]+", "w", translated) == "w w $3.50 ( w-w , w w w ? ) ."


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("same", "the film was not good, but i loved the plot."),
        ("inverted", "good not was film the, but plot the loved i."),
        ("verb_final", "the film good not was, but i the plot loved."),
    ],
)
def test_words_move_within_clauses_only(order: Any, expected: str) -> None:
    plain = Counterpart(script=False, order=order, one_to_many=0.0)
    assert plain.translate("the film was not good, but i loved the plot.") == expected


SENTENCE = "the film was n't good; i didn't cry."


@pytest.mark.parametrize(
    ("script", "lexicon", "expected"),
    [
        (False, False, SENTENCE),
        (True, False, "ტჰე ფილმ წას ნ'ტ გოოდ; ი დიდნ'ტ ცრყ."),
    ],
)
def test_english_words_stay_but_for_the_script(script: bool, lexicon: bool, expected: str) -> None:
    language = Counterpart(script=script, lexicon=lexicon, order="same", one_to_many=0.0)
    assert language.translate(SENTENCE) == expected


def test_words_are_made_up_in_either_script() -> None:
    """Known words: a change of the spelling is another language, and other results."""
    expected = {True: "ზორშექელ დერბოტსოს, ნერგოსდომ.", False: "zorxeqel derbotsos, nergosdom."}
    for script, text in expected.items():
        language = Counterpart(script=script, lexicon=True, order="same", one_to_many=0.0)
        assert language.translate("the film, good.") == text


def test_an_unset_lexicon_goes_with_the_script() -> None:
    for script in (True, False):
        unset, as_script = (Counterpart(script=script, lexicon=each) for each in (None, script))
        assert unset.translate(SENTENCE) == as_script.translate(SENTENCE)


def test_another_script_keeps_words_apart() -> None:
    language = Counterpart(lexicon=False, order="same", one_to_many=0.0)
    letters = [language.translate(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    assert len(set(letters)) == 26
    assert not re.search("[a-z]", "".join(letters))


def senses(share: float) -> list[set[str]]:
    language = Counterpart(order="same", one_to_many=share)
    befores = ("the", "a", "my", "one", "this", "that", "very", "some")
    return [
        {language.translate(f"{before} word{end}").split()[-1] for before in befores}
        for end in "abcdefghijklmnopqrst"
    ]


def test_one_to_many_gives_words_at_most_two_translations() -> None:
    assert all(len(found) == 1 for found in senses(0.0))
    assert all(len(found) <= 2 for found in senses(1.0))
    assert sum(len(found) == 2 for found in senses(1.0)) >= 15


def test_distinct_words_get_distinct_translations() -> None:
    language = Counterpart(one_to_many=0.0)
    words = sorted({w for r in reviews(2000, 0) for w in re.findall("[a-z]+", r.text)})
    assert len(words) > 400
    assert len({language.translate(word) for word in words}) == len(words)


def test_another_seed_is_another_language_and_a_pickled_copy_is_the_same() -> None:
    language = Counterpart()
    assert language.translate("film") != Counterpart(seed=1).translate("film")
    copy = pickle.loads(pickle.dumps(language))
    assert copy.translate("an unseen word") == language.translate("an unseen word")


def test_tables_hold_the_columns_of_the_data_contract() -> None:
    labelled = labelled_table(20, 0, "xc", split="test")
    assert labelled.column_names == ["text", "label", "lang"]
    assert set(labelled["lang"].to_pylist()) == {"xc"}
    pairs = parallel_table(20, 0)
    assert pairs.column_names == ["source", "target", "label"]
    assert pairs["target"].to_pylist() == [
        Counterpart().translate(text) for text in pairs["source"].to_pylist()
    ]


def test_unpaired_texts_are_not_translations_of_each_other() -> None:
    english = {Counterpart().translate(text) for text in unpaired_texts(300, 0, "en")}
    assert not english & set(unpaired_texts(300, 0, "xc"))


def test_bad_arguments_name_the_value() -> None:
    with pytest.raises(ConfigError, match="'vso'"):
        Counterpart(order="vso")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"1\.5"):
        Counterpart(one_to_many=1.5)
    with pytest.raises(ConfigError, match="'dev'"):
        list(reviews(1, 0, "dev"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="-1"):
        list(reviews(-1, 0))
    with pytest.raises(ConfigError, match="'fr'"):
        labelled_table(1, 0, "fr")  # type: ignore[arg-type]
