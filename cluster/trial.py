"""One trial of a sweep: step 2, then step 3, on embeddings that all trials read from one place.

A trial is a Ray Tune `Trainable` whose process is used again by the next trial, and its seeds are
trained as one stack: starting Python and torch takes longer than most trials.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from torch import Tensor

from cluster.plan import fit_options
from cluster.prepare import RunData
from cluster.study import SCORE
from langalign.config import PipelineConfig
from langalign.embeddings import EmbeddingSet
from langalign.errors import LangAlignError
from langalign.outputs import StepOutput
from langalign.searchspace import pipeline_values
from langalign.stacking import StackShape, TrialData, TrialOptions, TrialStack
from langalign.storage import Storage
from langalign.training import Labelled, Pairs

__all__ = ["SweepTrial", "TrialArrays", "fit_seeds", "load_arrays"]


@dataclass(frozen=True)
class TrialArrays:
    """Embeddings (N, D) and labels (N,) of a sweep, as NumPy arrays that Ray shares uncopied."""

    source: np.ndarray
    target: np.ndarray
    held_out_source: np.ndarray
    held_out_target: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray
    held_out_is_target: bool
    classes: int
    metric: str

    def tensors(self, direction: str) -> TrialData:
        """The rows as `TrialStack` takes them, over the same memory."""
        sides = _tensor(self.source), _tensor(self.target)
        held_out = _tensor(self.held_out_source), _tensor(self.held_out_target)
        turn = -1 if direction == "reverse" else 1
        return TrialData(
            pairs=Pairs(*sides[::turn]),
            held_out_pairs=Pairs(*held_out[::turn]),
            rows=Labelled(_tensor(self.rows), _tensor(self.labels), of_target=False),
            held_out=Labelled(
                _tensor(self.held_out), _tensor(self.held_out_labels), self.held_out_is_target
            ),
            classes=self.classes,
            metric=self.metric,
        )


def load_arrays(storage: Storage, data: RunData, prefixes: Mapping[str, str]) -> TrialArrays:
    """Read the pairs, the English rows and the rows to choose on; test rows are never read.

    Raises:
        IntegrityError: a stored embedding is altered.
    """

    def read(name: str, role: str, part: Any) -> Any:
        ids = data.split(role).ids(part)
        return EmbeddingSet(StepOutput(storage, prefixes[name])).load(ids)

    rows = read("train", "train", "train")
    target = read("target", "parallel", "held_out")
    held_out = target if data.has_labelled_pairs else read("train", "train", "held_out")
    return TrialArrays(
        source=read("source", "parallel", "train").embeddings,
        target=read("target", "parallel", "train").embeddings,
        held_out_source=read("source", "parallel", "held_out").embeddings,
        held_out_target=target.embeddings,
        rows=rows.embeddings,
        labels=rows.labels,
        held_out=held_out.embeddings,
        held_out_labels=held_out.labels,
        held_out_is_target=data.has_labelled_pairs,
        classes=len(data.task.labels),
        metric=data.task.metric,
    )


class SweepTrial(tune.Trainable):  # type: ignore[misc]
    """Trains the seeds of one trial as a stack; each `step` is one epoch of all of them.

    A result holds `score`, the mean over seeds of the task metric on held-out translated rows (a
    probe's while an aligner trains), and `is_final`, whether it is the trial's own. A trial whose
    loss is not finite, or that has no memory, ends with a `reason` in place of a score.
    """

    def setup(
        self,
        config: dict[str, Any],
        arrays: dict[str, Any],
        pipeline: PipelineConfig,
        seeds: Sequence[int],
    ) -> None:
        """`arrays` holds a reference to TrialArrays for each pooling."""
        # A fraction of a core still is one thread: more would take the other trials' cores.
        torch.set_num_threads(max(1, int(_assigned("CPU"))))
        self.arrays = arrays
        self.pipeline = pipeline
        self.seeds = list(seeds)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another trial in the same process."""
        self.values = dict(new_config)
        self.stack: TrialStack | None = None
        self.scores: dict[int, float] = {}
        self.seconds = 0.0
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        start = time.perf_counter()
        try:
            self._epoch()
        except (LangAlignError, MemoryError, RuntimeError) as error:
            # torch raises RuntimeError where memory ends; the trial ends, the sweep does not.
            return self._failed(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        self.seconds += time.perf_counter() - start
        assert self.stack is not None
        if self.failure:
            return self._failed(self.failure)
        is_final = len(self.stack.finished) == len(self.seeds)
        return {
            SCORE: float(np.mean([self.scores[i] for i in range(len(self.seeds))])),
            "is_final": is_final,
            "done": is_final,
            "seconds": self.seconds,
            "epochs": self.iteration + 1,
            "scores": [self.scores[i] for i in range(len(self.seeds))],
        }

    def _epoch(self) -> None:
        if self.stack is None:
            self.failure: str | None = None
            self.stack = _stack(self.pipeline, self.values, self.arrays, self.seeds)
        for report in self.stack.step():
            self.failure = self.failure or report.failure
            self.scores[report.trial] = report.value

    def _failed(self, reason: str) -> dict[str, Any]:
        # The lowest score there is: a NaN would blind the scheduler's percentiles.
        return {SCORE: 0.0, "is_final": False, "done": True, "reason": reason}


def fit_seeds(
    values: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    arrays: dict[str, Any],
    pipeline: PipelineConfig,
) -> list[float]:
    """The score of every seed on held-out translated rows, with no scheduler in between.

    Raises:
        TrainingError: a seed's loss is not finite.
    """
    stack = _stack(pipeline, values, arrays, seeds)
    while len(stack.finished) < len(seeds):
        for report in stack.step():
            if report.failure:
                raise LangAlignError(f"seed {seeds[report.trial]}: {report.failure}")
    return [stack.finished[i].score for i in range(len(seeds))]


def _stack(
    pipeline: PipelineConfig,
    values: Mapping[str, Any],
    arrays: dict[str, Any],
    seeds: Sequence[int],
) -> TrialStack:
    config = PipelineConfig.model_validate(pipeline_values(pipeline, values))
    aligner = config.aligner
    shape = StackShape(
        kind=aligner.kind,
        depth=aligner.depth,
        hidden=aligner.hidden,
        direction=aligner.direction,
        identity_pairs=aligner.identity_pairs,
        align_batch_size=aligner.batch_size,
        head_batch_size=config.head.batch_size,
    )
    trials = [
        TrialOptions(
            align=fit_options(aligner, seed),
            head=fit_options(config.head, seed),
            dropout=aligner.dropout,
            head_dropout=config.head.dropout,
            identity_weight=aligner.identity_weight,
        )
        for seed in seeds
    ]
    data: TrialArrays = ray.get(arrays[config.encoder.pooling])
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    return TrialStack(shape, trials, data.tensors(aligner.direction), device)


def _assigned(resource: str) -> float:
    return float(ray.get_runtime_context().get_assigned_resources().get(resource, 0))


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Ray's arrays are read-only, and nothing here writes into them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
