"""A sweep against the two ways a user would write it with Ray: same trials, same seeds, one run.

    python benchmarks/sweep.py                    # 64 trials on 20,000 English rows of the demo
    python benchmarks/sweep.py --overhead         # what a trial costs beside training, 16 to 256

Ways: `ours` is the search of jobs/sweep.py (bundles of stacked trials, processes used again, study
kept on storage), also with products of bf16; `plain Tune` is a function trainable, a new process a
trial; `TorchTrainer` is the pattern of Ray's guide, a Tune trial that starts a Ray Train run of one
worker. The latter two train with `fit_aligner` and `fit_head`, as does the pipeline. No scheduler
stops a trial, so all do the same work, and as many trials run at once as there are cores. The
embeddings come from the demo's own encoder, made in a minute and kept in the temporary folder for
the next run.

Overhead: trials of a closed-form aligner and 4 epochs of a head on 1,000 rows, without a scheduler
and with ASHA, whose rungs are at 1 and 3 epochs. The trials are alike, so ASHA judges every epoch
of every trial and stops none, and both do the same work.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
import ray.train
import torch
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console
from rich.table import Table
from stacking import one_by_one
from studies import load_study

from cluster.arrays import TrialArrays
from cluster.session import session
from cluster.study import SCORE, StudyFile
from cluster.trial import trial_options
from cluster.tune import Sweep
from langalign.config import PipelineConfig
from langalign.configfile import load_config
from langalign.counterpart import labelled_table
from langalign.encoder import SentenceEncoder
from langalign.searchspace import SweepConfig, pipeline_values, suggest
from langalign.storage import Storage

DEMO = Path("jobs/configs/demo.yaml")
POOLING = "mean"
HELD_OUT = 200
# What --overhead trains, which is next to nothing.
FEW_ROWS, FEW_EPOCHS = 1000, 4
ALIKE = ("space.kind=[linear]", "sweep.grace_epochs=1")
Points = list[dict[str, Any]]


def demo_arrays(rows: int) -> TrialArrays:
    """Embeddings of the demo's rows, pairs and held-out pairs; computed once."""
    file = Path(tempfile.gettempdir()) / f"langalign-sweep-{rows}.npz"
    if not file.is_file():
        study, name = load_study("demo", None, "xc", None, 0)
        encoder = SentenceEncoder.load(name, pooling=POOLING, max_length=128)
        english = labelled_table(rows, 0, "en")
        np.savez(
            file,
            source=encoder.embed(study.source),
            target=encoder.embed(study.target),
            rows=encoder.embed(english["text"].to_pylist()),
            labels=np.array(english["label"].to_pylist()),
            pair_labels=np.array(study.pair_labels),
        )
    found = np.load(file)
    train, held_out = slice(HELD_OUT, None), slice(0, HELD_OUT)
    return TrialArrays(
        source=found["source"][train],
        target=found["target"][train],
        held_out_source=found["source"][held_out],
        held_out_target=found["target"][held_out],
        rows=found["rows"],
        labels=found["labels"],
        held_out=found["target"][held_out],
        held_out_labels=found["pair_labels"][held_out],
        held_out_is_target=True,
        classes=2,
        metric="accuracy",
    )


def make_config(arguments: argparse.Namespace, trials: int, *more: str) -> SweepConfig:
    """The demo's sweep, with steps of a fixed length."""
    lengths = {"aligner": arguments.align_epochs, "head": arguments.head_epochs}
    overrides = [f"{step}.max_epochs={epochs}" for step, epochs in lengths.items()]
    overrides += [f"{step}.patience={epochs}" for step, epochs in lengths.items()]
    overrides += [f"sweep.trials={trials}", f"sweep.stack={arguments.stack}"]
    overrides += ["sweep.scheduler=none", f"encoder.pooling={POOLING}"]
    return load_config(SweepConfig, DEMO, [*overrides, *more])


def draw_points(config: SweepConfig) -> Points:
    """Values of the trials, drawn evenly from the demo's space."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    count = config.sweep.trials
    return [suggest(study.ask(), config.space, config.aligner) for _ in range(count)]


def searched(config: SweepConfig, points: Points, arrays: Any) -> list[FrozenTrial]:
    """The trials of a search as in jobs/sweep.py, of which `points` are the first."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        storage = Storage(str(folder / "store"))
        file = StudyFile(storage, "study.journal", "bench", folder)
        sweep = Sweep(config, storage, Console(file=io.StringIO()))
        sweep.search(file, {POOLING: arrays}, folder, points, config.sweep.trials)
        return list(file.study.get_trials(deepcopy=False))


def ours(config: SweepConfig, points: Points, arrays: Any) -> list[float]:
    """Bundles of stacked trials in processes that are used again."""
    trials = searched(config, points, arrays)
    assert all(trial.state is TrialState.COMPLETE for trial in trials)
    return [trial.value or 0.0 for trial in trials]


def train_alone(config: SweepConfig, values: dict[str, Any], arrays: Any) -> float:
    """One trial, as the pipeline trains it; returns its score."""
    torch.set_num_threads(1)
    pipeline = PipelineConfig.model_validate(pipeline_values(config, values))
    options = trial_options(pipeline, config.seed)
    data = ray.get(arrays).tensors(config.aligner.direction)
    (trained,) = one_by_one([options], data, torch.device("cpu"))
    return trained.score


def ours_rounded(config: SweepConfig, points: Points, arrays: Any) -> list[float]:
    """The same with bf16 factors in matrix products, where the CPU multiplies those."""
    options = config.sweep.model_copy(update={"matmul_precision": "medium"})
    return ours(config.model_copy(update={"sweep": options}), points, arrays)


def plain_tune(config: SweepConfig, points: Points, arrays: Any) -> list[float]:
    """One new process a trial."""

    def trial(given: dict[str, Any]) -> None:
        tune.report({SCORE: train_alone(config, points[given["number"]], arrays)})

    return _tuned(tune.with_resources(trial, {"cpu": 1}), len(points))


def torch_trainer(config: SweepConfig, points: Points, arrays: Any) -> list[float]:
    """One Ray Train run a trial; its driver takes hardly any of a core."""

    def loop(given: dict[str, Any]) -> None:
        ray.train.report({SCORE: train_alone(config, points[given["number"]], arrays)})

    def trial(given: dict[str, Any]) -> None:
        TorchTrainer(
            loop,
            train_loop_config=given,
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.99}),
            run_config=ray.train.RunConfig(
                name=f"trial-{given['number']}",
                storage_path=tempfile.mkdtemp(),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    return _tuned(tune.with_resources(trial, {"cpu": 0.01}), len(points))


def _tuned(trainable: Any, trials: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=os.cpu_count()),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    scores = {r.config["number"]: r.metrics[SCORE] for r in results if r.config and r.metrics}
    return [scores[number] for number in range(trials)]


WAYS: dict[str, Callable[[SweepConfig, Points, Any], list[float]]] = {
    "ours": ours,
    "ours, matmul_precision=medium": ours_rounded,
    "plain Tune, a process a trial": plain_tune,
    "TorchTrainer run a trial": torch_trainer,
}


def compare(arguments: argparse.Namespace) -> None:
    """All ways over the same trials, and their table."""
    config = make_config(arguments, arguments.trials)
    points = draw_points(config)
    content = demo_arrays(arguments.rows)
    seconds: dict[str, float] = {}
    scores: dict[str, list[float]] = {}
    with session():
        arrays = ray.put(content)
        for name in arguments.ways:
            way = WAYS[name]
            start = time.perf_counter()
            scores[name] = way(config, points, arrays)
            seconds[name] = time.perf_counter() - start
            print(f"{name}: {seconds[name]:.0f} s", file=sys.stderr)
    table = Table(
        title=f"{arguments.trials} trials, {arguments.rows} rows, {len(content.source)} pairs, "
        f"{arguments.align_epochs} + {arguments.head_epochs} epochs, {os.cpu_count()} cores"
    )
    for column in ("way", "s", "s a trial", "time over ours", "largest difference of a score"):
        table.add_column(column, justify="right")
    for name in arguments.ways:
        gaps = [abs(a - b) for a, b in zip(scores[name], scores["ours"], strict=True)]
        table.add_row(
            name,
            f"{seconds[name]:.0f}",
            f"{seconds[name] / arguments.trials:.2f}",
            f"{seconds[name] / seconds['ours']:.1f}",
            f"{max(gaps):.4f}",
        )
    Console(width=110).print(table)


def overhead(arguments: argparse.Namespace) -> None:
    """Seconds a trial beside training, for searches of growing length, by scheduler."""
    few = demo_arrays(FEW_ROWS)
    table = Table(title=f"Overhead of the search, bundles of {arguments.stack}")
    for column in ("scheduler", "trials", "s", "ms a trial", "of it training, ms"):
        table.add_column(column, justify="right")
    arguments.align_epochs, arguments.head_epochs = 1, FEW_EPOCHS
    with session():
        arrays = ray.put(few)
        # The first search pays for the start of processes.
        for trials in (arguments.stack, 16, 64, 256):
            for scheduler in ("none", "asha"):
                config = make_config(arguments, trials, *ALIKE, f"sweep.scheduler={scheduler}")
                points = draw_points(config)
                start = time.perf_counter()
                found = searched(config, points, arrays)
                seconds = time.perf_counter() - start
                assert all(trial.state is TrialState.COMPLETE for trial in found)
                training = statistics.mean(trial.user_attrs["seconds"] for trial in found)
                row = (seconds, 1000 * seconds / trials, 1000 * training)
                table.add_row(scheduler, str(trials), *(f"{value:.1f}" for value in row))
    Console(width=90).print(table)


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--rows", type=int, default=20_000, help="labelled English rows")
    parser.add_argument("--align-epochs", type=int, default=4, help="epochs of step 2, all run")
    parser.add_argument("--head-epochs", type=int, default=4, help="epochs of step 3, all run")
    parser.add_argument("--stack", type=int, default=8, help="trials of a bundle")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--overhead", action="store_true", help="overhead instead of comparison")
    arguments = parser.parse_args()
    if "ours" not in arguments.ways:
        parser.error("--ways lacks `ours`, which the others are compared with")
    (overhead if arguments.overhead else compare)(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
