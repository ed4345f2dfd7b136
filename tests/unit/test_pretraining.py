"""Pre-training of the demo's encoder, at a size that takes about a second."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from langalign.counterpart import unpaired_texts
from langalign.errors import DataError, TrainingError
from langalign.pretraining import pretrain, train_tokenizer

ENGLISH = unpaired_texts(200, 0, "en")
OTHER = unpaired_texts(200, 0, "xc")
SMALL: dict[str, Any] = {
    "mlm_steps": 2,
    "contrastive_steps": 2,
    "batch_size": 16,
    "hidden_size": 16,
    "layers": 1,
    "heads": 2,
    "vocab_size": 600,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(ENGLISH, OTHER, tmp_path_factory.mktemp("encoder"), **SMALL)


def test_the_folder_is_a_transformers_model(folder: Path) -> None:
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "xlm-roberta"
    batch = tokenizer(["the film was good.", OTHER[0]], padding=True, return_tensors="pt")
    states = model(**batch).last_hidden_state
    assert states.shape == (*batch["input_ids"].shape, 16)
    assert torch.isfinite(states).all()


def test_pairs_have_xlm_r_format_and_one_token_type(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("good", "bad")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    middle = tokens.index("</s>")
    assert (tokens[0], tokens[-1]) == ("<s>", "</s>")
    assert tokens[middle : middle + 2] == ["</s>", "</s>"]
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert tokenizer.pad_token_id == model_pad_id(folder) == 1


def model_pad_id(folder: Path) -> int:
    return int(AutoModel.from_pretrained(folder).config.pad_token_id)


def test_languages_share_signs_and_digits_only() -> None:
    tokenizer = train_tokenizer([*ENGLISH, *OTHER], 8000)
    english, other = (
        {token for encoded in tokenizer.encode_batch(texts) for token in encoded.tokens}
        for texts in (ENGLISH, OTHER)
    )
    shared = (english & other) - {"<s>", "</s>"}
    assert shared
    assert not any(character.isalpha() for token in shared for character in token)


def test_same_seed_same_weights_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    def encoder_weights(path: Path) -> torch.Tensor:
        model = AutoModel.from_pretrained(path)
        return torch.cat([p.detach().flatten() for p in model.encoder.parameters()])

    first = encoder_weights(folder)
    again = encoder_weights(pretrain(ENGLISH, OTHER, tmp_path / "again", **SMALL))
    other = encoder_weights(pretrain(ENGLISH, OTHER, tmp_path / "other", seed=1, **SMALL))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    pretrain(ENGLISH, OTHER, tmp_path, **SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_masked_lm_loss_falls_and_both_phases_report(tmp_path: Path) -> None:
    reports: list[dict[str, float]] = []
    steps = {"mlm_steps": 100, "contrastive_steps": 50}
    pretrain(ENGLISH, OTHER, tmp_path, **{**SMALL, **steps}, report=reports.append)
    assert [report["step"] for report in reports] == [50, 100, 150]
    assert reports[1]["mlm_loss"] < reports[0]["mlm_loss"]
    assert reports[1]["contrastive_loss"] == 0 < reports[2]["contrastive_loss"]


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2"):
        pretrain(ENGLISH, ["one"], tmp_path, **SMALL)


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="learning rate"):
        pretrain(ENGLISH, OTHER, tmp_path, learning_rate=math.inf, **SMALL)
