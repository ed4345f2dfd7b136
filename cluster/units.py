"""The units of work of steps 2 and 3 (section 3.2): aligners and heads on cached embeddings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cluster.work import Unit, UnitWork
from langalign.aligners import Aligner, Direction, NoAligner, build_aligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.embeddings import EmbeddingSet
from langalign.loop import EpochReport, FitOptions, Worker, all_sum, seed_everything
from langalign.metrics import cosine_total
from langalign.outputs import StepOutput
from langalign.splits import split_rows
from langalign.storage import Storage
from langalign.training import Labelled, Pairs, count_outcomes, fit_aligner, fit_head

__all__ = [
    "ALIGNER_FILE",
    "HEAD_FILE",
    "AlignUnit",
    "AlignerShape",
    "EmbeddedPairs",
    "EmbeddedPart",
    "EvaluateUnit",
    "HeadUnit",
    "Part",
    "Split",
    "head_info",
    "load_aligner",
    "tensors_of",
]

Part = Literal["train", "held_out", "all"]
ALIGNER_FILE = "aligner.safetensors"
HEAD_FILE = "head.safetensors"


@dataclass(frozen=True)
class Split:
    """How rows 0 to rows-1 are cut into training and held-out ones (section 3.4.4: 10%)."""

    rows: int
    validation_fraction: float
    seed: int

    def ids(self, part: Part) -> npt.NDArray[np.int64]:
        """Ascending ids (N,) of a part."""
        if part == "all":
            return np.arange(self.rows)
        train, held_out = split_rows(
            self.rows, validation_fraction=self.validation_fraction, seed=self.seed
        )
        return train if part == "train" else held_out

    def share(self, part: Part, worker: Worker) -> npt.NDArray[np.int64]:
        """The ids of a part that fall to one worker."""
        return self.ids(part)[worker.rank :: worker.world_size]


@dataclass(frozen=True)
class EmbeddedPart:
    """Labelled rows of one embedding set: its storage prefix, and which rows of it."""

    prefix: str
    split: Split
    part: Part
    of_target: bool

    def load(self, storage: Storage, worker: Worker) -> Labelled:
        """This worker's share."""
        ids = self.split.share(self.part, worker)
        rows = EmbeddingSet(StepOutput(storage, self.prefix)).load(ids)
        assert rows.labels is not None  # the pipeline refers to labelled sets only
        embeddings, labels = torch.from_numpy(rows.embeddings), torch.from_numpy(rows.labels)
        return Labelled(embeddings, labels, self.of_target).to(worker.device)


@dataclass(frozen=True)
class EmbeddedPairs:
    """Parallel sentences: the storage prefixes of their two embedding sets, and how they are cut.

    `source` is English.
    """

    source: str
    target: str
    split: Split

    def load(self, storage: Storage, part: Part, direction: Direction) -> Pairs:
        """All pairs of a part, in the direction of an aligner."""
        ids = self.split.ids(part)
        sides = [
            torch.from_numpy(EmbeddingSet(StepOutput(storage, prefix)).load(ids).embeddings)
            for prefix in (self.source, self.target)
        ]
        return Pairs(*(reversed(sides) if direction == "reverse" else sides))


@dataclass(frozen=True)
class AlignerShape:
    """Arguments of `build_aligner`."""

    kind: str
    depth: int | None = None
    hidden: int | None = None
    dropout: float | None = None
    identity_pairs: bool = True

    def build(self, width: int) -> Aligner:
        """An untrained aligner for embeddings of `width`."""
        return build_aligner(width=width, **asdict(self))


@dataclass(frozen=True)
class AlignUnit(Unit):
    """Step 2 for one aligner."""

    shape: AlignerShape
    direction: Direction
    pairs: EmbeddedPairs
    options: FitOptions
    identity_weight: float = 1.0
    step = "align"

    @property
    def max_epochs(self) -> int:
        """Of the stopping rule."""
        return self.options.max_epochs

    @property
    def label(self) -> str:
        """As in `align fc`."""
        return f"align {self.shape.kind}"

    def identity(self) -> list[Any]:
        """All fields."""
        return [asdict(self)]

    def run(self, work: UnitWork) -> None:
        """Train the aligner on all pairs; cosine and MSE are over the held-out ones."""
        pairs, held_out = work.together(
            lambda: (self._pairs(work, "train"), self._pairs(work, "held_out"))
        )
        seed_everything(self.options.seed, 2)
        aligner = self.shape.build(pairs.source.shape[1])
        history = fit_aligner(
            aligner,
            pairs,
            held_out,
            options=self.options,
            identity_weight=self.identity_weight,
            worker=work.worker,
            report=work.report,
            resume=work.resume,
        )
        info = {
            **asdict(self.shape),
            "direction": self.direction,
            "width": pairs.source.shape[1],
            "pairs": len(pairs.source),
            "history": [asdict(entry) for entry in history],
            **_closeness(aligner, held_out.to(work.worker.device)),
        }
        work.finish(
            lambda: {ALIGNER_FILE: work.output.write(ALIGNER_FILE, tensors_of(aligner))}, info
        )

    def _pairs(self, work: UnitWork, part: Part) -> Pairs:
        return self.pairs.load(work.storage, part, self.direction)


@dataclass(frozen=True)
class HeadUnit(Unit):
    """Step 3 for one method: a new head on `train` through the aligner of `aligner` (or none).

    `residuals_of` is as `head_inputs` takes it.
    """

    method: str
    shape: AlignerShape
    aligner: str | None
    direction: Direction
    classes: int
    metric: str
    train: EmbeddedPart
    held_out: EmbeddedPart
    tests: dict[str, EmbeddedPart]
    options: FitOptions
    dropout: float
    residuals_of: EmbeddedPairs | None = None
    train_aligner: bool = False
    step = "head"

    @property
    def max_epochs(self) -> int:
        """Of the stopping rule."""
        return self.options.max_epochs

    @property
    def label(self) -> str:
        """As in `head langalign ae`."""
        kind = "" if self.shape.kind == "none" else f" {self.shape.kind}"
        return f"head {self.method}{kind}"

    def identity(self) -> list[Any]:
        """All fields."""
        return [asdict(self)]

    def run(self, work: UnitWork) -> None:
        """Train the head, then count its outcomes on every test part."""
        train, held_out, tests = work.together(lambda: self._load(work))
        width = train.embeddings.shape[1]
        aligner = work.together(lambda: load_aligner(work.storage, self.aligner, self.shape, width))
        pairs = work.together(lambda: self._pairs(work))
        seed_everything(self.options.seed, 3)
        head = ClassificationHead(width, self.classes, dropout=self.dropout)
        model = AlignedHead(aligner, head, direction=self.direction)
        history = fit_head(
            model,
            train,
            held_out,
            metric=self.metric,
            options=self.options,
            residuals_of=pairs,
            train_aligner=self.train_aligner,
            worker=work.worker,
            report=work.report,
            resume=work.resume,
        )
        counts = {
            name: all_sum(count_outcomes(model, rows)).tolist() for name, rows in tests.items()
        }
        files = {ALIGNER_FILE: tensors_of(aligner), HEAD_FILE: tensors_of(head)}
        work.finish(
            lambda: {name: work.output.write(name, data) for name, data in files.items()},
            head_info(self.method, self.shape, width, history, counts),
        )

    def _load(self, work: UnitWork) -> tuple[Labelled, Labelled, dict[str, Labelled]]:
        parts = [self.train, self.held_out, *self.tests.values()]
        loaded = [part.load(work.storage, work.worker) for part in parts]
        return loaded[0], loaded[1], dict(zip(self.tests, loaded[2:], strict=True))

    def _pairs(self, work: UnitWork) -> Pairs | None:
        of = self.residuals_of
        return of.load(work.storage, "train", self.direction) if of else None


@dataclass(frozen=True)
class EvaluateUnit(Unit):
    """Count the outcomes of a head that step 1 trained with its encoder (the `english` row)."""

    method: str
    head: str
    classes: int
    tests: dict[str, EmbeddedPart]
    step = "evaluate"

    @property
    def label(self) -> str:
        """As in `evaluate english`."""
        return f"evaluate {self.method}"

    def identity(self) -> list[Any]:
        """All fields."""
        return [asdict(self)]

    def run(self, work: UnitWork) -> None:
        """Nothing is trained."""
        tests = work.together(
            lambda: {n: part.load(work.storage, work.worker) for n, part in self.tests.items()}
        )
        data = work.together(lambda: StepOutput(work.storage, self.head).read(HEAD_FILE))
        width = next(iter(tests.values())).embeddings.shape[1]
        head = ClassificationHead(width, self.classes)
        head.load_state_dict(load_tensors(data))
        model = AlignedHead(NoAligner(), head, direction="forward").to(work.worker.device)
        counts = {
            name: all_sum(count_outcomes(model, rows)).tolist() for name, rows in tests.items()
        }
        work.finish(dict, head_info(self.method, AlignerShape("none"), width, [], counts))


def head_info(
    method: str,
    shape: AlignerShape,
    width: int,
    history: Sequence[EpochReport],
    counts: dict[str, list[list[int]]],
) -> dict[str, Any]:
    """What a unit with a head says of itself; `counts` are confusion counts by test part."""
    return {
        "method": method,
        "aligner": asdict(shape),
        "width": width,
        "history": [asdict(entry) for entry in history],
        "counts": counts,
    }


def load_aligner(storage: Storage, prefix: str | None, shape: AlignerShape, width: int) -> Aligner:
    """The aligner an AlignUnit left at `prefix`; without a prefix, a new one of `shape`."""
    aligner = shape.build(width)
    if prefix is not None:
        aligner.load_state_dict(load_tensors(StepOutput(storage, prefix).read(ALIGNER_FILE)))
    return aligner.eval()


def tensors_of(module: nn.Module) -> bytes:
    """The weights of a module as safetensors bytes."""
    state = {key: value.detach().cpu() for key, value in module.state_dict().items()}
    return bytes(save_tensors(state))


@torch.no_grad()
def _closeness(aligner: Aligner, held_out: Pairs) -> dict[str, float]:
    """Cosine similarity and MSE of held-out pairs, before and after the aligner (section 4.2.1)."""
    aligner.to(held_out.source.device).eval()
    kept = aligner.keep(held_out.target)
    views: dict[str, tuple[Tensor, Tensor]] = {
        "before": (held_out.source, held_out.target),
        "after": (aligner(held_out.source), kept),
    }
    figures = {}
    for when, (a, b) in views.items():
        total, count = cosine_total(a, b).tolist()
        figures[f"cosine_{when}"] = total / count
        figures[f"mse_{when}"] = (a - b).square().mean().item()
    return figures
