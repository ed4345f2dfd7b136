"""The best of a sweep against the config's own values, on seeds that chose neither."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from optuna.trial import FrozenTrial

from cluster import session
from cluster.trial import fit_seeds
from langalign.errors import TrainingError
from langalign.searchspace import SweepConfig
from langalign.sweepresult import Gain, completed, top_trials

__all__ = ["Comparison", "measure_gain", "own_trial"]

# Fresh seeds start here, away from those of the trials.
FRESH_SEEDS = 1000
# How Ray reports a worker that the system killed, mostly for its memory, or whose node is lost.
WORKER_ENDS = (
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
)


@dataclass(frozen=True)
class Comparison:
    """The best trial of a search and the one of the config's own values, with their fresh scores.

    `fault` is why they could not be compared; where nobody asked for it there is none.
    """

    best: FrozenTrial
    own: FrozenTrial | None = None
    gain: Gain | None = None
    fault: str = ""

    @property
    def chosen(self) -> FrozenTrial:
        """The trial to publish: the best, unless fresh seeds say that the own values are better."""
        if self.own is None or self.gain is None or self.gain.difference >= 0:
            return self.best
        return self.own

    @property
    def notes(self) -> list[str]:
        """Why there is no gain, or why the best is not the one to publish."""
        if self.fault:
            return [f"gain: not measured: {self.fault}"]
        if self.gain is None or self.chosen is self.best:
            return []
        points = -100 * self.gain.difference
        return [
            f"trial {self.best.number}, the best of the search, is {points:.2f} points below the "
            f"config's own values (trial {self.chosen.number}) on fresh seeds, so these are chosen"
        ]


def own_trial(points: Sequence[dict[str, Any]], trials: Iterable[FrozenTrial]) -> FrozenTrial:
    """Of the trials of the config's own values the one that scored best.

    `points` are these values by config key, for each aligner kind (`paper_points`).

    Raises:
        TrainingError: none of them reached a score.
    """
    own = [trial for trial in completed(trials) if trial.params in points]
    if not own:
        raise TrainingError("no trial of the config's own values reached a score")
    return top_trials(own, 1)[0]


def measure_gain(
    config: SweepConfig,
    best: Mapping[str, Any],
    own: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> Gain:
    """Train both on `sweep.confirm_seeds` fresh seeds; `best` and `own` are values by config key.

    Where they are the same they are trained once.

    `arrays` holds a reference to TrialArrays for each pooling.

    Raises:
        TrainingError: the loss of one of them is not finite, or memory ends.
    """
    options = config.sweep
    fit = ray.remote(num_cpus=options.cpus_per_stack, num_gpus=options.gpus_per_stack)(fit_seeds)
    seeds = [config.seed + FRESH_SEEDS + i for i in range(options.confirm_seeds)]
    wanted = {"the best": best} | ({} if own == best else {"the config's own values": own})
    fits = {
        name: fit.remote(values, seeds, arrays=arrays, pipeline=config)
        for name, values in wanted.items()
    }
    scores = []
    for name, reference in fits.items():
        try:
            with session.without_ray_wrapping():
                scores.append(tuple(ray.get(reference)))
        except (TrainingError, *WORKER_ENDS) as error:
            for other in fits.values():
                ray.cancel(other)
            reason = str(error).partition("\n")[0]
            raise TrainingError(f"{name} on fresh seeds: {reason}") from error
    return Gain(scores[0], scores[-1])
