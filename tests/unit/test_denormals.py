"""Subnormal numbers while training."""

import pytest
import torch
from torch import nn

from langalign.adamw import AdamW
from langalign.denormals import flushed_denormals
from langalign.loop import FitOptions, run_epochs

SUBNORMAL = 1e-39


def halved() -> float:
    """Half of a subnormal number, by torch's arithmetic."""
    return float(torch.full((64,), SUBNORMAL).mul(0.5)[0])


def test_they_count_as_zero_within_the_block_only() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU cannot flush subnormal numbers")
    assert halved() > 0
    with flushed_denormals():
        assert halved() == 0
    assert halved() > 0


def test_an_epoch_trains_without_them() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU cannot flush subnormal numbers")
    module = nn.Linear(2, 2)
    seen: list[float] = []

    def train_epoch(epoch: int) -> float:
        seen.append(halved())
        return 0.0

    run_epochs(
        module,
        AdamW(module.parameters(), fused=True),
        train_epoch=train_epoch,
        evaluate=lambda: 0.0,
        options=FitOptions(1e-3, max_epochs=1),
        step="test",
        report=lambda entry, save: None,
    )
    assert seen == [0.0]
    assert halved() > 0
