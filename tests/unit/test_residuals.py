"""Step 3 on rows moved by what A leaves: which rows, by how much, and what it is good for."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from langalign.aligners import Aligner, Direction, NoAligner, build_aligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.loop import FitOptions, seed_everything
from langalign.metrics import accuracy
from langalign.training import (
    Labelled,
    Pairs,
    count_outcomes,
    fit_aligner,
    fit_head,
    head_inputs,
)

D = 8
OPTIONS = FitOptions(1e-2, batch_size=32, max_epochs=12, patience=12, weight_decay=0.0, seed=0)


def make_pairs(rows: int, seed: int) -> tuple[Tensor, Pairs]:
    """Labels, and pairs (English, other): English says the class in its first cell alone.

    The other language blurs that cell by a number of its own, which it says in its second cell:
    the class is their difference, and only who has seen both cells can know.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (rows,), generator=generator)
    english = torch.zeros(rows, D)
    english[:, 0] = 2.0 * labels - 1
    own = 3 * torch.randn(rows, generator=generator)
    other = english.clone()
    other[:, 0] += own
    other[:, 1] = own
    return labels, Pairs(english, other)


def fitted(pairs: Pairs) -> Aligner:
    aligner = build_aligner("linear", D)
    fit_aligner(aligner, pairs, pairs, options=OPTIONS)
    return aligner


def score(aligner: Aligner, residuals_of: Pairs | None) -> float:
    """Accuracy on the other language of a head that learned from English."""
    seed_everything(0, 3)
    model = AlignedHead(aligner, ClassificationHead(D, 2, dropout=0.0), direction="forward")
    labels, english = make_pairs(2_000, 1)
    held_labels, held_out = make_pairs(500, 2)
    fit_head(
        model,
        Labelled(english.source, labels, of_target=False),
        Labelled(held_out.target, held_labels, of_target=True),
        metric="accuracy",
        options=OPTIONS,
        residuals_of=residuals_of,
    )
    test_labels, test = make_pairs(2_000, 3)
    return accuracy(count_outcomes(model, Labelled(test.target, test_labels, of_target=True)))


def test_a_head_learns_to_pass_over_what_english_does_not_tell() -> None:
    _, pairs = make_pairs(1_000, 0)
    # As it begins, A(x) = x, and here no other does better.
    aligner = build_aligner("residual", D)
    # A sign under noise of three times its size: 0.63 of it.
    assert score(aligner, None) < 0.8
    assert score(aligner, pairs) > 0.97


@pytest.mark.parametrize("direction", get_args(Direction))
def test_each_row_is_moved_by_the_difference_of_some_pair(direction: Direction) -> None:
    generator = torch.Generator().manual_seed(0)
    forward = Pairs(*torch.randn(2, 20, D, generator=generator).unbind())
    pairs = forward if direction == "forward" else Pairs(forward.target, forward.source)
    aligner = fitted(pairs)
    rows = Labelled(make_pairs(50, 1)[1].source, torch.zeros(50), of_target=False)
    plain = head_inputs(aligner, rows, direction)
    moved = head_inputs(aligner, rows, direction, pairs)
    sides = [
        head_inputs(aligner, Labelled(side, torch.zeros(20), of_target), direction)
        for side, of_target in ((forward.target, True), (forward.source, False))
    ]
    distances = torch.cdist(
        moved - plain, sides[0] - sides[1], compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = distances.min(dim=1)
    assert nearest.values.max() < 1e-4
    # Not all by the same pair's.
    assert len(set(nearest.indices.tolist())) > 10


def test_rows_of_the_target_language_and_plain_rows_stay() -> None:
    _, pairs = make_pairs(20, 0)
    aligner = fitted(pairs)
    target = Labelled(pairs.target, torch.zeros(20), of_target=True)
    english = Labelled(pairs.source, torch.zeros(20), of_target=False)
    for model, rows in ((aligner, target), (NoAligner(), english)):
        found = head_inputs(model, rows, "forward", pairs)
        assert torch.equal(found, head_inputs(model, rows, "forward"))
