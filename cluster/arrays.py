"""The embeddings of a sweep, read once and shared by all trials."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.prepare import RunData
from langalign.aligners import Direction
from langalign.embeddings import EmbeddingSet
from langalign.outputs import StepOutput
from langalign.storage import Storage
from langalign.training import Labelled, Pairs
from langalign.trials import TrialData

__all__ = ["TrialArrays", "load_arrays"]


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

    def tensors(self, direction: Direction) -> TrialData:
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
            direction=direction,
        )


def load_arrays(
    storage: Storage, data: RunData, prefixes: Mapping[str, str]
) -> tuple[TrialArrays, None]:
    """Read the pairs, the English rows and the rows to choose on; test rows are never read.

    As a task, to get the second result costs nothing, and raises what the task raised.

    Raises:
        IntegrityError: a stored embedding is altered.
    """

    def read(name: str, role: str, part: Any) -> Any:
        ids = data.split(role).ids(part)
        return EmbeddingSet(StepOutput(storage, prefixes[name])).load(ids)

    rows = read("train", "train", "train")
    target = read("target", "parallel", "held_out")
    held_out = target if data.has_labelled_pairs else read("train", "train", "held_out")
    arrays = TrialArrays(
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
    return arrays, None


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Ray's arrays are read-only, and nothing here writes into them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
