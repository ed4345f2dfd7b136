"""Studies as a search leaves them, for the tests of what is said at its end."""

import io
import math
import random
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Console

from langalign.sweepreport import print_gain, sweep_tables
from langalign.sweepresult import SweepResult


def new_study() -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))


def searched(n: int) -> optuna.Study:
    """Trials of the aligner: the learning rate decides, then the kind; fc alone has a dropout."""
    study = new_study()
    noise = random.Random(0)
    for _ in range(n):
        trial = study.ask()
        kind = trial.suggest_categorical("aligner.kind", ["fc", "ae"])
        rate = trial.suggest_float("aligner.learning_rate", 1e-5, 1e-2, log=True)
        trial.suggest_int("aligner.depth", 2, 8 if kind == "fc" else 6)
        score = 0.85 - 0.1 * abs(math.log10(rate) + 3.5) - (0.02 if kind == "fc" else 0.0)
        if kind == "fc":
            score -= 0.1 * trial.suggest_float("aligner.dropout", 0.0, 0.6)
        trial.report(score - 0.1, 0)
        trial.report(score, 1)
        study.tell(trial, score + noise.gauss(0, 0.001))
    return study


def scored(*scores: float, **params: list[Any]) -> optuna.Study:
    """Completed trials with these scores, and a random choice for every parameter."""
    study = new_study()
    for score in scores:
        trial = study.ask()
        for name, choices in params.items():
            trial.suggest_categorical(name, choices)
        study.tell(trial, score)
    return study


def add_pruned(study: optuna.Study, *reported: float) -> None:
    trial = study.ask()
    trial.suggest_float("head.learning_rate", 1e-5, 1e-2, log=True)
    for epoch, score in enumerate(reported):
        trial.report(score, epoch)
    study.tell(trial, state=TrialState.PRUNED)


def add_failed(study: optuna.Study, reason: str) -> None:
    trial = study.ask()
    trial.suggest_categorical("head.kind", [reason, "mlp"])
    trial.report(0.99, 0)
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.FAIL)


def all_pruned() -> optuna.Study:
    study = new_study()
    add_pruned(study, 0.4, 0.5)
    add_pruned(study, 0.6)
    return study


def all_failed() -> optuna.Study:
    study = new_study()
    for _ in range(3):
        add_failed(study, "out of memory")
    return study


def mixed_choices() -> optuna.Study:
    return scored(
        *(0.5 + 0.01 * i for i in range(12)), **{"head.dropout": [None, 0.5, "auto", True]}
    )


def interrupted() -> optuna.Study:
    study = searched(12)
    add_pruned(study, 0.4, math.nan)
    add_pruned(study)
    add_failed(study, "loss is NaN")
    study.ask().report(0.3, 0)
    study.enqueue_trial({"head.learning_rate": 1e-3})
    return study


def printed(sweep: SweepResult, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        sweep_tables(sweep, console)
        print_gain(sweep.gain, console)
    return capture.get()
