"""A run so small that each of its steps takes about as long as starting Ray Train does."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from cluster.monitor import Progress
from cluster.pipeline import Pipeline
from langalign import counterpart
from langalign.config import PipelineConfig, load_config
from langalign.outputs import StepOutput
from langalign.pretraining import pretrain
from langalign.storage import Storage

ROOT = Path(__file__).parents[2]
WAIT_LIMIT_S = 120.0
TRAIN_ROWS, PAIRS, TEST_ROWS = 300, 120, 100
EPOCHS = 8  # of a Ray Train report each, so that a step lasts long enough to be disturbed

CONFIG = {
    "name": "tiny",
    "data": {"target_language": "xc"},
    "encoder": {"pooling": "mean", "max_length": 48},
    "tune": {"learning_rate": 1e-3, "max_epochs": EPOCHS},
    "aligner": {"kind": "ae", "learning_rate": 1e-3, "max_epochs": EPOCHS},
    "head": {"learning_rate": 1e-3, "max_epochs": EPOCHS},
    "compare": {"methods": ["english", "omission"], "aligners": ["linear"]},
    "cluster": {"embed_actors": 1, "shard_rows": 40, "checkpoint_interval_s": 0},
}


def write_inputs(folder: Path) -> Path:
    """Write data, an encoder and `tiny.yaml`, which names them; returns the YAML file."""
    tables = {
        "train": counterpart.labelled_table(TRAIN_ROWS, 0, "en"),
        "parallel": counterpart.parallel_table(PAIRS, 0),
        "test": counterpart.labelled_table(TEST_ROWS, 0, "xc", split="test"),
    }
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    for role, table in tables.items():
        pa.csv.write_csv(table, folder / f"{role}.csv")
        config["data"][role] = str(folder / f"{role}.csv")
    config["encoder"]["name"] = str(write_encoder(folder / "encoder"))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_pair_inputs(folder: Path) -> Path:
    """As `write_inputs`, for a task of three labels on pairs of texts, without step 1."""
    config: dict[str, Any] = yaml.safe_load(write_inputs(folder).read_text())
    roles: dict[str, tuple[int, counterpart.Language]] = {"train": (60, "en"), "test": (30, "xc")}
    for role, (rows, language) in roles.items():
        texts = counterpart.labelled_table(2 * rows, 1, language)["text"].to_pylist()
        labels = [number % 3 for number in range(rows)]
        columns = {"premise": texts[::2], "hypothesis": texts[1::2], "label": labels}
        pa.csv.write_csv(pa.table(columns), folder / f"{role}.csv")
    pairs = counterpart.parallel_table(80, 1)
    sides = {side: pairs[side].to_pylist() for side in ("source", "target")}
    columns = {side: texts[::2] for side, texts in sides.items()}
    columns |= {f"{side}_pair": texts[1::2] for side, texts in sides.items()}
    pa.csv.write_csv(pa.table(columns), folder / "parallel.csv")
    config["task"] = {"name": "nli", "metric": "macro_f1"}
    config["tune"]["rows"] = "none"
    config["aligner"] = {"kind": "linear"}
    config["compare"] = {"methods": [], "aligners": []}
    path = folder / "pairs.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_encoder(folder: Path) -> Path:
    """One layer, width 32, hardly trained."""
    return pretrain(
        counterpart.unpaired_texts(200, 0, "en"),
        counterpart.unpaired_texts(200, 0, "xc"),
        folder,
        mlm_steps=2,
        contrastive_steps=2,
        batch_size=16,
        vocab_size=1500,
        max_length=48,
        hidden_size=32,
        layers=1,
        heads=2,
    )


@dataclass(frozen=True)
class Finished:
    """A finished run: its storage, summary and what it printed."""

    storage: Storage
    summary: dict[str, Any]
    printed: str


class Run:
    """One run of the pipeline in this process; keeps all it printed and all progress it showed."""

    def __init__(self, inputs: Path, storage: Storage, *overrides: str) -> None:
        self.config: PipelineConfig = load_config(PipelineConfig, inputs, overrides)
        self.storage = storage
        self.printed = io.StringIO()
        self.shown: list[tuple[float, Progress]] = []
        self.pipeline = Pipeline(self.config, storage, Console(file=self.printed, width=200))
        show = self.pipeline.display.show

        def remember(progress: Progress) -> None:
            self.shown.append((time.monotonic(), progress))
            show(progress)

        self.pipeline.display.show = remember  # type: ignore[method-assign]

    def __call__(self) -> dict[str, Any]:
        return self.pipeline.run()

    def while_(self, disturb: Callable[[], None]) -> dict[str, Any]:
        """Run, with `disturb` in a thread beside it; its error is raised here."""
        problems: list[BaseException] = []

        def guarded() -> None:
            try:
                disturb()
            except BaseException as error:  # noqa: BLE001 (raised again below)
                problems.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        summary = self()
        thread.join(WAIT_LIMIT_S)
        assert not thread.is_alive(), "the disturbance never happened"
        if problems:
            raise problems[0]
        return summary

    def lines(self) -> dict[str, str]:
        """Step name → the line printed for it."""
        rows = (line.strip() for line in self.printed.getvalue().splitlines())
        return {row.split()[0]: row for row in rows if row}


def run_job(
    inputs: Path, storage: str, *overrides: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`jobs/train.py` in a process of its own."""
    process = start_job(inputs, storage, *overrides, env=env)
    stdout, stderr = process.communicate(timeout=WAIT_LIMIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def start_job(
    inputs: Path, storage: str, *overrides: str, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """`jobs/train.py`, not waited for."""
    command = [sys.executable, "jobs/train.py", "--config", str(inputs), "--json"]
    return subprocess.Popen(
        [*command, f"storage={storage}", *overrides],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def scores(summary: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Every figure of a summary by what it is a figure of."""
    rows = summary["results"]
    keys = ("method", "aligner", "language", "split", "metric")
    found = {tuple(str(row[key]) for key in keys): float(row["value"]) for row in rows}
    assert len(found) == len(rows) > 0
    return found


def summary_of(job: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON that ends its stdout."""
    summary: dict[str, Any] = json.loads(job.stdout.splitlines()[-1])
    return summary


def find_step(storage: Storage, step: str, method: str, aligner: str) -> str:
    """Prefix of the one output of a step for a method and an aligner."""
    prefixes = [f"steps/{step}/{digest}" for digest in storage.folders(f"steps/{step}")]
    infos = {prefix: StepOutput(storage, prefix).info() for prefix in prefixes}
    (found,) = [
        prefix
        for prefix, info in infos.items()
        if (info["method"], info["aligner"]["kind"]) == (method, aligner)
    ]
    return found


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`, looked at 50 times a second."""
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)
    return found


def kill_worker(title: str) -> None:
    """SIGKILL the process of this process's cluster whose title holds `title`."""
    wait_for(lambda: list(ray_workers(title)), f"a process {title}")
    for process in ray_workers(title):
        process.kill()


def ray_workers(title: str) -> Iterator[psutil.Process]:
    """Ray's worker processes below this process, by title."""
    for process in psutil.Process().children(recursive=True):
        try:
            shown = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if shown.startswith("ray::") and title in shown:
            yield process


def forget(storage: Storage, *steps: str) -> None:
    """Delete the outputs and Ray Train checkpoints of steps, so that a run does them again."""
    for step in steps:
        folder = step if step == "embeddings" else f"steps/{step}"
        for digest in storage.folders(folder):
            storage.delete_folder(f"{folder}/{digest}")
        for name in storage.folders("runs/tiny/train"):
            if name.startswith(step):
                storage.delete_folder(f"runs/tiny/train/{name}")


def has_checkpoint(storage: Storage, step: str) -> bool:
    """Whether Ray Train has a checkpoint of the step that it knows of."""
    return any(
        stored.key.startswith(f"runs/tiny/train/{step}") and "snapshot" in stored.key
        for stored in storage.list("runs/tiny/train")
    )


def read_rows(storage: Storage, prefix: str) -> pa.Table:
    """All Parquet files below a prefix as one table."""
    keys = [stored.key for stored in storage.list(prefix) if stored.key.endswith(".parquet")]
    return pa.concat_tables([pq.read_table(io.BytesIO(storage.read_bytes(key))) for key in keys])
