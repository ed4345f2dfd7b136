"""What a stack of trials takes and gives: shape, options, data, reports and results."""

from dataclasses import dataclass
from typing import Literal

import torch

from langalign.aligners import Aligner, Direction, build_aligner
from langalign.classifier import AlignedHead
from langalign.loop import EpochReport, FitOptions
from langalign.training import Labelled, Pairs

__all__ = [
    "COMPARED",
    "NO_PROBE",
    "WATCHED",
    "AlignerShape",
    "Phase",
    "Probe",
    "TrainedTrial",
    "TrialData",
    "TrialOptions",
    "TrialReport",
]

Phase = Literal["align", "head"]


@dataclass(frozen=True)
class AlignerShape:
    """What aligners have in common that are computed as one; None takes the kind's own default."""

    kind: str
    depth: int | None = None
    hidden: int | None = None
    identity_pairs: bool = True

    def build(self, width: int, dropout: float | None = None) -> Aligner:
        """An untrained aligner of this shape for embeddings of `width`."""
        return build_aligner(
            self.kind,
            width,
            depth=self.depth,
            hidden=self.hidden,
            dropout=dropout,
            identity_pairs=self.identity_pairs,
        )


@dataclass(frozen=True)
class Probe:
    """What scores an aligner that still trains: a new head, trained for so many `epochs` on up to
    `rows` English rows.
    """

    rows: int
    epochs: int


# Where a scheduler compares trials, where people only watch them, and none at all.
COMPARED, WATCHED, NO_PROBE = Probe(2048, 3), Probe(512, 1), Probe(0, 0)


@dataclass(frozen=True)
class TrialOptions:
    """One trial: the shape of its aligner, and rates, decay, stopping rules, dropout and seeds.

    `identity_weight` is how often the squared error of an identity pair counts in training; where
    the shape has no identity pairs it has no effect. With `adds_residuals`, heads learn from
    English rows as `training.head_inputs` moves them.
    """

    shape: AlignerShape
    align: FitOptions
    head: FitOptions
    dropout: float | None = None
    head_dropout: float = 0.1
    identity_weight: float = 1.0
    adds_residuals: bool = False


@dataclass(frozen=True)
class TrialData:
    """The rows that all trials of a stack share; none of them is ever written to.

    `pairs` are in `direction`, as `fit_aligner` takes them. `rows` are labelled English ones, and
    `held_out` the translated ones that choose between epochs and trials.
    """

    pairs: Pairs
    held_out_pairs: Pairs
    rows: Labelled
    held_out: Labelled
    classes: int
    metric: str
    direction: Direction = "forward"

    @property
    def width(self) -> int:
        """D of all embeddings."""
        return self.rows.embeddings.shape[1]

    def to(self, device: torch.device) -> "TrialData":
        """The same rows on `device`."""
        return TrialData(
            self.pairs.to(device),
            self.held_out_pairs.to(device),
            self.rows.to(device),
            self.held_out.to(device),
            self.classes,
            self.metric,
            self.direction,
        )


@dataclass(frozen=True)
class TrialReport:
    """What one epoch gave one trial.

    `score` is the task metric on the held-out rows: of a probe while the aligner trains,
    else of the head. `validation` is what ends the step early: the negative mean squared error on
    held-out pairs, or the head's score. `best_score` is the head's best so far. A trial with a
    `failure` has left the stack; a loss that is not finite is among its figures.
    """

    trial: int
    phase: Phase
    epoch: int
    train_loss: float
    validation: float
    score: float
    best_score: float | None
    is_finished: bool
    failure: str | None = None

    @property
    def is_probe(self) -> bool:
        """Whether `score` is a probe's, not that of the trial's own head."""
        return self.phase == "align"

    @property
    def value(self) -> float:
        """The figure for a scheduler: the probe's score, then the best of the head so far."""
        return self.score if self.best_score is None else self.best_score


@dataclass(frozen=True)
class TrainedTrial:
    """A finished trial: aligner and head with their best weights, and the epochs of both.

    The modules are those that `build_aligner` and `ClassificationHead` make from the trial's
    options, so that their `state_dict` can be loaded into others.
    """

    model: AlignedHead
    align_history: list[EpochReport]
    head_history: list[EpochReport]

    @property
    def score(self) -> float:
        """The task metric of the head on the held-out rows, at its best epoch."""
        return max(entry.score for entry in self.head_history)
