"""K networks of one shape computed as one: their weights are the rows of a matrix (K, P).

A step on a batch of 16 is so small that calling its operations costs as much as their arithmetic;
one batched matrix product for K networks pays the call once. The backward pass is written out,
because it then writes gradients where the optimiser reads them, into memory that is there
already: that takes about half the time of autograd, and less than that of `torch.func.vmap`.

Shapes: K networks, P weights of each, B rows of a batch, D and C a layer's inputs and outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from langalign.aligners import Aligner, build_aligner
from langalign.classifier import ClassificationHead

__all__ = ["NetworkLayout", "StackedNetwork", "aligner_layout", "head_layout", "layout_of"]

Masks = dict[int, Tensor]


@dataclass(frozen=True)
class NetworkLayout:
    """What the networks of one stack share.

    `sizes` are (inputs, outputs) of the linear layers in the order of `Module.parameters`, with
    `activation` between them. `dropout_sites` are the layers whose input is dropped from. A
    residual network adds its input to its output.
    """

    sizes: tuple[tuple[int, int], ...]
    activation: str
    dropout_sites: tuple[int, ...]
    is_residual: bool = False

    @property
    def parameters(self) -> int:
        """P, weights and biases of one network."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.sizes)

    def views(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each layer's weights (K, C, D) and biases (K, 1, C) as views of `rows` (K, P)."""
        layers, start = [], 0
        for inputs, outputs in self.sizes:
            middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
            weight = rows[:, start:middle].view(len(rows), outputs, inputs)
            layers.append((weight, rows[:, middle:end].view(len(rows), 1, outputs)))
            start = end
        return layers


def aligner_layout(
    kind: str, width: int, *, depth: int | None = None, hidden: int | None = None
) -> NetworkLayout:
    """The layout of the learned aligners that `build_aligner` makes from these arguments."""
    # Built with dropout, so that the sites are there; trials that drop nothing skip them.
    with torch.device("meta"):
        return layout_of(build_aligner(kind, width, depth=depth, hidden=hidden, dropout=0.5))


def layout_of(module: nn.Module) -> NetworkLayout:
    """The layout of a learned aligner, or of a head."""
    if isinstance(module, ClassificationHead):
        return head_layout(module.dense.in_features, module.out_proj.out_features)
    assert isinstance(module, Aligner), f"{type(module).__name__} is no chain of linear layers"
    sizes: list[tuple[int, int]] = []
    sites: list[int] = []
    for layer in cast(nn.Sequential, module.layers):
        if isinstance(layer, nn.Linear):
            sizes.append((layer.in_features, layer.out_features))
        elif isinstance(layer, nn.Dropout):
            sites.append(len(sizes))
    return NetworkLayout(tuple(sizes), "relu", tuple(sites), is_residual=module.kind == "residual")


def head_layout(width: int, classes: int) -> NetworkLayout:
    """The layout of `ClassificationHead`: dropout before each of its two layers, tanh between."""
    return NetworkLayout(((width, width), (width, classes)), "tanh", (0, 1))


class StackedNetwork:
    """Networks whose weights are `rows` (K, P); `backward` writes into `gradients` (K, P)."""

    def __init__(self, layout: NetworkLayout, rows: Tensor, gradients: Tensor) -> None:
        self.rows = rows
        self.gradients = gradients
        self._layers = layout.views(rows)
        self._slopes = layout.views(gradients)
        self._is_residual = layout.is_residual
        self._activate, self._activate_backward = _ACTIVATIONS[layout.activation]

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs (K, B, D) to outputs (K, B, C) without dropout."""
        return self.forward(x, {})[0]

    def forward(self, x: Tensor, masks: Masks) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Inputs (K, B, D) to outputs (K, B, C), and what `backward` needs.

        `masks` holds, for a layer, what its input (K, B, D) is multiplied by.
        """
        tape: list[tuple[Tensor, Tensor]] = []
        value = x
        for site, (weight, bias) in enumerate(self._layers):
            if site:
                value = self._activate(value)
            taken = value * masks[site] if site in masks else value
            tape.append((value, taken))
            value = torch.baddbmm(bias, taken, weight.mT)
        return (x + value if self._is_residual else value), tape

    def backward(self, slope: Tensor, tape: list[tuple[Tensor, Tensor]], masks: Masks) -> None:
        """Write the gradients of a loss whose derivative by the outputs is `slope` (K, B, C)."""
        for site in reversed(range(len(self._layers))):
            value, taken = tape[site]
            weight_gradient, bias_gradient = self._slopes[site]
            torch.bmm(slope.mT, taken, out=weight_gradient)
            torch.sum(slope, 1, keepdim=True, out=bias_gradient)
            if not site:
                return
            slope = torch.bmm(slope, self._layers[site][0])
            if site in masks:
                slope.mul_(masks[site])
            self._activate_backward(slope, value)


def _relu_backward(slope: Tensor, value: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(slope, value, 0, grad_input=slope)


def _tanh_backward(slope: Tensor, value: Tensor) -> None:
    torch.ops.aten.tanh_backward.grad_input(slope, value, grad_input=slope)


# Both in place; the derivative is taken at what the activation returned.
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Any]]] = {
    "relu": (torch.relu_, _relu_backward),
    "tanh": (torch.tanh_, _tanh_backward),
}
