"""Dropout from 16 random bits a value: torch's own draw takes 64 on a CPU, and four times as long.

Steps 2 and 3 are so small that their masks are a part of the time that shows.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Dropout", "DropoutMasks", "dropout_rate"]

_VALUES = 2**16


class DropoutMasks:
    """Masks of K networks, each with its own rate, from a generator of its own.

    A rate in [0, 1) is rounded to a multiple of 2^-16, and what is kept is scaled by what that
    comes to. None stands for torch's default generator.
    """

    def __init__(
        self,
        rates: Sequence[float],
        generators: Sequence[torch.Generator | None],
        device: torch.device,
    ) -> None:
        kept = [max(1, round((1 - rate) * _VALUES)) for rate in rates]
        # So many of the int16 values, counted from -2^15.
        last = [count - _VALUES // 2 - 1 for count in kept]
        self._last = torch.tensor(last, dtype=torch.int16, device=device)
        self._factors = torch.tensor([_VALUES / count for count in kept], device=device)
        # Networks that drop nothing draw nothing.
        self._sources = [
            (row, generator)
            for row, (generator, count) in enumerate(zip(generators, kept, strict=True))
            if count < _VALUES
        ]

    def draw(self, *shape: int) -> Tensor:
        """What inputs (K, *shape) are multiplied by: 0, or the inverse of the share kept."""
        count, values = len(self._last), math.prod(shape)
        words = torch.zeros(count, -(-values // 4), dtype=torch.int64, device=self._last.device)
        for row, generator in self._sources:
            words[row].random_(-(2**63), None, generator=generator)
        bits = words.view(torch.int16)[:, :values]
        masks = self._factors.new_empty(count, values)
        torch.le(bits, self._last[:, None], out=masks)
        return masks.mul_(self._factors[:, None]).view(count, *shape)


class Dropout(nn.Dropout):
    """nn.Dropout, with masks of `DropoutMasks` on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """The input, a part of it dropped while training."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        masks = DropoutMasks([self.p], [None], input.device).draw(*input.shape)
        return input * masks[0]


def dropout_rate(module: nn.Module) -> float:
    """The one rate of a module's layers that drop something; 0 where none does."""
    return max((layer.p for layer in module.modules() if isinstance(layer, Dropout)), default=0.0)
