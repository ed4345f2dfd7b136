"""Optimiser steps on a CPU whose backward pass is written out instead of found by autograd.

Steps 2 and 3 train chains of linear layers on batches of 16. There autograd's bookkeeping, and
gradients in freshly allocated memory, show beside the arithmetic (benchmarks/align.py). Here
gradients go where the optimiser reads them, into memory that is there already.

Shapes: B rows of a batch, D inputs, C outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from langalign.dropout import DropoutMasks, dropout_rate
from langalign.stacked_fit import Loss
from langalign.stacked_network import StackedNetwork, layout_of

__all__ = ["WrittenSteps"]


class WrittenSteps:
    """Steps of `optimizer` on a chain of linear layers; equal to autograd's but for rounding.

    From now on the module's weights are views of one vector; `release` gives them their own
    memory again, which safetensors needs.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss) -> None:
        layout = layout_of(module)
        parameters = list(module.parameters())
        self.module = module
        self.optimizer = optimizer
        self.loss = loss
        rate = dropout_rate(module)
        self.dropout = DropoutMasks([rate], [None], parameters[0].device)
        self.widths = {site: layout.sizes[site][0] for site in layout.dropout_sites if rate}
        weights = parameters_to_vector(parameters).detach()[None]
        gradients = torch.zeros_like(weights)
        vector_to_parameters(weights[0], parameters)
        parts = torch.split(gradients[0], [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self.network = StackedNetwork(layout, weights, gradients)

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on inputs (B, D) and targets (B, ...); returns the mean loss."""
        masks = {site: self.dropout.draw(len(x), width) for site, width in self.widths.items()}
        outputs, tape = self.network.forward(x[None], masks)
        losses, slope = self.loss(outputs, y[None], x.new_ones(1, len(x)))
        self.network.backward(slope, tape, masks)
        self.optimizer.step()
        return losses[0]

    def release(self) -> None:
        """End: every weight in memory of its own, and no gradients."""
        for parameter in self.module.parameters():
            parameter.data = parameter.data.clone()
            parameter.grad = None
