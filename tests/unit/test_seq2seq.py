"""The local translation model: it learns a small dictionary, and comes back from a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoder import write_encoder
from transformers import AutoTokenizer, MT5Config, MT5ForConditionalGeneration

from langalign.errors import TranslationError
from langalign.loop import FitOptions
from langalign.seq2seq import Seq2SeqTranslator, fit_translator, model_digest

# Each a single token of the tiny tokenizer.
WORDS = {"bad": "a", "film": "not", "was": "i", "the": "it"}


def pairs() -> list[tuple[str, str]]:
    """All two-word texts, each translated word by word."""
    return [(f"{x} {y}", f"{WORDS[x]} {WORDS[y]}") for x in WORDS for y in WORDS]


@pytest.fixture
def translator(tmp_path: Path) -> Seq2SeqTranslator:
    folder = write_encoder(tmp_path / "encoder")
    return Seq2SeqTranslator.tiny(folder, seed=0, prefix="", max_length=16)


def test_it_learns_a_word_by_word_translation(translator: Seq2SeqTranslator) -> None:
    options = FitOptions(1e-3, batch_size=8, max_epochs=40, patience=40, weight_decay=0.0)
    history = fit_translator(translator, pairs(), pairs(), options=options)
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    sources = [source for source, _ in pairs()]
    hits = [
        found == target
        for found, (_, target) in zip(translator.translate(sources), pairs(), strict=True)
    ]
    assert all(hits)


def test_translations_keep_their_places_whatever_their_length(
    translator: Seq2SeqTranslator,
) -> None:
    texts = ["a", "bad film was a bad film was", "film", "the film was bad"]
    together = translator.translate(texts)
    assert together == [translator.translate([text])[0] for text in texts]


def test_padding_counts_in_no_loss(translator: Seq2SeqTranslator) -> None:
    translator.eval()
    (short, long) = ("a", "it"), ("bad film was", "a not i")
    with torch.no_grad():
        alone = [translator(translator.rows([pair])) for pair in (short, long)]
        both = translator(translator.rows([short, long]))
    assert both[0].item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-4)
    assert both[1].item() == sum(tokens.item() for _, tokens in alone)


def test_held_out_pairs_go_through_in_training_batches_and_the_loss_is_computed_once(
    translator: Seq2SeqTranslator, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[bool, int]] = []
    losses: list[int] = []
    entropy = torch.nn.functional.cross_entropy

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        losses.append(1)
        return entropy(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", counted)
    translator.register_forward_pre_hook(
        lambda module, rows: batches.append((module.training, len(rows[0])))
    )
    options = FitOptions(1e-3, batch_size=3, max_epochs=1, patience=1)
    fit_translator(translator, pairs()[:4], pairs()[:8], options=options)
    assert sorted(size for training, size in batches if training) == [1, 3]
    assert [size for training, size in batches if not training] == [3, 3, 2]
    assert len(losses) == len(batches)


def test_a_model_is_named_by_its_files_or_by_hub_name_and_revision(tmp_path: Path) -> None:
    for name, weights in (("one", "a"), ("same", "a"), ("other", "b")):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "weights").write_text(weights)
    one, same, other = (model_digest(str(tmp_path / n), None) for n in ("one", "same", "other"))
    assert one == same != other
    assert len({model_digest("owner/model", r) for r in (None, "v1", "v2")}) == 3


def test_it_comes_back_from_its_folder(translator: Seq2SeqTranslator, tmp_path: Path) -> None:
    translator.save(tmp_path / "saved")
    again = Seq2SeqTranslator.load(str(tmp_path / "saved"), max_length=16)
    texts = ["a good film", "the plot was dull"]
    assert again.translate(texts) == translator.translate(texts)


def test_a_name_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TranslationError, match=r"local.model=.* is no sequence-to-sequence model"):
        Seq2SeqTranslator.load(str(tmp_path))


def test_the_same_seed_makes_the_same_model(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    made = [Seq2SeqTranslator.tiny(folder, seed=seed) for seed in (0, 0, 1)]
    weights = [next(each.model.parameters()) for each in made]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_mt5_is_tuned_and_translates(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_encoder(tmp_path / "encoder"))
    config = MT5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    MT5ForConditionalGeneration(config).save_pretrained(tmp_path / "mt5")
    tokenizer.save_pretrained(tmp_path / "mt5")
    translator = Seq2SeqTranslator.load(str(tmp_path / "mt5"), prefix="translate: ", max_length=16)
    options = FitOptions(1e-2, batch_size=8, max_epochs=4, patience=4, weight_decay=0.0)
    history = fit_translator(translator, pairs(), pairs(), options=options)
    assert history[-1].train_loss < history[0].train_loss
    assert len(translator.translate(["bad film", "the was"])) == 2
