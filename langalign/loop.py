"""The epoch loop that the three steps share: early stopping, checkpoints, resume.

A run that is stopped after any epoch and resumed from its checkpoint reaches the same weights as
one that was not: data order and dropout are seeded from (seed, epoch, rank), and a checkpoint
holds weights, optimiser moments, the best weights so far and the counters. It is one safetensors
file, never a pickle.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from langalign.adamw import AdamW
from langalign.denormals import flushed_denormals
from langalign.errors import TrainingError

__all__ = [
    "EpochReport",
    "FitOptions",
    "Reporter",
    "Worker",
    "all_sum",
    "epoch_order",
    "goes_on",
    "make_optimizer",
    "parallel",
    "per_worker",
    "run_epochs",
    "seed_everything",
    "silent",
]

State = dict[str, Tensor]


@dataclass(frozen=True)
class Worker:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class FitOptions:
    """Optimiser and stopping rule of one step.

    `batch_size` counts rows over all workers; `patience` counts epochs without a better
    validation score (section 3.4.4: 10).
    """

    learning_rate: float
    batch_size: int = 16
    max_epochs: int = 100
    patience: int = 10
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave. `score` is the validation figure to raise; `best` is whether it rose."""

    epoch: int
    train_loss: float
    score: float
    best: bool
    seconds: float


class Reporter(Protocol):
    """Called by every worker after every epoch; `save` writes a checkpoint file."""

    def __call__(self, report: EpochReport, save: Callable[[Path], None]) -> None: ...


def all_sum(values: Tensor) -> Tensor:
    """Sum a tensor over all workers, in place; on one worker, itself."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


def seed_everything(*parts: int) -> None:
    """Seed weights and dropout from numbers that name this piece of work."""
    torch.manual_seed(_mixed(*parts))


def make_optimizer(
    parameters: list[nn.Parameter], options: FitOptions, device: torch.device
) -> AdamW:
    """AdamW (Table 2), fused; capturable on a GPU, where steps are replayed as a CUDA graph."""
    return AdamW(
        parameters,
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )


def run_epochs(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    train_epoch: Callable[[int], float],
    evaluate: Callable[[], float],
    options: FitOptions,
    step: str,
    report: Reporter,
    resume: Path | None = None,
) -> list[EpochReport]:
    """Train until `max_epochs`, or until `patience` epochs brought no better score.

    `train_epoch` returns the mean loss over all workers, `evaluate` the validation score. The
    best weights are in `module` at the end.

    Raises:
        TrainingError: the loss or the score is not finite.
    """
    progress = _Progress(module, optimizer)
    if resume:
        progress.load(resume)
    while goes_on(progress.history, options):
        epoch = len(progress.history)
        start = time.perf_counter()
        with flushed_denormals():
            loss = train_epoch(epoch)
        score = evaluate() if math.isfinite(loss) else math.nan
        if not math.isfinite(score):
            raise TrainingError(
                f"{step}: epoch {epoch} gave loss {loss} and score {score}; lower the step's "
                f"learning rate (now {options.learning_rate:g}) or look for NaN in its input"
            )
        entry = progress.record(loss, score, time.perf_counter() - start)
        report(entry, progress.save)
    module.load_state_dict(progress.best)
    return progress.history


def goes_on(history: list[EpochReport], options: FitOptions) -> bool:
    """Whether the stopping rule allows another epoch after those of `history`."""
    best_epochs = [entry.epoch for entry in history if entry.best]
    stale = len(history) - 1 - best_epochs[-1] if best_epochs else 0
    return len(history) < options.max_epochs and stale < options.patience


def epoch_order(rows: int, options: FitOptions, worker: Worker, epoch: int) -> Tensor:
    """A permutation of this worker's rows, the same count on every worker.

    DDP waits for every worker at every step, so a worker with a row more leaves one out of this
    epoch. Dropout is seeded here too: a resumed run repeats an undisturbed one.
    """
    common = torch.tensor(float(rows), device=worker.device)
    if worker.world_size > 1:
        torch.distributed.all_reduce(common, op=torch.distributed.ReduceOp.MIN)
    generator = torch.Generator()
    generator.manual_seed(_mixed(options.seed, epoch, worker.rank))
    seed_everything(options.seed, epoch, worker.rank)
    return torch.randperm(rows, generator=generator)[: int(common.item())]


def per_worker(options: FitOptions, worker: Worker) -> int:
    """Rows of one step on one worker."""
    return max(1, options.batch_size // worker.world_size)


def parallel(module: nn.Module, worker: Worker) -> nn.Module:
    """Wrap in DDP where several workers train together; alone, leave the module as it is."""
    if worker.world_size == 1:
        return module
    devices = [worker.device] if worker.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices)


def silent(report: EpochReport, save: Callable[[Path], None]) -> None:
    """Report nothing."""


def _mixed(*parts: int) -> int:
    state = 0
    for part in parts:
        state = (state * 1_000_003 + part + 1) % (2**63)
    return state


class _Progress:
    """Weights, moments, best weights and counters: what a checkpoint holds."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module = module
        self.optimizer = optimizer
        self.best = _clone(module.state_dict())
        self.history: list[EpochReport] = []

    def record(self, loss: float, score: float, seconds: float) -> EpochReport:
        is_best = all(score > entry.score for entry in self.history)
        if is_best:
            self.best = _clone(self.module.state_dict())
        entry = EpochReport(len(self.history), loss, score, is_best, seconds)
        self.history.append(entry)
        return entry

    def save(self, path: Path) -> None:
        tensors = {f"module/{key}": value for key, value in self.module.state_dict().items()}
        tensors |= {f"best/{key}": value for key, value in self.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
        history = json.dumps([asdict(entry) for entry in self.history])
        # Cloned because safetensors refuses tensors that share memory.
        save_file(_clone(tensors), path, metadata={"history": history})

    def load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            history = json.loads(file.metadata()["history"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.history = [EpochReport(**entry) for entry in history]
        self.best = _below(tensors, "best/")
        self.module.load_state_dict(_below(tensors, "module/"))
        moments: dict[int, dict[str, Any]] = {}
        for key, value in _below(tensors, "optimizer/").items():
            index, _, name = key.partition("/")
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _clone(tensors: State) -> State:
    return {key: value.detach().clone().contiguous() for key, value in tensors.items()}


def _below(tensors: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
