"""The best of a sweep against the config's own values, on seeds that chose neither."""

from collections.abc import Mapping
from typing import Any

import ray

from cluster import session
from cluster.trial import fit_seeds
from langalign.errors import TrainingError
from langalign.searchspace import SweepConfig
from langalign.sweepresult import Gain

__all__ = ["measure_gain"]

# Fresh seeds start here, away from those of the trials.
FRESH_SEEDS = 1000
# How Ray reports a worker that the system killed, mostly for its memory.
WORKER_ENDS = (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError)


def measure_gain(config: SweepConfig, best: Mapping[str, Any], arrays: Mapping[str, Any]) -> Gain:
    """Train both on `sweep.confirm_seeds` fresh seeds; `best` are values by config key.

    `arrays` holds a reference to TrialArrays for each pooling.

    Raises:
        TrainingError: the loss of one of them is not finite, or memory ends.
    """
    options = config.sweep
    fit = ray.remote(num_cpus=options.cpus_per_stack, num_gpus=options.gpus_per_stack)(fit_seeds)
    seeds = [config.seed + FRESH_SEEDS + i for i in range(options.confirm_seeds)]
    own = {"aligner.kind": config.aligner.kind}
    fits = {
        name: fit.remote(values, seeds, arrays=arrays, pipeline=config)
        for name, values in (("the best", best), ("the config's own values", own))
    }
    scores = []
    for name, reference in fits.items():
        try:
            with session.without_ray_wrapping():
                scores.append(tuple(ray.get(reference)))
        except (TrainingError, *WORKER_ENDS) as error:
            reason = str(error).partition("\n")[0]
            raise TrainingError(f"{name} on fresh seeds: {reason}") from error
    return Gain(*scores)
