"""What `precision` changes in a served model: scores, answers, and sentences per second on a CPU.

    python benchmarks/serving_precision.py --model ROOT/models/NAME --rows test.csv
    python benchmarks/serving_precision.py             # the demo's model, made by `make demo`

ROWS has `text` and `label`; without it the demo's test rows are drawn. One process, all cores,
tokenising included, the better of two passes.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.csv
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, f1_score

from langalign import counterpart
from serve.loading import Loader
from serve.registry import parse_sources
from serve.settings import Precision

PRECISIONS = [name for name in get_args(Precision) if name != "model"]


def read_rows(path: Path | None) -> tuple[list[str], list[str]]:
    """Texts and labels."""
    if path is None:
        table = counterpart.labelled_table(4_000, 0, counterpart.COUNTERPART, split="test")
    else:
        table = pyarrow.csv.read_csv(path)
    return table["text"].to_pylist(), [str(label) for label in table["label"].to_pylist()]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="langalign-storage/models/demo", help="ROOT/models/NAME")
    parser.add_argument("--rows", type=Path, help="CSV of the target language")
    arguments = parser.parse_args()
    texts, labels = read_rows(arguments.rows)
    (source,) = parse_sources([arguments.model], None)
    table = Table(title=f"{arguments.model}, {len(texts)} rows, {os.cpu_count()} cores")
    columns = ("precision", "accuracy", "macro F1", "other labels than fp32", "sentences/s")
    for column in columns:
        table.add_column(column, justify="left" if column == "precision" else "right")
    first: list[str] = []
    for precision in PRECISIONS:
        served = Loader(device="cpu", precision=precision).load(
            source.storage, source.name, source.version
        )
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            found = served.model.predict(texts)
            seconds.append(time.perf_counter() - start)
        first = first or found
        if labels[0] not in served.model.labels:
            labels = [served.model.labels[int(label)] for label in labels]
        scores = (accuracy_score(labels, found), f1_score(labels, found, average="macro"))
        changed = np.mean([a != b for a, b in zip(found, first, strict=True)])
        table.add_row(
            precision,
            *(f"{100 * score:.2f}" for score in scores),
            f"{100 * changed:.2f} %",
            f"{len(texts) / min(seconds):.0f}",
        )
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
