"""Step 2 against a bare loop and transformers' Trainer: same aligner, pairs, order and optimiser.

    python benchmarks/align.py [--pairs 5000] [--epochs 2] [--repeats 3]

Batches of 16 make a step so small that what surrounds the arithmetic decides: the data loader on
a CPU, kernel launches on a GPU. Each repeat times all three one after the other; ratios are of
medians. The three must end with the same loss.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainingArguments

from langalign.aligners import Aligner, build_aligner
from langalign.loop import FitOptions, Worker, epoch_order, make_optimizer, seed_everything
from langalign.training import Pairs, fit_aligner

BATCH = 16
HELD_OUT = 64


class PairRows(Dataset[dict[str, Tensor]]):
    """Rows as a Trainer wants them: a dict for each index."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class SameOrder(Sampler[int]):
    """The order of rows that `fit_aligner` takes in each epoch."""

    def __init__(self, rows: int, options: FitOptions, worker: Worker) -> None:
        self.rows, self.options, self.worker, self.epoch = rows, options, worker, 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.rows, self.options, self.worker, self.epoch)
        self.epoch += 1
        return iter(order.tolist())


class Regression(nn.Module):
    """An aligner in the form that Trainer calls: returns its loss."""

    def __init__(self, aligner: Aligner) -> None:
        super().__init__()
        self.aligner = aligner

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Inputs and targets (B, D) to the mean squared error."""
        return {"loss": nn.functional.mse_loss(self.aligner(x), labels)}


class OrderedTrainer(Trainer):  # type: ignore[misc]
    """Trainer with the shared order of rows."""

    sampler: SameOrder

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of 16 in the shared order."""
        return DataLoader(self.train_dataset, batch_size=BATCH, sampler=self.sampler)


def ours(aligner: Aligner, pairs: Pairs, options: FitOptions, worker: Worker) -> None:
    """The step as the project runs it, validation on a few pairs included."""
    held_out = Pairs(pairs.source[:HELD_OUT], pairs.target[:HELD_OUT])
    fit_aligner(aligner, pairs, held_out, options=options, worker=worker)


def bare(aligner: Aligner, pairs: Pairs, options: FitOptions, worker: Worker) -> None:
    """The least that trains: index, loss, backward, step."""
    x, y = _with_identity(pairs, worker)
    optimizer = make_optimizer(list(aligner.parameters()), options, worker.device)
    aligner.train()
    for epoch in range(options.max_epochs):
        order = epoch_order(len(x), options, worker, epoch).to(worker.device)
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            loss = nn.functional.mse_loss(aligner(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def trainer(aligner: Aligner, pairs: Pairs, options: FitOptions, worker: Worker) -> None:
    """transformers' Trainer with logging and saving off."""
    x, y = (part.cpu() for part in _with_identity(pairs, worker))
    optimizer = make_optimizer(list(aligner.parameters()), options, worker.device)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=options.max_epochs,
            max_grad_norm=0.0,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=worker.device.type == "cpu",
        )
        run = OrderedTrainer(
            Regression(aligner),
            arguments,
            train_dataset=PairRows(x, y),
            optimizers=(optimizer, schedule),
        )
        run.sampler = SameOrder(len(x), options, worker)
        run.train()


def measure(kind: str, width: int, pairs: int, epochs: int, repeats: int) -> list[list[str]]:
    """Rows of the table for one aligner kind."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    worker = Worker(device=device)
    options = FitOptions(1e-4, batch_size=BATCH, max_epochs=epochs, patience=epochs)
    seed_everything(7)
    data = Pairs(torch.randn(pairs, width), torch.randn(pairs, width)).to(device)
    ways: dict[str, Callable[..., None]] = {"ours": ours, "bare loop": bare, "Trainer": trainer}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            seed_everything(8)
            aligner = build_aligner(kind, width).to(device)
            start = time.perf_counter()
            way(aligner, data, options, worker)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            losses[name] = _final_loss(aligner, data, worker)
    steps = epochs * -(-2 * pairs // BATCH)
    base = statistics.median(seconds["ours"])
    return [
        [
            kind,
            name,
            f"{1e6 * statistics.median(values) / steps:.0f}",
            f"{statistics.median(values) / base:.2f}",
            f"{losses[name]:.6f}",
        ]
        for name, values in seconds.items()
    ]


def _with_identity(pairs: Pairs, worker: Worker) -> tuple[Tensor, Tensor]:
    x = torch.cat([pairs.source, pairs.target])
    return x.to(worker.device), torch.cat([pairs.target, pairs.target]).to(worker.device)


@torch.no_grad()
def _final_loss(aligner: Aligner, pairs: Pairs, worker: Worker) -> float:
    x, y = _with_identity(pairs, worker)
    return nn.functional.mse_loss(aligner.eval()(x), y).item()


def main() -> int:
    """Measure fc and ae, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5000, help="sentence pairs")
    parser.add_argument("--width", type=int, default=768, help="embedding width")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the pairs")
    parser.add_argument("--repeats", type=int, default=3, help="times each way is timed")
    parser.add_argument("--threads", type=int, help="CPU threads; unset: torch's own choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    table = Table(title=f"Step 2, batch {BATCH}, {given.pairs} pairs, {given.width} wide")
    for name in ("aligner", "way", "µs a step", "time over ours", "final loss"):
        table.add_column(name, justify="right")
    for kind in ("fc", "ae"):
        for row in measure(kind, given.width, given.pairs, given.epochs, given.repeats):
            table.add_row(*row)
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
