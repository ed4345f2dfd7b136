"""What a sweep found: the best trials, the importance of each parameter, the gain.

Scores are the task metric on held-out rows, 0 to 1, higher is better.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.special import stdtrit  # type: ignore[import-untyped]  # scikit-learn brings scipy

__all__ = [
    "Gain",
    "SweepResult",
    "completed",
    "importances",
    "read_sweep",
    "score_of",
    "top_trials",
]

CONFIDENCE = 0.95
MIN_TRIALS = 8  # with fewer, the forest of fANOVA fits noise


@dataclass(frozen=True)
class Gain:
    """Scores of the best parameters and of the config's own, paired: one seed at each place.

    Raises:
        ValueError: the two differ in length, or are empty.
    """

    best: tuple[float, ...]
    defaults: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.best) != len(self.defaults) or not self.best:
            raise ValueError(f"{len(self.best)} and {len(self.defaults)} scores: score both alike")

    @property
    def difference(self) -> float:
        """Mean of best minus defaults, -1 to 1."""
        return statistics.fmean(self.best) - statistics.fmean(self.defaults)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % confidence interval of `difference`; None for a single seed."""
        n = len(self.best)
        if n < 2:
            return None
        spread = statistics.stdev(a - b for a, b in zip(self.best, self.defaults, strict=True))
        margin = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * spread / math.sqrt(n)
        return self.difference - margin, self.difference + margin


@dataclass(frozen=True)
class SweepResult:
    """A study as its report reads it, once, because a study in a database may change meanwhile."""

    trials: Sequence[FrozenTrial]  # by number
    parameters: Sequence[str]  # sorted
    importance: Mapping[str, float]
    gain: Gain | None

    def is_conditional(self, name: str) -> bool:
        """Whether only some of the completed trials have the parameter."""
        return any(name not in trial.params for trial in completed(self.trials))


def read_sweep(study: optuna.Study, gain: Gain | None = None) -> SweepResult:
    """Read a study that maximises one score; it may be unfinished, or have no trial."""
    trials = study.get_trials(deepcopy=False)
    return SweepResult(trials, _names(trials), importances(trials), gain)


def score_of(trial: FrozenTrial) -> float | None:
    """The trial's score; of one stopped early or unfinished its last one; None if it failed."""
    if trial.state == TrialState.FAIL:
        return None
    last = trial.intermediate_values.get(trial.last_step or 0)
    value = last if trial.value is None else trial.value
    return value if value is not None and math.isfinite(value) else None


def completed(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that ran to their end and gave a finite score."""
    done = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return [trial for trial in done if score_of(trial) is not None]


def top_trials(trials: Iterable[FrozenTrial], n: int = 10) -> list[FrozenTrial]:
    """The `n` best: completed trials first, then those cut short; of equals the earlier one."""
    ranked = [
        (trial.state != TrialState.COMPLETE, -score, trial.number, trial)
        for trial in trials
        if (score := score_of(trial)) is not None
    ]
    return [trial for *_, trial in sorted(ranked)[:n]]


def is_log(trial: FrozenTrial, name: str) -> bool:
    """Whether the parameter is drawn evenly by its logarithm."""
    return bool(getattr(trial.distributions[name], "log", False))  # a choice has no `log`


def coordinate(trial: FrozenTrial, name: str) -> float:
    """Place of a parameter's value on an even axis: log10 if drawn so, a choice by its index."""
    value, domain = trial.params[name], trial.distributions[name]
    if isinstance(domain, Choice):
        return float(domain.to_internal_repr(value))
    return math.log10(value) if is_log(trial, name) else float(value)


def importances(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Share of the score's variance, 0 to 1, that each parameter explains alone; largest first.

    fANOVA over the completed trials, with one seed, so the same trials give the same shares. It
    takes only parameters that all its trials have. A conditional one is therefore judged among
    the trials that have it, and left out where these are fewer than MIN_TRIALS; its share does
    not add up with the others. Logarithmic ranges are judged on the exponent: fANOVA as Optuna
    calls it weighs them by width, where the top decade counts for 90 %.

    Empty where `importance_gap` says why.
    """
    if importance_gap(trials):
        return {}
    done = completed(trials)
    shares = _shares(done)
    for name in _names(done):
        having = [trial for trial in done if name in trial.params]
        if MIN_TRIALS <= len(having) < len(done):
            shares[name] = _shares(having)[name]
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def importance_gap(trials: Sequence[FrozenTrial]) -> str:
    """Why nothing can be said about importance; empty where something can."""
    done = completed(trials)
    if len(done) < MIN_TRIALS:
        return f"needs {MIN_TRIALS} completed trials, there are {len(done)}"
    if not _differ(map(score_of, done)):
        return "all completed trials have the same score"
    if not any(_differ(trial.params.get(name) for trial in done) for name in _names(done)):
        return "no parameter took two values"
    return ""


def _names(trials: Iterable[FrozenTrial]) -> list[str]:
    return sorted({name for trial in trials for name in trial.params})


def _differ(values: Iterable[object]) -> bool:
    return len({repr(value) for value in values}) > 1  # by repr: 1 and True are two choices


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """fANOVA of the parameters that all of `trials` have; 0 for one that never varied."""
    shared = [name for name in _names(trials) if all(name in trial.params for trial in trials)]
    varied = [name for name in shared if _differ(trial.params[name] for trial in trials)]
    shares = dict.fromkeys(shared, 0.0)
    if varied and _differ(map(score_of, trials)):
        evaluator = FanovaImportanceEvaluator(seed=0)
        shares |= get_param_importances(_even_study(trials, varied), evaluator=evaluator)
    return shares


def _even_study(trials: Sequence[FrozenTrial], names: Sequence[str]) -> optuna.Study:
    """The trials with their parameters as coordinates, over the range that was tried."""
    domains: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in names:
        places = [coordinate(trial, name) for trial in trials]
        # Half a step about each choice gives all choices the same width.
        margin = 0.5 if isinstance(trials[0].distributions[name], Choice) else 0.0
        domains[name] = FloatDistribution(min(places) - margin, max(places) + margin)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a study of ours is no news to the user
    study = optuna.create_study(direction="maximize")
    optuna.logging.set_verbosity(verbosity)
    for trial in trials:
        params = {name: coordinate(trial, name) for name in names}
        study.add_trial(create_trial(params=params, distributions=domains, value=trial.value))
    return study
