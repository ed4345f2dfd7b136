"""One step of the method for many trials at once: epochs in lock-step over stacked networks.

A trial takes the rows in the same order, the same dropout masks and the same optimiser steps that
`fit_aligner` or `fit_head` give it alone on a CPU; only the order of additions differs.

Shapes: K trials, N training rows, H held-out rows, B rows of a batch, P weights of a network.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from langalign.denormals import flushed_denormals
from langalign.dropout import DropoutMasks
from langalign.loop import EpochReport, FitOptions, Worker, epoch_order
from langalign.stacked_adamw import StackedAdamW
from langalign.stacked_network import NetworkLayout, StackedNetwork

__all__ = ["Member", "StackedFit", "cross_entropy", "squared_error"]

# Outputs (K, B, C), targets (K, B, ...) and row weights (K, B) to mean losses (K,) and the losses'
# derivative by the outputs (K, B, C).
Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# On a CPU, weights, gradients and moments of the trials in one batched step have to fit the cache:
# beyond it, memory costs more than the calls that batching saves (benchmarks/stacking.py).
CACHE_BYTES = 8 * 2**20
BYTES_PER_PARAMETER = 16
# Rows are gathered for so many optimiser steps at a time.
GATHERED_STEPS = 64


@dataclass
class Member:
    """A trial in a step: what it trains, on which rows, and what came of it so far.

    `x` (N, D) with `row_weights` (N,) are its training inputs, `held_out` (H, D) its validation
    inputs. `module` has the first weights, and the best ones when the trial has finished.
    """

    trial: int
    module: nn.Module
    options: FitOptions
    dropout: float
    x: Tensor
    row_weights: Tensor
    held_out: Tensor
    history: list[EpochReport] = field(default_factory=list)


class StackedFit:
    """Trains its members together; `targets` (N, ...) are theirs in common."""

    def __init__(self, layout: NetworkLayout, loss: Loss, targets: Tensor, batch_size: int) -> None:
        self.layout = layout
        self.loss = loss
        self.targets = targets
        self.batch_size = batch_size
        self.members: list[Member] = []
        self.weights = torch.zeros(0, layout.parameters, device=targets.device)
        self.best = self.weights.clone()
        self.optimizer = StackedAdamW(layout.parameters, targets.device)
        self._gradients = self.weights.clone()

    def admit(self, members: list[Member]) -> None:
        """Let trials join, each with its own count of epochs and steps."""
        rows = [parameters_to_vector(m.module.parameters()).detach()[None] for m in members]
        self.weights = torch.cat([self.weights, *rows])
        self.best = torch.cat([self.best, *rows])
        self.optimizer.admit([member.options for member in members])
        self.members += members

    def keep(self, rows: list[int]) -> None:
        """Go on with these members only; no arithmetic is spent on the others."""
        if len(rows) == len(self.members):
            return
        self.members = [self.members[row] for row in rows]
        self.weights, self.best = self.weights[rows], self.best[rows]
        self.optimizer.keep(rows)

    def blocks(self) -> Iterator[tuple[slice, StackedNetwork]]:
        """The members in groups that are computed together: their rows and their networks."""
        size = max(1, len(self.members))
        if self.weights.device.type == "cpu":
            size = min(size, max(1, CACHE_BYTES // (BYTES_PER_PARAMETER * self.layout.parameters)))
        if len(self._gradients) != size:
            self._gradients = self.weights.new_zeros(size, self.layout.parameters)
        for start in range(0, len(self.members), size):
            rows = slice(start, min(start + size, len(self.members)))
            weights = self.weights[rows]
            yield rows, StackedNetwork(self.layout, weights, self._gradients[: len(weights)])

    def train_epoch(self) -> list[float]:
        """One epoch for every member; returns their mean losses."""
        losses: list[float] = []
        with flushed_denormals():
            for rows, network in self.blocks():
                losses += self._train_block(rows, network)
        return losses

    @torch.no_grad()
    def held_out_outputs(self, rows: slice, network: StackedNetwork) -> Tensor:
        """Outputs (n, H, C) of a block's members for their held-out inputs, without dropout."""
        return network(torch.stack([member.held_out for member in self.members[rows]]))

    def record(self, row: int, loss: float, score: float, seconds: float) -> None:
        """Note what an epoch gave a member, and its weights where they are its best so far."""
        history = self.members[row].history
        is_best = all(score > entry.score for entry in history)
        if is_best:
            self.best[row].copy_(self.weights[row])
        history.append(EpochReport(len(history), loss, score, is_best, seconds))

    @torch.no_grad()
    def restore_best(self, row: int) -> None:
        """Put a member's best weights into its module, and the module into evaluation mode."""
        member = self.members[row]
        parameters = list(member.module.parameters())
        values = torch.split(self.best[row], [parameter.numel() for parameter in parameters])
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value.view_as(parameter))
        member.module.eval()

    @torch.no_grad()
    def _train_block(self, rows: slice, network: StackedNetwork) -> list[float]:
        members = self.members[rows]
        count, device = len(self.targets), self.targets.device
        generators = [torch.Generator(device) for _ in members]
        seeded = zip(members, generators, strict=True)
        order = torch.stack([_epoch_order(m, count, generator) for m, generator in seeded])
        rates = [member.dropout for member in members]
        dropout = DropoutMasks(rates, generators, device)
        widths = {s: self.layout.sizes[s][0] for s in self.layout.dropout_sites if any(rates)}
        totals = torch.zeros(len(members), dtype=torch.float64, device=device)
        for ids in torch.split(order.to(device), GATHERED_STEPS * self.batch_size, dim=1):
            for x, targets, weights in self._batches(members, ids):
                masks = {site: dropout.draw(x.shape[1], width) for site, width in widths.items()}
                outputs, tape = network.forward(x, masks)
                losses, slope = self.loss(outputs, targets, weights)
                network.backward(slope, tape, masks)
                self.optimizer.step(network.rows, network.gradients, rows)
                totals += losses * x.shape[1]
        return [float(total) for total in (totals / count).tolist()]

    def _batches(self, members: list[Member], ids: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Inputs (n, B, D), targets (n, B, ...) and row weights (n, B) of the rows `ids` (n, N)."""
        x = torch.stack([m.x[mine] for m, mine in zip(members, ids, strict=True)])
        weights = torch.stack([m.row_weights[mine] for m, mine in zip(members, ids, strict=True)])
        parts = [torch.split(t, self.batch_size, dim=1) for t in (x, self.targets[ids], weights)]
        return zip(*parts, strict=True)


def squared_error(outputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of each network (see `Loss`), rows counted by their weights."""
    difference = outputs - targets
    slope = difference * (weights[..., None] * (2 / difference[0].numel()))
    return difference.mul_(slope).sum((1, 2)) / 2, slope


def cross_entropy(outputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each network (see `Loss`), rows counted by their weights."""
    shares = outputs.log_softmax(-1)
    labels = targets[..., None]
    losses = -(shares.gather(2, labels)[..., 0] * weights).mean(1)
    slope = shares.exp_()
    slope.scatter_add_(2, labels, slope.new_full((), -1.0).expand(labels.shape))
    return losses, slope.mul_(weights[..., None] / labels.shape[1])


def _epoch_order(member: Member, rows: int, generator: torch.Generator) -> Tensor:
    """The member's permutation of the rows; the generator is seeded as nn.Dropout's would be."""
    order = epoch_order(rows, member.options, Worker(), len(member.history))
    generator.manual_seed(torch.initial_seed())
    return order
