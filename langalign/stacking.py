"""Many trials of a search trained as one batched computation, on cached embeddings in memory.

A trial is step 2 (the aligner) and then step 3 (a new head through the frozen aligner), as
`fit_aligner` and `fit_head` do them, with a score on held-out translated rows after every epoch.
Trials in one stack share the shape of their networks and differ in rates, dropout and seeds.

While a trial's aligner trains it has no head. The score of such an epoch is a probe's: a new head
with the trial's own options, but trained for 3 epochs on 2,048 English rows through the aligner as
it stands. It costs an eighth (fc) to a quarter (ae) of an epoch over 2,000 pairs, and lets a
scheduler compare trials from the first epoch on. A ridge classifier is cheaper, but told little
about the final order of trials on SIB-200: it does not mind how an aligner scales its outputs, and
a head does. The squared error on held-out pairs ordered trials the wrong way round on SST-2.

A probe's score never becomes a trial's result, which is the best score of its own head; so a
trial's value may fall when that head starts.
"""

import math
import time
from collections.abc import Sequence

import torch

from langalign.aligners import LEARNED_KINDS, Aligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.errors import ConfigError
from langalign.loop import EpochReport, goes_on
from langalign.stacked_fit import Member
from langalign.stacked_steps import StackedAligners, StackedHeads
from langalign.training import fit_aligner
from langalign.trials import (
    StackShape,
    TrainedTrial,
    TrialData,
    TrialOptions,
    TrialReport,
)

__all__ = ["StackShape", "TrainedTrial", "TrialData", "TrialOptions", "TrialReport", "TrialStack"]


class TrialStack:
    """Trains trials of one shape in lock-step; they are named by their index in `trials`.

    Trials whose aligners are done train their heads together while others still align. A trial
    that ends, fails or is dropped leaves the stack, and the others' results do not change.
    `finished` holds the trials that came to their end.
    """

    def __init__(
        self,
        shape: StackShape,
        trials: Sequence[TrialOptions],
        data: TrialData,
        device: torch.device | None = None,
    ) -> None:
        """Build every trial's first weights; fit an aligner that has a closed form.

        Raises:
            ConfigError: a shape or dropout that the kind does not have, or a batch size that is
                not the stack's.
        """
        self.trials = tuple(trials)
        _check_batch_sizes(shape, self.trials)
        self.shape = shape
        self.data = data.to(device or torch.device("cpu"))
        self.finished: dict[int, TrainedTrial] = {}
        self._aligned: dict[int, tuple[Aligner, list[EpochReport]]] = {}
        self._heads = StackedHeads(shape, self.data)
        self._aligners: StackedAligners | None = None
        if shape.kind in LEARNED_KINDS:
            self._aligners = StackedAligners(shape, self.data)
            self._aligners.admit([self._aligners.member(t, o) for t, o in enumerate(self.trials)])
        elif self.trials:
            self._align_at_once()

    @property
    def live(self) -> list[int]:
        """The trials that the next step trains."""
        return sorted(member.trial for fit in self._fits() for member in fit.members)

    def step(self) -> list[TrialReport]:
        """Train every live trial by one epoch of the step it is in; one report for each."""
        reports = [report for fit in self._fits() for report in self._advance(fit)]
        return sorted(reports, key=lambda report: report.trial)

    def drop(self, trial: int) -> None:
        """Take a live trial out: a scheduler has stopped it."""
        for fit in self._fits():
            others = [row for row, member in enumerate(fit.members) if member.trial != trial]
            if len(others) < len(fit.members):
                fit.keep(others)
                self._aligned.pop(trial, None)
                return
        raise ValueError(f"trial {trial} is not among the live ones, {self.live}")

    def _fits(self) -> list[StackedHeads | StackedAligners]:
        # Heads first: a trial whose aligner ends in a step starts its head in the next one.
        return [self._heads, self._aligners] if self._aligners else [self._heads]

    def _align_at_once(self) -> None:
        """Fit the closed form; nothing that differs between trials enters it."""
        dropout = next((t.dropout for t in self.trials if t.dropout is not None), None)
        aligner = self.shape.build(self.data.width, dropout).to(self.data.rows.embeddings.device)
        options = self.trials[0].align
        fit_aligner(aligner, self.data.pairs, self.data.held_out_pairs, options=options)
        inputs = self._heads.inputs(aligner)
        self._aligned = {trial: (aligner, []) for trial in range(len(self.trials))}
        self._heads.admit([self._heads.member(t, o, *inputs) for t, o in enumerate(self.trials)])

    def _advance(self, fit: StackedHeads | StackedAligners) -> list[TrialReport]:
        """One epoch for the members of a step; those that are done leave it."""
        start = time.perf_counter()
        losses, figures = fit.train_epoch(), fit.figures()
        seconds = (time.perf_counter() - start) / max(1, len(losses))
        reports, staying, done = [], [], []
        for row, member in enumerate(fit.members):
            epoch, (validation, score) = len(member.history), figures[row]
            failure = _failure(fit.phase, member, losses[row], validation)
            if not failure:
                fit.record(row, losses[row], validation, seconds)
            is_last = not (failure or goes_on(member.history, member.options))
            if is_last:
                fit.restore_best(row)
                done.append(member)
            elif not failure:
                staying.append(row)
            best = max((entry.score for entry in member.history), default=None)
            reports.append(
                TrialReport(
                    member.trial,
                    fit.phase,
                    epoch,
                    train_loss=losses[row],
                    validation=validation,
                    score=score,
                    best_score=best if fit.phase == "head" else None,
                    is_finished=bool(failure) or (is_last and fit.phase == "head"),
                    failure=failure,
                )
            )
        fit.keep(staying)
        if fit is self._heads:
            self.finished |= {member.trial: self._finish(member) for member in done}
        else:
            self._heads.admit([self._start_head(member) for member in done])
        return reports

    def _start_head(self, aligned: Member) -> Member:
        assert isinstance(aligned.module, Aligner)
        trial, inputs = aligned.trial, self._heads.inputs(aligned.module)
        self._aligned[trial] = aligned.module, aligned.history
        return self._heads.member(trial, self.trials[trial], *inputs)

    def _finish(self, member: Member) -> TrainedTrial:
        assert isinstance(member.module, ClassificationHead)
        aligner, align_history = self._aligned.pop(member.trial)
        model = AlignedHead(aligner, member.module, direction=self.shape.direction).eval()
        return TrainedTrial(model, align_history, member.history)


def _failure(phase: str, member: Member, loss: float, validation: float) -> str | None:
    if math.isfinite(loss) and math.isfinite(validation):
        return None
    return (
        f"{phase}: epoch {len(member.history)} gave loss {loss} and score {validation}; lower the "
        f"step's learning rate (now {member.options.learning_rate:g}) or look for NaN in its input"
    )


def _check_batch_sizes(shape: StackShape, trials: Sequence[TrialOptions]) -> None:
    wanted = (shape.align_batch_size, shape.head_batch_size)
    for trial, options in enumerate(trials):
        given = (options.align.batch_size, options.head.batch_size)
        if given != wanted:
            raise ConfigError(
                f"trial {trial} has batch sizes {given} (aligner, head) in a stack of {wanted}; "
                f"give trials of one batch size to one stack"
            )
