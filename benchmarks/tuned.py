"""What searching is worth on real data: the sweep's best against the paper's defaults.

    python benchmarks/tuned.py --data DATA --encoder ENCODER --out tuned.jsonl
    python benchmarks/tuned.py --data DATA --encoder ENCODER --studies sib200-folded --targets ko

For each study, target language, direction and seed: the search of jobs/sweep.py (TPE, ASHA, the
paper's defaults first) over the embeddings of the frozen encoder, and then `fc` and `ae` at the
paper's values, `linear`, `procrustes` and the best of the search, scored on test rows that the
search never saw. DATA and ENCODER are as in transfer.py. A run that is stopped goes on where it
was, if it is given the same --out.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from rich.console import Console
from rich.table import Table
from stacking import one_by_one
from studies import SENTIMENT_TESTS, load_study
from sweep import DEMO, searched
from transfer import Encoded, Study

from cluster.arrays import TrialArrays
from cluster.session import session
from cluster.trial import trial_options
from langalign import metrics
from langalign.aligners import Direction
from langalign.config import PipelineConfig
from langalign.configfile import load_config
from langalign.encoder import SentenceEncoder
from langalign.searchspace import SweepConfig, paper_points, pipeline_values
from langalign.training import Labelled, count_outcomes

CPU = torch.device("cpu")
STUDIES = {"sib200-folded": ("ko", "ja", "zh"), "sentiment": tuple(SENTIMENT_TESTS)}
DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse")
BASELINES = ("linear", "procrustes")


def to_arrays(encoded: Encoded, study: Study) -> TrialArrays:
    """The rows of a study as the trials of a sweep read them; test rows are left out."""
    train, held_out = (encoded.pairs(part, "forward") for part in (0, 1))
    rows = encoded.rows("english", 0, of_target=False)
    is_target = study.pair_labels is not None
    chosen = encoded.rows("target" if is_target else "english", 1, of_target=is_target)
    return TrialArrays(
        source=train.source.numpy(),
        target=train.target.numpy(),
        held_out_source=held_out.source.numpy(),
        held_out_target=held_out.target.numpy(),
        rows=rows.embeddings.numpy(),
        labels=rows.labels.numpy(),
        held_out=chosen.embeddings.numpy(),
        held_out_labels=chosen.labels.numpy(),
        held_out_is_target=is_target,
        classes=study.classes,
        metric=study.metric,
    )


def make_config(direction: Direction, seed: int, arguments: argparse.Namespace) -> SweepConfig:
    """Rates of the head and batch sizes as in transfer.py, which suit small encoders."""
    overrides = [f"seed={seed}", f"aligner.direction={direction}", "encoder.pooling=mean"]
    overrides += [f"aligner.max_epochs={arguments.align_epochs}", "aligner.patience=10"]
    overrides += ["aligner.batch_size=64", "head.batch_size=64", "head.max_epochs=50"]
    overrides += [f"sweep.trials={arguments.trials}", f"sweep.seeds={arguments.search_seeds}"]
    return load_config(SweepConfig, DEMO, overrides)


def measure(
    study: Study, encoded: Encoded, config: SweepConfig
) -> Iterator[tuple[str, dict[str, Any], float]]:
    """(method, values, score on test rows) of the baselines, the defaults and the search."""
    arrays = to_arrays(encoded, study)
    test = encoded.rows("test", None, of_target=True)
    candidates: list[tuple[str, dict[str, Any]]] = [
        (kind, {"aligner.kind": kind}) for kind in BASELINES
    ]
    points = paper_points(config.space, config)
    candidates += [(f"paper's {point['aligner.kind']}", point) for point in points]
    trials = [
        trial for trial in searched(config, points, ray.put(arrays)) if trial.value is not None
    ]
    best = max(trials, key=lambda trial: (trial.value or 0.0, -trial.number))
    candidates.append(("sweep's best", best.params))
    for method, values in candidates:
        yield method, values, _test_score(values, config, arrays, test, study.metric)


def _test_score(
    values: dict[str, Any], config: SweepConfig, arrays: TrialArrays, test: Labelled, metric: str
) -> float:
    pipeline = PipelineConfig.model_validate(pipeline_values(config, values))
    options = trial_options(pipeline, config.seed)
    data = arrays.tensors(config.aligner.direction)
    (trained,) = one_by_one([options], data, CPU)
    return metrics.score(metric, count_outcomes(trained.model, test))


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each study and direction: mean and standard deviation over seeds, in points."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = Table(title="Test scores in points, mean ± standard deviation over seeds")
    for name in ("study", "direction", "metric", *methods):
        table.add_column(name)
    for study, direction in dict.fromkeys((row["study"], row["direction"]) for row in rows):
        mine = [row for row in rows if (row["study"], row["direction"]) == (study, direction)]
        cells = []
        for method in methods:
            scores = [100 * row["score"] for row in mine if row["method"] == method]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            cells.append(f"{statistics.mean(scores):.1f} ± {spread:.1f}")
        table.add_row(study, direction, mine[0]["metric"], *cells)
    Console(width=130).print(table)


def main() -> int:
    """Parse, measure what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--encoder", required=True, help="transformers folder or hub name")
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--targets", nargs="+", help="target languages; unset: all of a study")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--trials", type=int, default=32, help="trials of one search")
    parser.add_argument("--search-seeds", type=int, default=1, help="seeds of one trial")
    parser.add_argument("--align-epochs", type=int, default=40, help="epochs of step 2 at most")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    arguments = parser.parse_args()
    rows = _read(arguments.out)
    encoder = SentenceEncoder.load(arguments.encoder, pooling="mean", max_length=128).prepare()
    with session():
        for name, seed in itertools.product(arguments.studies, range(arguments.seeds)):
            for target in arguments.targets or STUDIES[name]:
                study, _ = load_study(name, arguments.data, target, arguments.encoder, seed)
                encoded = None
                for direction in DIRECTIONS:
                    where = {"study": study.name, "direction": direction, "seed": seed}
                    if any(where.items() <= row.items() for row in rows):
                        continue
                    start = time.perf_counter()
                    encoded = encoded or Encoded(encoder, study, seed, CPU)
                    config = make_config(direction, seed, arguments)
                    found = [
                        {**where, "metric": study.metric, "method": method, "values": values}
                        | {"score": score}
                        for method, values, score in measure(study, encoded, config)
                    ]
                    with arguments.out.open("a", encoding="utf-8") as out:
                        out.writelines(json.dumps(row) + "\n" for row in found)
                    rows += found
                    print(f"{where}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print_table(rows)
    return 0


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
