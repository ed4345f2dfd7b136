"""ALIGN-MLM's loss by hand, and that pre-training with it aligns the words of the dictionary."""

from pathlib import Path

import pytest
import torch

from langalign import counterpart
from langalign.counterpart import Counterpart
from langalign.errors import DataError
from langalign.pretraining import pretrain, train_tokenizer
from langalign.wordalign import alignment_loss, dictionary_ids, word_alignment


def test_the_loss_is_minus_the_mean_cosine() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])
    # Cosines: 1, 0 and -1.
    assert alignment_loss(embeddings, torch.tensor([[0, 2], [0, 1], [2, 3]])).item() == 0
    assert alignment_loss(embeddings, torch.tensor([[0, 2], [0, 1]])).item() == pytest.approx(-0.5)


def test_the_dictionary_pairs_each_word_with_its_translation() -> None:
    language = Counterpart(one_to_many=0.0)
    found = counterpart.dictionary(["A good film.", "a dull film"], language)
    assert [word for word, _ in found] == ["a", "dull", "film", "good"]
    assert all(language.translate(word) == other for word, other in found)
    english = counterpart.dictionary(["a good film"], Counterpart(script=False, one_to_many=0.0))
    assert all(word == other for word, other in english)


def test_only_pairs_of_single_tokens_count() -> None:
    tokenizer = train_tokenizer(["good bad good bad"] * 5, 100)
    assert len(dictionary_ids(tokenizer, [("good", "bad"), ("good", "unheardof")])) == 1
    with pytest.raises(DataError, match="no pair of the dictionary"):
        dictionary_ids(tokenizer, [("xyzzy", "good")])


def test_pre_training_with_the_loss_aligns_words_that_plain_pre_training_does_not(
    tmp_path: Path,
) -> None:
    english = counterpart.unpaired_texts(200, 0, "en")
    other = counterpart.unpaired_texts(200, 0, "xc")
    words = counterpart.dictionary(english)
    found = {}
    for weight in (0.0, 10.0):
        folder = pretrain(
            english,
            other,
            tmp_path / str(weight),
            mlm_steps=20,
            contrastive_steps=4,
            batch_size=16,
            vocab_size=2000,
            hidden_size=32,
            layers=1,
            heads=2,
            dictionary=words,
            align_weight=weight,
        )
        found[weight] = word_alignment(folder, words)
    assert found[0.0]["cosine"] < 0.4
    assert found[10.0]["cosine"] > 0.6
    assert found[10.0]["retrieval_forward"] > 0.8 > 0.2 > found[0.0]["retrieval_forward"]
