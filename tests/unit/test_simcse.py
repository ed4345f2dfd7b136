"""Unsupervised SimCSE: the loss by hand, and that training brings the two views together."""

import math
from pathlib import Path

import pytest
import torch
from tiny_encoder import write_encoder
from torch import nn

from langalign import counterpart
from langalign.encoder import SentenceEncoder
from langalign.errors import DataError
from langalign.loop import FitOptions
from langalign.simcse import contrastive_loss, fit_simcse

OPTIONS = FitOptions(3e-4, batch_size=16, max_epochs=3, patience=3, weight_decay=0.0)


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return SentenceEncoder.load(str(write_encoder(tmp_path)), pooling="mean", max_length=32)


def test_the_loss_of_orthogonal_rows_is_known() -> None:
    rows = torch.eye(5)
    # Own similarity 1 / 0.05 = 20, the four others 0.
    wanted = math.log(math.exp(20) + 4) - 20
    assert contrastive_loss(rows, 7 * rows, 0.05).item() == pytest.approx(wanted, abs=1e-6)
    # Rows that are all alike cannot be told apart.
    same = torch.ones(5, 3)
    assert contrastive_loss(same, same, 0.05).item() == pytest.approx(math.log(5), abs=1e-5)


def test_training_lowers_the_held_out_loss_and_returns_the_dropout_rates(
    encoder: SentenceEncoder,
) -> None:
    texts = counterpart.unpaired_texts(224, 0, "en")
    rates = [m.p for m in encoder.modules() if isinstance(m, nn.Dropout)]
    rows, held_out = encoder.tokenize(texts[:192]), encoder.tokenize(texts[192:])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    history = fit_simcse(encoder, rows, held_out, options=OPTIONS)
    assert [entry.epoch for entry in history] == [0, 1, 2]
    assert history[-1].train_loss < history[0].train_loss
    assert max(entry.score for entry in history) > history[0].score
    assert [m.p for m in encoder.modules() if isinstance(m, nn.Dropout)] == rates
    assert not encoder.training
    assert any(not torch.equal(v, before[n]) for n, v in encoder.state_dict().items())


def test_the_same_seed_gives_the_same_encoder(tmp_path: Path) -> None:
    texts = counterpart.unpaired_texts(40, 0, "en")
    folder = str(write_encoder(tmp_path))
    found = []
    for _ in range(2):
        encoder = SentenceEncoder.load(folder, pooling="mean", max_length=32)
        rows, held_out = encoder.tokenize(texts[:32]), encoder.tokenize(texts[32:])
        fit_simcse(encoder, rows, held_out, options=OPTIONS)
        found.append(encoder.embed(texts))
    assert (found[0] == found[1]).all()


def test_one_text_contrasts_nothing(encoder: SentenceEncoder) -> None:
    rows = encoder.tokenize(["one text", "and another"])
    with pytest.raises(DataError, match="needs 2 of each"):
        fit_simcse(encoder, rows, encoder.tokenize(["alone"]), options=OPTIONS)
