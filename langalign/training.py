"""Steps 2 and 3 of LangAlign (section 3.2) on cached embeddings: plain torch, report callback.

Each function trains on this worker's share of the rows; under `torch.distributed` gradients are
averaged by DDP and every figure is a sum over workers divided once. Nothing here knows of Ray.

Shapes: N rows, B rows of a batch, D embedding width, C classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from langalign import metrics
from langalign.aligners import LEARNED_KINDS, Aligner, Direction, fit_closed_form
from langalign.classifier import AlignedHead
from langalign.loop import (
    EpochReport,
    FitOptions,
    Reporter,
    Worker,
    all_sum,
    epoch_order,
    make_optimizer,
    parallel,
    per_worker,
    run_epochs,
    silent,
)
from langalign.stacked_fit import cross_entropy, squared_error
from langalign.steps import EpochRunner

__all__ = [
    "Labelled",
    "Pairs",
    "count_outcomes",
    "fit_aligner",
    "fit_head",
    "head_inputs",
]

PART_ROWS = 512


@dataclass(frozen=True)
class Pairs:
    """Embeddings of parallel sentences: `source` (N, D) is what A maps to `target` (N, D)."""

    source: Tensor
    target: Tensor

    def to(self, device: torch.device) -> "Pairs":
        """The same pairs on `device`."""
        return Pairs(self.source.to(device), self.target.to(device))


@dataclass(frozen=True)
class Labelled:
    """Embeddings (N, D) of one language with their labels (N,)."""

    embeddings: Tensor
    labels: Tensor
    of_target: bool

    def to(self, device: torch.device) -> "Labelled":
        """The same rows on `device`."""
        return Labelled(self.embeddings.to(device), self.labels.to(device), self.of_target)


def fit_aligner(
    aligner: Aligner,
    pairs: Pairs,
    held_out: Pairs,
    *,
    options: FitOptions,
    identity_weight: float = 1.0,
    worker: Worker | None = None,
    report: Reporter | None = None,
    resume: Path | None = None,
) -> list[EpochReport]:
    """Step 2: A(source) ≈ target by MSE, and A(target) ≈ target where A maps its own space.

    The squared error of the second kind of pair counts `identity_weight` times in training.

    `pairs` and `held_out` are all pairs; each worker takes every world_size-th. The closed-form
    kinds are solved at once and report nothing.
    """
    worker = worker or Worker()
    if aligner.kind not in LEARNED_KINDS:
        fit_closed_form(aligner, pairs.source, pairs.target, (held_out.source, held_out.target))
        return []
    aligner.to(worker.device)
    mine = _share(_with_identity(pairs, aligner, identity_weight), worker)
    checked = _share(_with_identity(held_out, aligner), worker)
    module = parallel(aligner, worker)
    optimizer = make_optimizer(list(aligner.parameters()), options, worker.device)
    is_weighted = identity_weight != 1 and aligner.maps_own_space
    run = EpochRunner(
        module,
        optimizer,
        _weighted_mse if is_weighted else nn.MSELoss(),
        mine.source,
        mine.target,
        per_worker(options, worker),
        written=None if is_weighted else squared_error,
    )

    def train_epoch(epoch: int) -> float:
        return _mean_loss(run, epoch_order(len(mine.source), options, worker, epoch))

    @torch.no_grad()
    def evaluate() -> float:
        aligner.eval()
        error = (aligner(checked.source) - checked.target).double().square()
        count = torch.tensor(float(error.numel()), dtype=torch.float64, device=error.device)
        total, cells = all_sum(torch.stack([error.sum(), count])).tolist()
        return float(-total / max(cells, 1.0))

    history = run_epochs(
        aligner,
        optimizer,
        train_epoch=train_epoch,
        evaluate=evaluate,
        options=options,
        step="align",
        report=report or silent,
        resume=resume,
    )
    run.close()
    aligner.eval()
    return history


def fit_head(
    model: AlignedHead,
    rows: Labelled,
    held_out: Labelled,
    *,
    metric: str,
    options: FitOptions,
    residuals_of: Pairs | None = None,
    train_aligner: bool = False,
    worker: Worker | None = None,
    report: Reporter | None = None,
    resume: Path | None = None,
) -> list[EpochReport]:
    """Step 3: train the head (and the aligner, if asked) on cached embeddings by cross-entropy.

    `rows` and `held_out` are this worker's shares. The epoch is chosen by the task metric on
    `held_out`. A frozen aligner is applied once, before training, never in the loop;
    `residuals_of` is as `head_inputs` takes it, and has no effect where the aligner trains too.
    """
    worker = worker or Worker()
    model.to(worker.device)
    rows, held_out = rows.to(worker.device), held_out.to(worker.device)
    inputs, checked = rows.embeddings, held_out.embeddings
    trained: nn.Module = _OneSide(model, of_target=rows.of_target)
    judged: nn.Module = _OneSide(model, of_target=held_out.of_target)
    if not train_aligner:
        residuals_of = residuals_of and residuals_of.to(worker.device)
        inputs = head_inputs(model.aligner, rows, model.direction, residuals_of)
        checked = head_inputs(model.aligner, held_out, model.direction, residuals_of)
        trained = judged = model.head
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, options, worker.device)
    run = EpochRunner(
        parallel(trained, worker),
        optimizer,
        nn.CrossEntropyLoss(),
        inputs,
        rows.labels,
        per_worker(options, worker),
        written=None if train_aligner else cross_entropy,
    )
    total_rows = all_sum(torch.tensor(float(len(inputs)), device=worker.device)).item()

    def train_epoch(epoch: int) -> float:
        order = epoch_order(len(inputs), options, worker, epoch)
        return all_sum(run(order)).item() / total_rows

    def evaluate() -> float:
        model.eval()
        return metrics.score(metric, all_sum(_counts(judged, checked, held_out.labels)))

    history = run_epochs(
        trained,
        optimizer,
        train_epoch=train_epoch,
        evaluate=evaluate,
        options=options,
        step="head",
        report=report or silent,
        resume=resume,
    )
    run.close()
    model.eval()
    return history


@torch.no_grad()
def head_inputs(
    aligner: Aligner, rows: Labelled, direction: Direction, residuals_of: Pairs | None = None
) -> Tensor:
    """What a head reads for `rows`, (N, D), through an aligner that is frozen from now on.

    Aligners stacked as one give (K, N, D). With `residuals_of`, which are pairs in the direction of
    the aligner, each English row is moved by the difference between translation and original, as a
    head reads them, of some pair: what A cannot tell from English is in every target-language
    input, and a head that never saw it takes it for a sign of a class (docs/method.md).
    """
    aligner.requires_grad_(False).eval()
    inputs = _head_input(aligner, rows.embeddings, direction, of_target=rows.of_target)
    if residuals_of is None or rows.of_target or aligner.kind == "none":
        return inputs
    # One draw for all trainings: what differs between seeds is rows and pairs.
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(residuals_of.source), (len(rows.embeddings),), generator=generator)
    chosen = chosen.to(rows.embeddings.device)
    sides = residuals_of.source[chosen], residuals_of.target[chosen]
    english, translated = sides if direction == "forward" else reversed(sides)
    inputs = inputs + _head_input(aligner, translated, direction, of_target=True)
    return inputs - _head_input(aligner, english, direction, of_target=False)


def _head_input(aligner: Aligner, x: Tensor, direction: Direction, *, of_target: bool) -> Tensor:
    # In parts whose activations stay in a CPU's cache.
    parts = torch.split(x, PART_ROWS)
    mapped = [aligner.head_input(p, direction=direction, of_target=of_target) for p in parts]
    return torch.cat(mapped, dim=-2)


def count_outcomes(model: AlignedHead, rows: Labelled) -> Tensor:
    """Confusion counts (C, C) of a model on embeddings."""
    model.eval()
    return _counts(_OneSide(model, of_target=rows.of_target), rows.embeddings, rows.labels)


@torch.no_grad()
def _counts(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    logits = module(inputs)
    return metrics.confusion(labels, logits.argmax(-1), logits.shape[-1])


class _OneSide(nn.Module):
    """An AlignedHead with the side of its input fixed, as the step loop calls it."""

    def __init__(self, model: AlignedHead, *, of_target: bool) -> None:
        super().__init__()
        self.model = model
        self.of_target = of_target

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, D) to logits (B, C)."""
        return cast(Tensor, self.model(x, of_target=self.of_target))


def _mean_loss(run: EpochRunner, order: Tensor) -> float:
    loss_sum = run(order)
    total = all_sum(torch.stack([loss_sum, loss_sum.new_tensor(len(order))]))
    return float(total[0] / total[1])


def _with_identity(pairs: Pairs, aligner: Aligner, identity_weight: float = 1.0) -> Pairs:
    """Pairs and identity pairs; a weight other than 1 is a last column of the target."""
    if not aligner.maps_own_space:
        return pairs
    source, target = torch.cat([pairs.source, pairs.target]), torch.cat([pairs.target] * 2)
    if identity_weight != 1:
        weights = target.new_ones(len(target), 1)
        weights[len(pairs.source) :] = identity_weight
        target = torch.cat([target, weights], dim=1)
    return Pairs(source, target)


def _weighted_mse(predicted: Tensor, target: Tensor) -> Tensor:
    weights = target[:, -1:]
    return ((predicted - target[:, :-1]).square() * weights).mean()


def _share(pairs: Pairs, worker: Worker) -> Pairs:
    every = slice(worker.rank, None, worker.world_size)
    return Pairs(pairs.source[every], pairs.target[every]).to(worker.device)
