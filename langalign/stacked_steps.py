"""Steps 2 and 3 for a stack: first weights, inputs and held-out figures of each trial.

Shapes: K trials, N training rows, H held-out rows, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from langalign import metrics
from langalign.aligners import Aligner
from langalign.classifier import ClassificationHead
from langalign.dropout import dropout_rate
from langalign.loop import seed_everything
from langalign.stacked_fit import Member, StackedFit, cross_entropy, squared_error
from langalign.stacked_network import StackedNetwork, aligner_layout, head_layout
from langalign.training import Labelled, Pairs, head_inputs
from langalign.trials import AlignerShape, Phase, Probe, TrialData, TrialOptions

__all__ = ["StackedAligners", "StackedHeads", "probe_scores"]

# The second number of the seed of first weights, as in the pipeline's steps 2 and 3.
ALIGN_STEP, HEAD_STEP = 2, 3


class StackedAligners(StackedFit):
    """Step 2 of trials whose aligners have one shape."""

    phase: Phase = "align"

    def __init__(self, shape: AlignerShape, batch_size: int, data: TrialData) -> None:
        self.shape = shape
        self.data = data
        self.pairs = _with_identity(data.pairs, shape)
        self.held_out_pairs = _with_identity(data.held_out_pairs, shape)
        layout = aligner_layout(shape.kind, data.width, depth=shape.depth, hidden=shape.hidden)
        super().__init__(layout, squared_error, self.pairs.target, batch_size)

    def member(self, trial: int, options: TrialOptions) -> Member:
        """A trial with the first weights that its seed gives."""
        seed_everything(options.align.seed, ALIGN_STEP)
        aligner = self.shape.build(self.data.width, options.dropout).to(self.targets.device)
        weights = self.targets.new_ones(len(self.targets))
        weights[len(self.data.pairs.source) :] = options.identity_weight
        return Member(
            trial,
            aligner,
            options.align,
            dropout=dropout_rate(aligner),
            x=self.pairs.source,
            row_weights=weights,
            held_out=self.held_out_pairs.source,
        )

    @torch.no_grad()
    def validation(self) -> list[float]:
        """Each member's negative MSE on held-out pairs: what ends the step."""
        errors: list[float] = []
        for rows, network in self.blocks():
            missed = self.held_out_outputs(rows, network) - self.held_out_pairs.target
            errors += missed.double().square().mean((1, 2)).tolist()
        return [-error for error in errors]


class StackedHeads(StackedFit):
    """Step 3: a new head for each trial, through its frozen aligner, of whatever shape."""

    phase: Phase = "head"

    def __init__(self, batch_size: int, data: TrialData, *, adds_residuals: bool) -> None:
        self.data = data
        self.residuals_of = data.pairs if adds_residuals else None
        layout = head_layout(data.width, data.classes)
        super().__init__(layout, cross_entropy, data.rows.labels, batch_size)

    def inputs(self, aligner: Aligner) -> tuple[Tensor, Tensor]:
        """What a head reads for the training rows (N, D) and the held-out rows (H, D)."""
        rows, held_out = self.data.rows, self.data.held_out
        return (
            head_inputs(aligner, rows, self.data.direction, self.residuals_of),
            head_inputs(aligner, held_out, self.data.direction, self.residuals_of),
        )

    def member(self, trial: int, options: TrialOptions, x: Tensor, held_out: Tensor) -> Member:
        """A trial with the first weights that its seed gives, on what `inputs` gave."""
        seed_everything(options.head.seed, HEAD_STEP)
        head = ClassificationHead(
            self.data.width, self.data.classes, dropout=options.head_dropout
        ).to(self.targets.device)
        return Member(
            trial,
            head,
            options.head,
            dropout=options.head_dropout,
            x=x,
            row_weights=x.new_ones(len(x)),
            held_out=held_out,
        )

    @torch.no_grad()
    def validation(self) -> list[float]:
        """Each member's score on held-out rows: what ends the step, and what is reported."""
        scores = []
        for rows, network in self.blocks():
            labels = self.held_out_outputs(rows, network).argmax(-1)
            scores += [_score(self.data, predicted) for predicted in labels]
        return scores


def probe_scores(
    aligners: Sequence[StackedAligners],
    trials: Sequence[TrialOptions],
    data: TrialData,
    probe: Probe,
) -> dict[int, float]:
    """Scores of new heads on aligners as they stand, by trial; all heads are trained as one stack.

    A head has the trial's own options, but for the rows and epochs of the `probe`.
    """
    if not probe.epochs or not any(fit.members for fit in aligners):
        return {}
    few = replace(data, rows=_sample(data.rows, probe.rows))
    first = trials[0]
    heads = StackedHeads(first.head.batch_size, few, adds_residuals=first.adds_residuals)
    for fit in aligners:
        for rows, network in fit.blocks():
            stacked = _AlignersOf(network, maps_own_space=fit.shape.identity_pairs)
            inputs = heads.inputs(stacked)
            for member, *mine in zip(fit.members[rows], *inputs, strict=True):
                heads.admit([heads.member(member.trial, trials[member.trial], *mine)])
    scores: list[float] = []
    for _ in range(probe.epochs):
        losses, scores = heads.train_epoch(), heads.validation()
        for row, loss in enumerate(losses):
            heads.record(row, loss, scores[row], seconds=0.0)
    return {member.trial: score for member, score in zip(heads.members, scores, strict=True)}


class _AlignersOf(Aligner):
    """The aligners of a network as one, (B, D) to (K, B, D), for the rule of `head_input`."""

    kind = "stacked"

    def __init__(self, network: StackedNetwork, *, maps_own_space: bool) -> None:
        super().__init__(maps_own_space=maps_own_space)
        self.network = network

    def keep(self, x: Tensor) -> Tensor:
        """The same (B, D) for each of K."""
        return x.expand(len(self.network.rows), *x.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (K, B, D)."""
        return self.network(self.keep(x))


def _with_identity(pairs: Pairs, shape: AlignerShape) -> Pairs:
    if not shape.identity_pairs:
        return pairs
    return Pairs(torch.cat([pairs.source, pairs.target]), torch.cat([pairs.target, pairs.target]))


def _sample(rows: Labelled, count: int) -> Labelled:
    """Up to `count` rows in their order, the same ones every time."""
    order = torch.randperm(len(rows.labels), generator=torch.Generator().manual_seed(0))
    ids = order[:count].sort().values.to(rows.labels.device)
    return Labelled(rows.embeddings[ids], rows.labels[ids], rows.of_target)


def _score(data: TrialData, predicted: Tensor) -> float:
    counts = metrics.confusion(data.held_out.labels, predicted, data.classes)
    return metrics.score(data.metric, counts)
