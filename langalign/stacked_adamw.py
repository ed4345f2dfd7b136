"""AdamW for the rows of a stack, each with its own learning rate, weight decay and step count.

Shapes: K trials, P weights of each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from langalign.loop import FitOptions

__all__ = ["StackedAdamW"]

# The defaults of torch.optim.AdamW, which the unstacked steps use.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class StackedAdamW:
    """Moments of K rows of P weights; a trial's row is one call of torch's fused kernel.

    The kernel that torch.optim.AdamW(fused=True) calls takes one learning rate and weight decay a
    call. Written as tensor operations on all rows at once, the same formula reads and writes
    memory many times rather than once, and took two to five times as long on a CPU.
    """

    def __init__(self, parameters: int, device: torch.device) -> None:
        self.first = torch.zeros(0, parameters, device=device)
        self.second = torch.zeros(0, parameters, device=device)
        self.counts: list[Tensor] = []
        self.options: list[FitOptions] = []

    def admit(self, options: Sequence[FitOptions]) -> None:
        """Add rows that have not taken a step."""
        empty = self.first.new_zeros(len(options), self.first.shape[1])
        self.first = torch.cat([self.first, empty])
        self.second = torch.cat([self.second, empty])
        self.counts += [empty.new_zeros(()) for _ in options]
        self.options += options

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        self.first, self.second = self.first[rows], self.second[rows]
        self.counts = [self.counts[row] for row in rows]
        self.options = [self.options[row] for row in rows]

    def step(self, weights: Tensor, gradients: Tensor, rows: slice) -> None:
        """Update `weights` (n, P), which are the rows `rows`, by their `gradients` (n, P)."""
        counts = self.counts[rows]
        torch._foreach_add_(counts, 1)
        moments = zip(self.first[rows], self.second[rows], strict=True)
        for weight, gradient, (first, second), count, options in zip(
            weights, gradients, moments, counts, self.options[rows], strict=True
        ):
            torch._fused_adamw_(
                [weight],
                [gradient],
                [first],
                [second],
                [],
                [count],
                lr=options.learning_rate,
                beta1=BETA_1,
                beta2=BETA_2,
                weight_decay=options.weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )
