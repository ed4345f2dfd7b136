"""LoRA task adaptation: what trains, what stays, and that merging changes nothing."""

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tiny_encoder import TEXTS, WIDTH, write_encoder

from langalign.encoder import SentenceEncoder
from langalign.lora import LoraOptions, add_lora, merge_lora

RANK, LAYERS = 8, 2


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return SentenceEncoder.load(str(write_encoder(tmp_path)), pooling="mean", max_length=32)


def test_only_low_rank_pairs_of_query_and_key_train(encoder: SentenceEncoder) -> None:
    add_lora(encoder, LoraOptions())
    trained = {n: p.numel() for n, p in encoder.named_parameters() if p.requires_grad}
    # By hand: in each layer, for query and key, a pair of r x D and D x r.
    assert sum(trained.values()) == LAYERS * 2 * 2 * RANK * WIDTH
    assert all(".query.lora_" in name or ".key.lora_" in name for name in trained)


def test_it_starts_as_the_encoder_and_merges_into_one(encoder: SentenceEncoder) -> None:
    encoder.eval()
    before = encoder.embed(TEXTS)
    names = set(encoder.state_dict())
    frozen = {n: v.clone() for n, v in encoder.state_dict().items()}
    add_lora(encoder, LoraOptions(dropout=0.0))
    encoder.eval()
    assert encoder.embed(TEXTS) == pytest.approx(before, abs=1e-6)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    adapted = encoder.embed(TEXTS)
    assert abs(adapted - before).max() > 1e-3
    merge_lora(encoder)
    assert set(encoder.state_dict()) == names
    assert encoder.embed(TEXTS) == pytest.approx(adapted, abs=1e-5)
    changed = {n for n, v in encoder.state_dict().items() if not torch.equal(v, frozen[n])}
    assert len(changed) == 2 * LAYERS
    assert all(name.endswith(("query.weight", "key.weight")) for name in changed)


def test_alpha_over_rank_scales_the_update(encoder: SentenceEncoder) -> None:
    add_lora(encoder, LoraOptions(rank=4, alpha=8))
    scales = [m.scaling for m in encoder.modules() if isinstance(m, LoraLayer)]
    assert scales == [{"default": 2.0}] * 2 * LAYERS
