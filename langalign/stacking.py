"""Many trials of a search trained as one batched computation, on cached embeddings in memory.

A trial is step 2 (the aligner) and then step 3 (a new head through the frozen aligner), as
`fit_aligner` and `fit_head` do them, with a score on the held-out rows after every epoch.
Aligners of one shape are computed as one, and so are all heads, which have the same shape whatever
their aligners are.

While a trial's aligner trains it has no head. The score of such an epoch is a probe's: a new head
with the trial's own options, but trained more shortly and on fewer English rows through the aligner
as it stands (`COMPARED` where a scheduler compares trials, `WATCHED` where none does, `NO_PROBE`).
`COMPARED` costs an eighth (fc) to a quarter (ae) of an epoch over 2,000 pairs, and lets a scheduler
compare trials from the first epoch on. A ridge classifier is cheaper, but told little
about the final order of trials on SIB-200: it does not mind how an aligner scales its outputs, and
a head does. The squared error on held-out pairs ordered trials the wrong way round on SST-2.

A probe's score never becomes a trial's result, which is the best score of its own head; so a
trial's value may fall when that head starts.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from langalign.aligners import LEARNED_KINDS, Aligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.errors import ConfigError
from langalign.loop import EpochReport, goes_on
from langalign.stacked_fit import Member
from langalign.stacked_steps import StackedAligners, StackedHeads, probe_scores
from langalign.training import fit_aligner
from langalign.trials import (
    COMPARED,
    AlignerShape,
    Probe,
    TrainedTrial,
    TrialData,
    TrialOptions,
    TrialReport,
)

__all__ = ["AlignerShape", "TrainedTrial", "TrialData", "TrialOptions", "TrialReport", "TrialStack"]


class TrialStack:
    """Trains trials in lock-step; they are named by their index in `trials`.

    Trials whose aligners are done train their heads together while others still align. A trial
    that ends, fails or is dropped leaves the stack, and the others' results do not change.
    `finished` holds the trials that came to their end.
    """

    def __init__(
        self,
        trials: Sequence[TrialOptions],
        data: TrialData,
        device: torch.device | None = None,
        *,
        probe: Probe = COMPARED,
    ) -> None:
        """Build every trial's first weights; fit the aligners that have a closed form.

        Without a `probe` an epoch of an aligner is reported with its negative squared error only.

        Raises:
            ConfigError: a shape or dropout that the kind does not have, or trials whose heads
                have different batch sizes or different ways with residuals.
        """
        self.trials = tuple(trials)
        _check_heads(self.trials)
        self.data = data.to(device or torch.device("cpu"))
        self.probe = probe
        self.finished: dict[int, TrainedTrial] = {}
        self._aligned: dict[int, tuple[Aligner, list[EpochReport]]] = {}
        self._aligners: dict[tuple[AlignerShape, int], StackedAligners] = {}
        head_batch = self.trials[0].head.batch_size if self.trials else 1
        adds_residuals = any(options.adds_residuals for options in self.trials)
        self._heads = StackedHeads(head_batch, self.data, adds_residuals=adds_residuals)
        for trial, options in enumerate(self.trials):
            if options.shape.kind in LEARNED_KINDS:
                fit = self._aligners_of(options)
                fit.admit([fit.member(trial, options)])
            else:
                self._align_at_once(trial, options)

    @property
    def live(self) -> list[int]:
        """The trials that the next step trains."""
        return sorted(member.trial for fit in self._fits() for member in fit.members)

    def step(self) -> list[TrialReport]:
        """Train every live trial by one epoch of the step it is in; one report for each."""
        # Heads first: a trial whose aligner ends in a step starts its head in the next one.
        reports = self._advance(self._heads, _epoch(self._heads))
        aligning = [fit for fit in self._aligners.values() if fit.members]
        epochs = [_epoch(fit) for fit in aligning]
        probed = probe_scores(aligning, self.trials, self.data, self.probe)
        for fit, epoch in zip(aligning, epochs, strict=True):
            reports += self._advance(fit, replace(epoch, probed=probed))
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
        return [self._heads, *self._aligners.values()]

    def _aligners_of(self, options: TrialOptions) -> StackedAligners:
        key = options.shape, options.align.batch_size
        if key not in self._aligners:
            self._aligners[key] = StackedAligners(*key, self.data)
        return self._aligners[key]

    def _align_at_once(self, trial: int, options: TrialOptions) -> None:
        """Fit the closed form, which takes milliseconds."""
        aligner = options.shape.build(self.data.width, options.dropout)
        aligner = aligner.to(self.data.rows.embeddings.device)
        fit_aligner(aligner, self.data.pairs, self.data.held_out_pairs, options=options.align)
        self._start_head(trial, aligner, [])

    def _advance(self, fit: StackedHeads | StackedAligners, epoch: "_Epoch") -> list[TrialReport]:
        """Note an epoch of the members of a step; those that are done leave it."""
        reports, staying, done = [], [], []
        for row, member in enumerate(fit.members):
            number, loss = len(member.history), epoch.losses[row]
            validation = epoch.validation[row]
            failure = _failure(fit.phase, member, loss, validation)
            if not failure:
                fit.record(row, loss, validation, epoch.seconds)
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
                    number,
                    train_loss=loss,
                    validation=validation,
                    score=epoch.probed.get(member.trial, validation),
                    best_score=best if fit.phase == "head" else None,
                    is_finished=bool(failure) or (is_last and fit.phase == "head"),
                    failure=failure,
                )
            )
        fit.keep(staying)
        for member in done:
            if isinstance(member.module, Aligner):
                self._start_head(member.trial, member.module, member.history)
            else:
                self.finished[member.trial] = self._finish(member)
        return reports

    def _start_head(self, trial: int, aligner: Aligner, history: list[EpochReport]) -> None:
        self._aligned[trial] = aligner, history
        inputs = self._heads.inputs(aligner)
        self._heads.admit([self._heads.member(trial, self.trials[trial], *inputs)])

    def _finish(self, member: Member) -> TrainedTrial:
        assert isinstance(member.module, ClassificationHead)
        aligner, align_history = self._aligned.pop(member.trial)
        model = AlignedHead(aligner, member.module, direction=self.data.direction).eval()
        return TrainedTrial(model, align_history, member.history)


@dataclass(frozen=True)
class _Epoch:
    """What an epoch gave a step's members, by row; `seconds` for each, `probed` by trial."""

    losses: list[float]
    validation: list[float]
    seconds: float
    probed: Mapping[int, float] = field(default_factory=dict)


def _epoch(fit: StackedHeads | StackedAligners) -> _Epoch:
    start = time.perf_counter()
    losses, validation = fit.train_epoch(), fit.validation()
    return _Epoch(losses, validation, (time.perf_counter() - start) / max(1, len(losses)))


def _failure(phase: str, member: Member, loss: float, validation: float) -> str | None:
    if math.isfinite(loss) and math.isfinite(validation):
        return None
    return (
        f"{phase}: epoch {len(member.history)} gave loss {loss} and score {validation}; lower the "
        f"step's learning rate (now {member.options.learning_rate:g}) or look for NaN in its input"
    )


def _check_heads(trials: Sequence[TrialOptions]) -> None:
    for trial, options in enumerate(trials):
        given, wanted = options.head.batch_size, trials[0].head.batch_size
        if given != wanted:
            raise ConfigError(
                f"trial {trial} has a head batch size of {given} in a stack of {wanted}; "
                f"give trials of one head.batch_size to one stack"
            )
        if options.adds_residuals != trials[0].adds_residuals:
            raise ConfigError(
                f"trial {trial} has head.residuals={options.adds_residuals} in a stack of "
                f"{trials[0].adds_residuals}; give trials of one head.residuals to one stack"
            )
