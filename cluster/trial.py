"""Trials of a sweep that one process trains together: step 2, then step 3, on embeddings in memory.

All trials of a group and all their seeds are one stack (`langalign.stacking`), whatever the shapes
of their aligners.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from cluster.arrays import TrialArrays
from cluster.plan import fit_options
from langalign.config import PipelineConfig
from langalign.errors import TrainingError
from langalign.searchspace import pipeline_values
from langalign.stacking import TrialStack
from langalign.trials import NO_PROBE, AlignerShape, Probe, TrialOptions, TrialReport

__all__ = [
    "TrialGroup",
    "TrialState",
    "assigned_device",
    "fetched",
    "fit_seeds",
    "reason_of",
    "trial_options",
]

REASON_LINES = 3  # pydantic names the key and the rule in the second and third


@dataclass
class TrialState:
    """Where a trial stands: epochs, and by seed the score on the held-out rows.

    A score is a probe's while the aligner trains, then the head's best so far. `seconds` is the
    trial's share of the time of its stack.
    """

    live: set[int]
    epochs: int = 0
    seconds: float = 0.0
    scores: dict[int, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return float(np.mean(list(self.scores.values())))

    def take(self, seed: int, report: TrialReport, seconds: float) -> None:
        """Note what an epoch gave one seed."""
        self.seconds += seconds
        self.scores[seed] = report.value
        if report.is_finished:
            self.live.discard(seed)
        if report.failure:
            self.failure = f"seed {seed}: {report.failure}"


class TrialGroup:
    """Trials by number, in one stack for each pooling; a trial that fails leaves it alone."""

    def __init__(
        self,
        trials: Mapping[int, Mapping[str, Any]],
        seeds: Sequence[int],
        *,
        pipeline: PipelineConfig,
        arrays: Mapping[str, TrialArrays],
        device: torch.device,
        probe: Probe,
    ) -> None:
        """`trials` are values by config key, `arrays` the embeddings by pooling. The
        `probe` is what scores aligners while these train.

        Raises:
            LangAlignError: values that make no aligner, as a depth that its kind does not have.
        """
        self.states = {number: TrialState(set(seeds)) for number in trials}
        named: dict[str, list[tuple[int, int]]] = {}
        options: dict[str, list[TrialOptions]] = {}
        for number, values in trials.items():
            config = PipelineConfig.model_validate(pipeline_values(pipeline, values))
            pooling = config.encoder.pooling
            named.setdefault(pooling, []).extend((number, seed) for seed in seeds)
            options.setdefault(pooling, []).extend(trial_options(config, seed) for seed in seeds)
        direction = pipeline.aligner.direction
        stacked = partial(TrialStack, device=device, probe=probe)
        self._stacks = [
            (stacked(options[pooling], arrays[pooling].tensors(direction)), names)
            for pooling, names in named.items()
        ]

    @property
    def live(self) -> list[int]:
        """The trials that the next step trains."""
        return [number for number, state in self.states.items() if state.live]

    def step(self) -> None:
        """One epoch of every live trial."""
        live = self.live
        for stack, names in self._stacks:
            start = time.perf_counter()
            reports = stack.step()
            seconds = (time.perf_counter() - start) / max(1, len(reports))
            for report in reports:
                number, seed = names[report.trial]
                self.states[number].take(seed, report, seconds)
        for number in live:
            self.states[number].epochs += 1
            if self.states[number].failure:
                self.drop(number)

    def drop(self, number: int) -> None:
        """Take a trial out, with all its seeds."""
        for stack, names in self._stacks:
            for index in stack.live:
                if names[index][0] == number:
                    stack.drop(index)
        self.states[number].live.clear()


def fit_seeds(
    values: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    arrays: Mapping[str, Any],
    pipeline: PipelineConfig,
) -> list[float]:
    """The score of every seed on the held-out rows, with no scheduler in between.

    Runs as a Ray task; `arrays` holds references.

    Raises:
        TrainingError: a seed's loss is not finite, or memory ends.
    """
    data = fetched(arrays)
    try:
        group = TrialGroup(
            {0: values},
            seeds,
            pipeline=pipeline,
            arrays=data,
            device=assigned_device(),
            probe=NO_PROBE,
        )
        while group.live:
            group.step()
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeError where memory ends.
        raise TrainingError(reason_of(error)) from error
    state = group.states[0]
    if state.failure:
        raise TrainingError(state.failure)
    return [state.scores[seed] for seed in seeds]


def reason_of(error: Exception) -> str:
    """An error of training as one line."""
    name, lines = type(error).__name__, str(error).splitlines()[:REASON_LINES]
    return f"{name}: {' '.join(' '.join(lines).split())}" if lines else name


def fetched(arrays: Mapping[str, Any]) -> dict[str, TrialArrays]:
    """The arrays behind references, read where Ray keeps them."""
    return {pooling: ray.get(reference) for pooling, reference in arrays.items()}


def assigned_device() -> torch.device:
    """The GPU, or share of one, that Ray gave this process; else the CPU."""
    return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


def trial_options(config: PipelineConfig, seed: int) -> TrialOptions:
    """What a stack has to know of a trial with this config."""
    aligner = config.aligner
    return TrialOptions(
        AlignerShape(aligner.kind, aligner.depth, aligner.hidden, aligner.identity_pairs),
        align=fit_options(aligner, seed),
        head=fit_options(config.head, seed),
        dropout=aligner.dropout,
        head_dropout=config.head.dropout,
        identity_weight=aligner.identity_weight,
        adds_residuals=config.head.residuals,
    )
