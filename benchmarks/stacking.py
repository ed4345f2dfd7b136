"""Trials of a sweep one after the other against the same trials in one stack.

    python benchmarks/stacking.py [--trials 1 4 8 16] [--pairs 2000] [--rows 10000] [--width 128]

Both ways train the same trials (aligner, then head) from the same seeds on one process, without
start-up. Rates, dropout and seeds differ between the trials. The stack's time includes the probe
after each epoch of an aligner, which the other way does not have. Each repeat times both ways one
after the other; times are medians. Times are milliseconds for one epoch of one trial.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from langalign.classifier import AlignedHead, ClassificationHead
from langalign.loop import FitOptions, Worker, seed_everything
from langalign.stacked_steps import ALIGN_STEP, HEAD_STEP
from langalign.stacking import AlignerShape, TrainedTrial, TrialData, TrialOptions, TrialStack
from langalign.training import Labelled, Pairs, fit_aligner, fit_head

HELD_OUT = 200
CLASSES = 2


def make_data(pairs: int, rows: int, width: int) -> TrialData:
    """Translations are a rotation and noise, labels a linear rule and noise."""
    generator = torch.Generator().manual_seed(7)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q

    def noise(count: int, size: int = width) -> Tensor:
        return torch.randn(count, size, generator=generator)

    def translated(x: Tensor) -> Tensor:
        return torch.addmm(0.3 * noise(len(x)), x, rotation)

    def labels(x: Tensor) -> Tensor:
        return (x[:, :4].sum(1) + noise(len(x), 1)[:, 0] > 0).long()

    source, held_out, english, other = (noise(n) for n in (pairs, HELD_OUT, rows, HELD_OUT))
    return TrialData(
        Pairs(source, translated(source)),
        Pairs(held_out, translated(held_out)),
        Labelled(english, labels(english), of_target=False),
        Labelled(translated(other), labels(other), of_target=True),
        classes=CLASSES,
        metric="accuracy",
    )


def make_trials(count: int, kind: str, head_batch: int, epochs: int) -> list[TrialOptions]:
    """Trials around the defaults, each with another seed, rates and dropout."""
    trials = []
    for t in range(count):
        rate, seed = 1e-4 * 2 ** (t % 4), t
        dropout = {"fc": 0.5, "ae": 0.0}[kind] + 0.05 * (t % 3)
        trials.append(
            TrialOptions(
                AlignerShape(kind),
                FitOptions(rate, 16, epochs, epochs, seed=seed),
                FitOptions(rate, head_batch, epochs, epochs, seed=seed),
                dropout=dropout,
            )
        )
    return trials


def one_by_one(
    trials: Sequence[TrialOptions], data: TrialData, device: torch.device
) -> list[TrainedTrial]:
    """Each trial as the pipeline trains it."""
    trained = []
    worker = Worker(device=device)
    for options in trials:
        seed_everything(options.align.seed, ALIGN_STEP)
        aligner = options.shape.build(data.width, options.dropout)
        aligned = fit_aligner(
            aligner, data.pairs, data.held_out_pairs, options=options.align, worker=worker
        )
        seed_everything(options.head.seed, HEAD_STEP)
        head = ClassificationHead(data.width, data.classes, dropout=options.head_dropout)
        model = AlignedHead(aligner, head, direction=data.direction)
        history = fit_head(
            model,
            data.rows,
            data.held_out,
            metric=data.metric,
            options=options.head,
            worker=worker,
        )
        trained.append(TrainedTrial(model, aligned, history))
    return trained


def stacked(
    trials: Sequence[TrialOptions], data: TrialData, device: torch.device
) -> list[TrainedTrial]:
    """All trials in one stack."""
    stack = TrialStack(trials, data, device)
    while stack.live:
        stack.step()
    return [stack.finished[t] for t in range(len(trials))]


WAYS = {"one by one": one_by_one, "stacked": stacked}


def measure(
    kind: str, count: int, arguments: argparse.Namespace, device: torch.device
) -> list[str]:
    """A row of the table."""
    data = make_data(arguments.pairs, arguments.rows, arguments.width).to(device)
    trials = make_trials(count, kind, arguments.head_batch, arguments.epochs)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    steps: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    scores: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for name, way in WAYS.items():
            start = time.perf_counter()
            trained = way(trials, data, device)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            scores[name] = [trial.score for trial in trained]
            steps[name].append([_ms_per_epoch(trained, step) for step in ("align", "head")])
    epochs = 2 * arguments.epochs * count
    total = [1000 * statistics.median(seconds[name]) / epochs for name in WAYS]
    cells = [kind, str(count)]
    for step in range(2):
        times = [statistics.median(run[step] for run in steps[name]) for name in WAYS]
        cells += [f"{times[0]:.0f} → {times[1]:.0f}"]
    differences = [abs(a - b) for a, b in zip(*scores.values(), strict=True)]
    return [
        *cells,
        *(f"{ms:.0f}" for ms in total),
        f"{total[0] / total[1]:.2f}",
        f"{max(differences):.4f}",
    ]


def _ms_per_epoch(trained: Sequence[TrainedTrial], step: str) -> float:
    entries = [
        entry
        for trial in trained
        for entry in (trial.align_history if step == "align" else trial.head_history)
    ]
    return 1000 * sum(entry.seconds for entry in entries) / len(entries)


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=["ae", "fc"], choices=["ae", "fc"])
    parser.add_argument("--trials", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--pairs", type=int, default=2000, help="sentence pairs")
    parser.add_argument("--rows", type=int, default=10000, help="labelled English rows")
    parser.add_argument("--width", type=int, default=128, help="embedding width")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each step")
    parser.add_argument("--head-batch", type=int, default=16, help="rows in a step of the head")
    parser.add_argument("--repeats", type=int, default=3, help="times each way is timed")
    parser.add_argument("--threads", type=int, help="CPU threads; unset: torch's own choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = f"{arguments.pairs} pairs, {arguments.rows} rows, {arguments.width} wide, {device.type}"
    table = Table(title=title)
    columns = (
        "aligner",
        "trials",
        "align",
        "head",
        "one by one",
        "stacked",
        "ratio",
        "score off by",
    )
    for name in columns:
        table.add_column(name, justify="right")
    for kind in arguments.kinds:
        for count in arguments.trials:
            table.add_row(*measure(kind, count, arguments, device))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
