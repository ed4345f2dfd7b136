"""The optimiser, against torch's own."""

import pytest
import torch
from torch import Tensor, nn

from langalign.adamw import AdamW

STEPS = 5


@pytest.mark.parametrize("restored_at", [0, 3])
def test_its_steps_are_those_of_torch(restored_at: int) -> None:
    assert torch.equal(trained_by(AdamW, restored_at), trained_by(torch.optim.AdamW, restored_at))


def test_a_step_records_no_gradient_and_the_next_begins_without_one() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = AdamW([weight], fused=True)
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert weight.is_leaf
    assert torch.is_grad_enabled()
    optimizer.zero_grad()
    assert weight.grad is None


def trained_by(kind: type[torch.optim.AdamW], restored_at: int) -> Tensor:
    """Weights after STEPS steps, at one of which the optimiser is made anew from its state."""
    weight = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = kind([weight], lr=0.1, weight_decay=0.5, fused=True)
    for step in range(STEPS):
        if step == restored_at:
            state = optimizer.state_dict()
            optimizer = kind([weight], lr=1.0, fused=True)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (weight.sin() * (step + 1)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weight.detach()
