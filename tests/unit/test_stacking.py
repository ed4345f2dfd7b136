"""Trials in one stack give what `fit_aligner` and `fit_head` give each of them alone.

Shapes: N rows, D = 12 wide embeddings, C = 3 classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from langalign import stacked_fit
from langalign.aligners import LEARNED_KINDS, Direction
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.errors import ConfigError
from langalign.loop import EpochReport, FitOptions, seed_everything
from langalign.stacked_adamw import StackedAdamW
from langalign.stacked_network import aligner_layout
from langalign.stacking import (
    AlignerShape,
    TrainedTrial,
    TrialData,
    TrialOptions,
    TrialReport,
    TrialStack,
)
from langalign.training import Labelled, Pairs, count_outcomes, fit_aligner, fit_head

D, CLASSES = 12, 3
HIDDEN = {"fc": 32, "ae": 32, "residual": 24}
RATES = (1e-3, 1e-2, 3e-3, 1e-4)
KINDS = [*LEARNED_KINDS, "linear", "procrustes", "none"]


def random(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


def translated(x: Tensor, seed: int) -> Tensor:
    """A rotation (the same for every seed), and noise."""
    rotation = torch.linalg.qr(random(D, 99)).Q
    return torch.addmm(0.1 * random(len(x), seed), x, rotation)


def make_pairs(rows: int, seed: int, direction: Direction) -> Pairs:
    english = random(rows, seed)
    other = translated(english, seed + 10)
    return Pairs(english, other) if direction == "forward" else Pairs(other, english)


def make_data(direction: Direction = "forward") -> TrialData:
    """Row counts that no batch size divides."""
    english, other = random(101, 3), random(45, 4)
    labels = [(x[:, 0] > 0).long() + (x[:, 1] > 0.5).long() for x in (english, other)]
    return TrialData(
        make_pairs(83, 1, direction),
        make_pairs(21, 2, direction),
        Labelled(english, labels[0], of_target=False),
        Labelled(translated(other, 5), labels[1], of_target=True),
        classes=CLASSES,
        metric="macro_f1",
        direction=direction,
    )


def make_shape(kind: str, **fields: bool) -> AlignerShape:
    depth = {"fc": 6, "ae": 2, "residual": 3}.get(kind)
    return AlignerShape(kind, depth, HIDDEN.get(kind), **fields)


def make_trials(kind: str, **fields: bool) -> list[TrialOptions]:
    """Four trials that share their aligner's shape only; their steps end after different epochs."""
    dropouts = (None, 0.3, 0.0, 0.5) if kind in LEARNED_KINDS else (None,) * 4
    return [
        TrialOptions(
            make_shape(kind, **fields),
            align=FitOptions(RATES[t], 16, 4 + t, 2, weight_decay=0.1 * t, seed=t),
            head=FitOptions(RATES[-t], 8, 5 - t, 2, weight_decay=0.05 * t, seed=5 * t),
            dropout=dropouts[t],
            head_dropout=(0.1, 0.0, 0.5, 0.2)[t],
        )
        for t in range(4)
    ]


def alone(options: TrialOptions, data: TrialData) -> TrainedTrial:
    """The trial as the pipeline trains it."""
    seed_everything(options.align.seed, 2)
    aligner = options.shape.build(D, options.dropout)
    aligned = fit_aligner(
        aligner,
        data.pairs,
        data.held_out_pairs,
        options=options.align,
        identity_weight=options.identity_weight,
    )
    seed_everything(options.head.seed, 3)
    head = ClassificationHead(D, CLASSES, dropout=options.head_dropout)
    model = AlignedHead(aligner, head, direction=data.direction)
    history = fit_head(
        model,
        data.rows,
        data.held_out,
        metric=data.metric,
        options=options.head,
        residuals_of=data.pairs if options.adds_residuals else None,
    )
    return TrainedTrial(model, aligned, history)


def run(stack: TrialStack) -> list[TrialReport]:
    reports: list[TrialReport] = []
    while stack.live:
        reports += stack.step()
    return reports


def figures(history: Sequence[EpochReport]) -> list[tuple[float, float]]:
    return [(entry.train_loss, entry.score) for entry in history]


def assert_same(found: TrainedTrial, wanted: TrainedTrial, tolerance: float = 1e-5) -> None:
    for mine, theirs in (
        (found.align_history, wanted.align_history),
        (found.head_history, wanted.head_history),
    ):
        assert [entry.best for entry in mine] == [entry.best for entry in theirs]
        np.testing.assert_allclose(figures(mine), figures(theirs), atol=tolerance, rtol=0)
    torch.testing.assert_close(
        found.model.state_dict(), wanted.model.state_dict(), atol=tolerance, rtol=0
    )


# --- equal to the unstacked run ---------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_trial_of_a_stack_is_what_it_is_alone(kind: str, direction: Direction) -> None:
    trials, data = make_trials(kind), make_data(direction)
    stack = TrialStack(trials, data)
    run(stack)
    wanted = [alone(options, data) for options in trials]
    # Otherwise the stack would never shrink and its rows never move.
    assert len({len(trial.head_history) for trial in wanted}) > 1
    assert sorted(stack.finished) == [0, 1, 2, 3]
    for trial, result in stack.finished.items():
        assert_same(result, wanted[trial])


def test_without_identity_pairs_too() -> None:
    data = make_data()
    trials = make_trials("fc", identity_pairs=False)
    stack = TrialStack(trials, data)
    run(stack)
    for trial, options in enumerate(trials):
        assert_same(stack.finished[trial], alone(options, data))


def test_an_identity_weight_is_a_trial_s_own() -> None:
    data = make_data()
    plain = make_trials("ae")[0]
    trials = [plain, replace(plain, identity_weight=0.2)]
    stack = TrialStack(trials, data)
    run(stack)
    for trial, options in enumerate(trials):
        assert_same(stack.finished[trial], alone(options, data))
    losses = [figures(stack.finished[trial].align_history) for trial in (0, 1)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("kind", ["ae", "procrustes", "none"])
def test_heads_with_residuals_too(kind: str, direction: Direction) -> None:
    data = make_data(direction)
    plain = make_trials(kind)
    trials = [replace(options, adds_residuals=True) for options in plain]
    stack = TrialStack(trials, data)
    run(stack)
    for trial, options in enumerate(trials):
        assert_same(stack.finished[trial], alone(options, data))
    moved, unmoved = (alone(options[0], data) for options in (trials, plain))
    # There is nothing that an aligner leaves where there is none.
    assert (figures(moved.head_history) == figures(unmoved.head_history)) == (kind == "none")


@pytest.mark.parametrize("in_a_block", [1, 3])
def test_a_stack_larger_than_the_cache_is_computed_in_blocks(
    in_a_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, data = make_trials("fc"), make_data()
    size = aligner_layout("fc", D, depth=6, hidden=32).parameters * stacked_fit.BYTES_PER_PARAMETER
    monkeypatch.setattr(stacked_fit, "CACHE_BYTES", size * in_a_block)
    blocks: list[int] = []
    take_step = StackedAdamW.step

    def spy(self: StackedAdamW, weights: Tensor, gradients: Tensor, rows: slice) -> None:
        if weights.shape[1] * stacked_fit.BYTES_PER_PARAMETER == size:
            blocks.append(len(weights))
        take_step(self, weights, gradients, rows)

    monkeypatch.setattr(StackedAdamW, "step", spy)
    stack = TrialStack(trials, data)
    run(stack)
    assert max(blocks) == in_a_block
    for trial, options in enumerate(trials):
        assert_same(stack.finished[trial], alone(options, data))


def test_the_rows_given_are_left_as_they_are() -> None:
    data, untouched = make_data(), make_data()
    run(TrialStack(make_trials("none"), data))
    run(TrialStack(make_trials("residual"), data))
    for part in ("pairs", "held_out_pairs", "rows", "held_out"):
        for name, values in vars(getattr(data, part)).items():
            if isinstance(values, Tensor):
                assert torch.equal(values, getattr(getattr(untouched, part), name))


def test_trials_of_all_kinds_share_a_stack_and_are_what_they_are_alone() -> None:
    data = make_data()
    trials = [make_trials(kind)[t % 4] for t, kind in enumerate([*KINDS, "fc", "ae"])]
    trials.append(replace(trials[0], align=replace(trials[0].align, batch_size=7)))
    stack = TrialStack(trials, data)
    run(stack)
    assert sorted(stack.finished) == list(range(len(trials)))
    for trial, options in enumerate(trials):
        assert_same(stack.finished[trial], alone(options, data))


# --- leaving the stack ------------------------------------------------------------------------


def test_a_dropped_trial_leaves_the_others_as_they_are() -> None:
    trials, data = make_trials("fc"), make_data()
    stack = TrialStack(trials, data)
    stack.step()
    stack.drop(1)  # while it aligns
    while stack.step()[0].phase == "align":
        pass
    assert stack.live == [0, 2, 3]
    stack.drop(0)  # while its head trains
    assert {report.trial for report in run(stack)} <= {2, 3}
    assert sorted(stack.finished) == [2, 3]
    for trial, result in stack.finished.items():
        assert_same(result, alone(trials[trial], data))
    with pytest.raises(ValueError, match="trial 1 is not among the live ones"):
        stack.drop(1)


@pytest.mark.parametrize("phase", ["align", "head"])
def test_a_trial_whose_loss_is_not_finite_leaves_alone_with_its_reason(phase: str) -> None:
    trials, data = make_trials("ae"), make_data()
    broken = {phase: replace(getattr(trials[1], phase), learning_rate=1e30)}
    stack = TrialStack([trials[0], replace(trials[1], **broken), *trials[2:]], data)
    failures = [report for report in run(stack) if report.failure]
    assert [(report.trial, report.phase, report.is_finished) for report in failures] == [
        (1, phase, True)
    ]
    assert f"{phase}: epoch 0 gave loss" in str(failures[0].failure)
    assert "now 1e+30" in str(failures[0].failure)
    assert sorted(stack.finished) == [0, 2, 3]
    for trial, result in stack.finished.items():
        assert_same(result, alone(trials[trial], data))


def test_a_stack_of_no_trials_has_nothing_to_do() -> None:
    stack = TrialStack([], make_data())
    assert stack.live == []
    assert stack.step() == []


# --- reports and results ----------------------------------------------------------------------


def test_each_step_reports_one_epoch_of_every_live_trial() -> None:
    stack = TrialStack(make_trials("residual"), make_data())
    seen: dict[int, list[tuple[str, int]]] = {trial: [] for trial in range(4)}
    while live := stack.live:
        reports = stack.step()
        assert [report.trial for report in reports] == live
        for report in reports:
            seen[report.trial].append((report.phase, report.epoch))
    for trial, result in stack.finished.items():
        steps = {"align": result.align_history, "head": result.head_history}
        assert seen[trial] == [(step, e.epoch) for step, history in steps.items() for e in history]


def test_a_probe_is_labelled_as_one_and_never_becomes_a_result() -> None:
    stack = TrialStack(make_trials("ae"), make_data())
    reports = run(stack)
    for report in reports:
        history = getattr(stack.finished[report.trial], f"{report.phase}_history")
        assert report.validation == history[report.epoch].score
        assert report.is_probe == (report.phase == "align") == (report.best_score is None)
        assert 0 <= report.score <= 1
        if report.is_probe:
            assert report.value == report.score
        else:
            so_far = [entry.score for entry in history[: report.epoch + 1]]
            assert report.value == report.best_score == max(so_far)
    ends = {report.trial: report.value for report in reports if report.is_finished}
    assert ends == {trial: result.score for trial, result in stack.finished.items()}


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("identity_pairs", [True, False])
def test_a_probe_is_the_trial_s_head_after_three_epochs_on_the_aligner_as_it_stands(
    direction: Direction, identity_pairs: bool
) -> None:
    options = TrialOptions(
        make_shape("fc", identity_pairs=identity_pairs),
        FitOptions(1e-2, 16, 2, 2, seed=1),
        FitOptions(1e-2, 8, 3, 3, seed=2),
    )
    data = make_data(direction)
    (report, *_) = TrialStack([options, make_trials("ae")[0]], data).step()
    first = replace(options, align=replace(options.align, max_epochs=1))
    assert report.score == pytest.approx(alone(first, data).head_history[-1].score)
    assert report.epoch == 0


def test_the_weights_of_a_finished_trial_load_into_new_modules() -> None:
    trials, data = make_trials("fc"), make_data()
    stack = TrialStack(trials, data)
    run(stack)
    for trial, result in stack.finished.items():
        aligner = trials[trial].shape.build(D, trials[trial].dropout)
        head = ClassificationHead(D, CLASSES)
        aligner.load_state_dict(result.model.aligner.state_dict())
        head.load_state_dict(result.model.head.state_dict())
        model = AlignedHead(aligner, head, direction="forward")
        predicted = predictions(model, data.held_out)
        assert macro_f1(data.held_out.labels, predicted) == pytest.approx(result.score)
        assert count_outcomes(result.model, data.held_out).sum() == 45


def test_options_that_cannot_be_stacked_are_refused() -> None:
    trials = make_trials("linear")
    odd = replace(trials[1], head=replace(trials[1].head, batch_size=9))
    with pytest.raises(ConfigError, match="trial 1 has a head batch size of 9 in a stack of 8"):
        TrialStack([trials[0], odd], make_data())
    odd = replace(trials[1], adds_residuals=True)
    with pytest.raises(ConfigError, match=r"trial 1 has head\.residuals=True in a stack of False"):
        TrialStack([trials[0], odd], make_data())
    with pytest.raises(ConfigError, match=r"aligner\.dropout is set but aligner\.kind=linear"):
        TrialStack([trials[0], replace(trials[1], dropout=0.1)], make_data())


@torch.no_grad()
def predictions(model: AlignedHead, rows: Labelled) -> Tensor:
    logits: Tensor = model.eval()(rows.embeddings, of_target=rows.of_target)
    return logits.argmax(-1)


def macro_f1(labels: Tensor, predicted: Tensor) -> float:
    return float(f1_score(labels.numpy(), predicted.numpy(), average="macro"))
