"""Training that reaches into the encoder: step 1, and step 3 with `head.train` naming `encoder`.

Shapes: N rows, B rows of a batch, T tokens, D embedding width, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from langalign import metrics
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.encoder import SentenceEncoder
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
from langalign.tokens import IntArray, TokenizedText

__all__ = ["TextClassifier", "TokenizedRows", "bucketed", "count_text_outcomes", "fit_encoder"]

# Sorting this many batches at a time keeps batches random while padding stays small.
SORTED_BATCHES = 50


@dataclass(frozen=True)
class TokenizedRows:
    """Tokenised texts with their labels (N,).

    `of_target` says on which side of an aligner they enter, where there is one.
    """

    tokens: TokenizedText
    labels: Tensor
    of_target: bool = False


class TextClassifier(nn.Module):
    """Encoder and head (with or without an aligner between) as one trainable module."""

    def __init__(
        self,
        encoder: SentenceEncoder,
        model: AlignedHead | ClassificationHead,
        *,
        precision: str = "fp32",
        train_aligner: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = model
        self.precision = precision
        if isinstance(model, AlignedHead) and not train_aligner:
            model.aligner.requires_grad_(False)

    @property
    def classes(self) -> int:
        """C, the number of labels."""
        head = self.model.head if isinstance(self.model, AlignedHead) else self.model
        return head.out_proj.out_features

    def forward(self, batch: tuple[Any, ...], of_target: bool) -> Tensor:
        """The arguments of the encoder (`SentenceEncoder.batch`) to logits (B, C)."""
        device = self.encoder.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            embeddings = self.encoder(*batch)
        if isinstance(self.model, AlignedHead):
            return cast(Tensor, self.model(embeddings, of_target=of_target))
        return cast(Tensor, self.model(embeddings))


def fit_encoder(
    classifier: TextClassifier,
    rows: TokenizedRows,
    held_out: list[TokenizedRows],
    *,
    metric: str,
    options: FitOptions,
    step: str = "tune",
    warmup_fraction: float = 0.06,
    max_gradient_norm: float = 1.0,
    worker: Worker | None = None,
    report: Reporter | None = None,
    resume: Path | None = None,
) -> list[EpochReport]:
    """Step 1 (and step 3 with a trainable encoder): cross-entropy through encoder and head.

    `rows` and `held_out` are this worker's shares; the epoch is chosen by the task metric over
    all of `held_out`.

    Raises:
        TrainingError: the loss is not finite.
    """
    worker = worker or Worker()
    classifier.to(worker.device)
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, options, worker.device)
    train_epoch = _TextEpochs(
        module=parallel(classifier, worker),
        encoder=classifier.encoder,
        rows=rows,
        optimizer=optimizer,
        options=options,
        worker=worker,
        warmup_fraction=warmup_fraction,
        max_gradient_norm=max_gradient_norm,
    )

    def evaluate() -> float:
        counts = sum(count_text_outcomes(classifier, part) for part in held_out)
        return metrics.score(metric, all_sum(cast(Tensor, counts)))

    return run_epochs(
        classifier,
        optimizer,
        train_epoch=train_epoch,
        evaluate=evaluate,
        options=options,
        step=step,
        report=report or silent,
        resume=resume,
    )


@torch.no_grad()
def count_text_outcomes(classifier: TextClassifier, rows: TokenizedRows) -> Tensor:
    """Confusion counts (C, C) of a classifier on tokenised texts."""
    classifier.eval()
    encoder = classifier.encoder
    shape = (classifier.classes, classifier.classes)
    counts = torch.zeros(shape, dtype=torch.int64, device=encoder.device)
    for chosen in encoder.batches(rows.tokens):
        logits = classifier(encoder.batch(rows.tokens, chosen), rows.of_target)
        labels = rows.labels[torch.from_numpy(chosen)].to(encoder.device)
        counts += metrics.confusion(labels, logits.argmax(-1), classifier.classes)
    return counts


@dataclass(frozen=True)
class _TextEpochs:
    """Epochs of optimiser steps over this worker's share of tokenised rows.

    The learning rate rises linearly over the first `warmup_fraction` of the first epoch and then
    stays, because early stopping leaves the number of steps open.
    """

    module: nn.Module
    encoder: SentenceEncoder
    rows: TokenizedRows
    optimizer: torch.optim.Optimizer
    options: FitOptions
    worker: Worker
    warmup_fraction: float
    max_gradient_norm: float

    def __call__(self, epoch: int) -> float:
        """Train one epoch; returns the mean loss over the rows of all workers."""
        lengths = self.rows.tokens.lengths()
        order = epoch_order(len(lengths), self.options, self.worker, epoch).numpy()
        batch_size = per_worker(self.options, self.worker)
        warmup_steps = max(1, int(self.warmup_fraction * len(lengths) / batch_size))
        self.module.train()
        total = torch.zeros(2, dtype=torch.float64, device=self.worker.device)
        for done, chosen in enumerate(bucketed(order, lengths, batch_size)):
            if epoch == 0:
                rise = min(1.0, (done + 1) / warmup_steps)
                self.optimizer.param_groups[0]["lr"] = self.options.learning_rate * rise
            total[0] += self._step(chosen) * len(chosen)
            total[1] += len(chosen)
        loss_sum, seen = all_sum(total).tolist()
        return float(loss_sum / seen)

    def _step(self, chosen: IntArray) -> Tensor:
        """One optimiser step on the rows of `chosen` (B,); returns their mean loss."""
        labels = self.rows.labels[torch.from_numpy(chosen)].to(self.worker.device)
        logits = self.module(self.encoder.batch(self.rows.tokens, chosen), self.rows.of_target)
        loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], self.max_gradient_norm)
        self.optimizer.step()
        return loss.detach()


def bucketed(order: IntArray, lengths: IntArray, batch_size: int) -> Iterator[IntArray]:
    """Cut a shuffled epoch into batches of near-equal length, in shuffled order."""
    batches: list[IntArray] = []
    window = SORTED_BATCHES * batch_size
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    # Seeded by the epoch's own order, so that a resumed epoch is the same one.
    for i in np.random.default_rng(int(order[0])).permutation(len(batches)):
        yield batches[i]
