"""Unsupervised SimCSE (appendix G.2): dropout is the only noise between two views of a sentence.

Shapes: B rows of a batch, D embedding width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from langalign.encoder import SentenceEncoder
from langalign.errors import DataError
from langalign.finetuning import bucketed
from langalign.loop import (
    EpochReport,
    FitOptions,
    Reporter,
    Worker,
    epoch_order,
    make_optimizer,
    run_epochs,
    seed_everything,
    silent,
)
from langalign.tokens import IntArray, TokenizedText

__all__ = ["contrastive_loss", "fit_simcse"]


def contrastive_loss(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """InfoNCE of two views (B, D): row i of one belongs to row i of the other, the rest do not."""
    views = (nn.functional.normalize(view, dim=-1) for view in (one, other))
    first, second = views
    similarity = first @ second.T / temperature
    return nn.functional.cross_entropy(
        similarity, torch.arange(len(first), device=similarity.device)
    )


def fit_simcse(
    encoder: SentenceEncoder,
    rows: TokenizedText,
    held_out: TokenizedText,
    *,
    options: FitOptions,
    temperature: float = 0.05,
    dropout: float = 0.1,
    worker: Worker | None = None,
    report: Reporter | None = None,
) -> list[EpochReport]:
    """Train the encoder on texts without labels; it keeps its best epoch on held-out texts.

    `dropout` is that of the two views, whatever rate the encoder was made with.

    Raises:
        DataError: fewer than two held-out texts, which give no contrast.
        TrainingError: the loss is not finite.
    """
    if len(held_out) < 2 or len(rows) < 2:
        raise DataError(
            f"SimCSE has {len(rows)} texts to train on and {len(held_out)} held out; "
            f"it contrasts texts of one batch and needs 2 of each"
        )
    worker = worker or Worker()
    encoder.to(worker.device)
    optimizer = make_optimizer(list(encoder.parameters()), options, worker.device)

    def loss_of(tokens: TokenizedText, chosen: IntArray) -> Tensor:
        batch = encoder.batch(tokens, chosen)
        return contrastive_loss(encoder(*batch), encoder(*batch), temperature)

    def train_epoch(epoch: int) -> float:
        order = epoch_order(len(rows), options, worker, epoch).numpy()
        total = 0.0
        for chosen in _batches(order, rows, options.batch_size):
            loss = loss_of(rows, chosen)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(chosen)
        return total / len(rows)

    @torch.no_grad()
    def evaluate() -> float:
        # The same masks every epoch, so that epochs are compared on equal terms.
        seed_everything(options.seed, 5)
        order = torch.arange(len(held_out)).numpy()
        losses = [
            (loss_of(held_out, chosen).item() * len(chosen), len(chosen))
            for chosen in _batches(order, held_out, options.batch_size)
        ]
        return -sum(loss for loss, _ in losses) / sum(count for _, count in losses)

    with _noisy(encoder, dropout):
        return run_epochs(
            encoder,
            optimizer,
            train_epoch=train_epoch,
            evaluate=evaluate,
            options=options,
            step="simcse",
            report=report or silent,
        )


def _batches(order: IntArray, tokens: TokenizedText, size: int) -> Iterator[IntArray]:
    """Batches of near-equal length; one of a single text would contrast nothing."""
    return (batch for batch in bucketed(order, tokens.lengths(), size) if len(batch) > 1)


@contextmanager
def _noisy(encoder: SentenceEncoder, dropout: float) -> Iterator[None]:
    """Training mode with one dropout rate everywhere; the encoder's own rates come back."""
    layers = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
    rates = [layer.p for layer in layers]
    for layer in layers:
        layer.p = dropout
    encoder.train()
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.p = rate
        encoder.eval()
