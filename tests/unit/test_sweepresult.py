"""What a sweep found, on real studies: gain, order of trials, importance."""

import math
from collections.abc import Callable

import optuna
import pytest
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from scipy.stats import ttest_rel  # type: ignore[import-untyped]
from sweep_studies import add_failed, add_pruned, new_study, printed, scored, searched

from langalign.sweepresult import (
    MIN_TRIALS,
    Gain,
    importance_gap,
    importances,
    read_sweep,
    score_of,
    top_trials,
)

GAIN = Gain((0.86, 0.87, 0.85), (0.84, 0.83, 0.84))


# --- gain --------------------------------------------------------------------------------------


def test_the_interval_of_the_gain_is_that_of_the_paired_t_test() -> None:
    expected = ttest_rel(GAIN.best, GAIN.defaults).confidence_interval(0.95)
    assert GAIN.difference == pytest.approx(0.07 / 3)
    assert GAIN.interval == pytest.approx((expected.low, expected.high))


def test_one_seed_gives_a_gain_without_an_interval() -> None:
    gain = Gain((0.9,), (0.8,))
    assert gain.difference == pytest.approx(0.1)
    assert gain.interval is None
    assert "needs 2 seeds" in printed(read_sweep(new_study(), gain))


@pytest.mark.parametrize(("best", "defaults"), [((), ()), ((0.1,), (0.1, 0.2))])
def test_scores_that_do_not_pair_are_refused(
    best: tuple[float, ...], defaults: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="score both alike"):
        Gain(best, defaults)


def test_a_gain_that_may_be_chance_is_said_to_be() -> None:
    sure = read_sweep(new_study(), Gain((0.86, 0.87, 0.85), (0.84, 0.85, 0.82)))
    unsure = read_sweep(new_study(), Gain((0.8, 0.9), (0.9, 0.8)))
    assert "+2.33" in printed(sure)
    assert "86.00 ± 1.00" in printed(sure)
    assert "chance" not in printed(sure)
    assert "this may be chance" in printed(unsure)


# --- scores and order --------------------------------------------------------------------------


def test_completed_trials_come_before_better_ones_that_were_cut_short() -> None:
    study = scored(0.5, 0.7, 0.7)
    add_pruned(study, 0.2, 0.9)
    add_failed(study, "late")
    study.ask().report(0.95, 0)
    trials = read_sweep(study).trials
    assert [score_of(trial) for trial in trials] == [0.5, 0.7, 0.7, 0.9, None, 0.95]
    assert [trial.number for trial in top_trials(trials)] == [1, 2, 0, 5, 3]
    assert [trial.number for trial in top_trials(trials, 2)] == [1, 2]


def test_a_score_that_is_no_number_is_none() -> None:
    study = scored(math.inf)
    add_pruned(study, 0.4, math.nan)
    add_pruned(study)
    assert [score_of(trial) for trial in study.trials] == [None, None, None]


# --- importance --------------------------------------------------------------------------------


def test_importance_finds_what_decides_and_is_the_same_each_time() -> None:
    study = searched(60)
    shares = importances(study.trials)
    assert next(iter(shares)) == "aligner.learning_rate"
    assert shares["aligner.kind"] > shares["aligner.depth"]
    assert sum(v for k, v in shares.items() if k != "aligner.dropout") == pytest.approx(1)
    assert importances(study.trials) == shares


def test_a_logarithmic_range_is_judged_on_its_exponent() -> None:
    study = new_study()
    for _ in range(60):
        trial = study.ask()
        rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
        score = 0.1 * math.log10(rate) + 0.4 * trial.suggest_float("other", 0.0, 0.4) + 0.5
        study.tell(trial, score)
    # Variances over the space: 0.1² · 16 / 12 and 0.4² · 0.16 / 12, that is 86 % and 14 %.
    shares = importances(study.trials)
    assert shares["rate"] == pytest.approx(0.86, abs=0.1)
    by_width = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    assert by_width["rate"] < 0.7


def test_a_conditional_parameter_is_judged_among_the_trials_that_have_it() -> None:
    study = searched(40)
    having = [trial for trial in study.trials if "aligner.dropout" in trial.params]
    sweep = read_sweep(study)
    assert MIN_TRIALS <= len(having) < 40
    alone = importances(having)["aligner.dropout"]
    assert sweep.importance["aligner.dropout"] == alone > 0
    assert sweep.is_conditional("aligner.dropout")
    assert not sweep.is_conditional("aligner.kind")
    assert "aligner.dropout * " in printed(sweep)


def test_a_conditional_parameter_of_too_few_trials_is_left_out() -> None:
    shares = importances(searched(MIN_TRIALS).trials)
    assert "aligner.kind" in shares
    assert "aligner.dropout" not in shares


@pytest.mark.parametrize(
    ("study", "reason"),
    [
        (new_study, "needs 8 completed trials, there are 0"),
        (lambda: searched(2), "needs 8 completed trials, there are 2"),
        (lambda: scored(*[0.5] * 9, kind=["a", "b"]), "all completed trials have the same score"),
        (lambda: scored(*(0.1 * i for i in range(9)), kind=["a"]), "no parameter took two values"),
        (lambda: scored(*(0.1 * i for i in range(9))), "no parameter took two values"),
    ],
)
def test_without_enough_to_go_by_importance_is_empty_and_says_why(
    study: Callable[[], optuna.Study], reason: str
) -> None:
    sweep = read_sweep(study())
    assert sweep.importance == {}
    assert importance_gap(sweep.trials) == reason
    assert f"Importance: {reason}" in printed(sweep)


def test_a_constant_parameter_has_no_importance() -> None:
    study = new_study()
    for i in range(10):
        trial = study.ask()
        trial.suggest_categorical("kind", ["ae"])
        study.tell(trial, 0.5 + trial.suggest_float("rate", 0.0, 0.4) + 1e-4 * i)
    assert importances(study.trials) == {"rate": 1.0, "kind": 0.0}


def test_importance_leaves_optuna_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    study = searched(10)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    capfd.readouterr()
    importances(study.trials)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capfd.readouterr().err == ""
