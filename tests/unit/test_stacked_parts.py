"""What a stack is made of, each against torch's own: gradients and AdamW.

Shapes: K networks, N rows, D = 12 wide embeddings, C = 3 classes.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from langalign.aligners import LEARNED_KINDS
from langalign.loop import FitOptions
from langalign.stacked_adamw import StackedAdamW
from langalign.stacked_fit import cross_entropy, squared_error
from langalign.stacked_network import NetworkLayout, StackedNetwork, aligner_layout, head_layout

D, CLASSES = 12, 3


@pytest.mark.parametrize("kind", [*LEARNED_KINDS, "head"])
def test_gradients_are_those_of_autograd(kind: str) -> None:
    layout = head_layout(D, CLASSES) if kind == "head" else aligner_layout(kind, D, hidden=32)
    outputs = CLASSES if kind == "head" else D
    generator = torch.Generator().manual_seed(0)
    rows = 0.3 * torch.randn(2, layout.parameters, generator=generator)
    x = torch.randn(2, 5, D, generator=generator)
    masks = {
        site: torch.rand(2, 5, layout.sizes[site][0], generator=generator).round() * 2
        for site in layout.dropout_sites
    }
    targets = torch.randn(2, 5, outputs, generator=generator)
    loss = cross_entropy if kind == "head" else squared_error
    if kind == "head":
        targets = targets.argmax(-1)
    weights = torch.rand(2, 5, generator=generator)
    network = StackedNetwork(layout, rows, torch.full_like(rows, math.nan))
    found, tape = network.forward(x, masks)
    losses, slope = loss(found, targets, weights)
    network.backward(slope, tape, masks)
    for k in range(2):
        row = rows[k].clone().requires_grad_()
        one = reference(layout, row, x[k], {site: mask[k] for site, mask in masks.items()})
        if kind == "head":
            each = nn.functional.cross_entropy(one, targets[k], reduction="none")
        else:
            each = (one - targets[k]).square().mean(-1)
        wanted = (each * weights[k]).mean()
        torch.testing.assert_close(losses[k], wanted.detach())
        torch.testing.assert_close(network.gradients[k], *torch.autograd.grad(wanted, row))


def reference(layout: NetworkLayout, row: Tensor, x: Tensor, masks: dict[int, Tensor]) -> Tensor:
    """One network of a layout, (B, D) to (B, C), for autograd."""
    value, start = x, 0
    for site, (inputs, outputs) in enumerate(layout.sizes):
        if site:
            value = getattr(torch, layout.activation)(value)
        value = value * masks.get(site, 1.0)
        weight = row[start : start + inputs * outputs].view(outputs, inputs)
        start += inputs * outputs
        value = nn.functional.linear(value, weight, row[start : start + outputs])
        start += outputs
    return x + value if layout.is_residual else value


def test_a_row_s_optimiser_is_adamw_with_its_own_rate_decay_and_count() -> None:
    options = [FitOptions(1e-2, weight_decay=0.3), FitOptions(1e-3), FitOptions(3e-2)]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 7, generator=generator)
    alone = [nn.Parameter(row.clone()) for row in weights]
    optimizers = [
        torch.optim.AdamW([p], lr=o.learning_rate, weight_decay=o.weight_decay)
        for p, o in zip(alone, options, strict=True)
    ]
    stacked = StackedAdamW(7, torch.device("cpu"))
    stacked.admit(options[:2])

    def step(rows: list[int]) -> None:
        gradients = torch.randn(len(rows), 7, generator=generator)
        taken = weights[rows]
        stacked.step(taken, gradients, slice(0, len(rows)))
        weights[rows] = taken
        for gradient, row in zip(gradients, rows, strict=True):
            alone[row].grad = gradient
            optimizers[row].step()

    step([0, 1])
    stacked.admit(options[2:])
    step([0, 1, 2])
    stacked.keep([0, 2])
    step([0, 2])
    torch.testing.assert_close(weights, torch.stack([p.detach() for p in alone]))
