"""A run so small that each of its steps takes about as long as starting Ray Train does."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from safetensors import safe_open

from cluster.pipeline import Pipeline
from langalign import counterpart
from langalign.config import PipelineConfig
from langalign.configfile import load_config
from langalign.errors import StorageError
from langalign.outputs import StepOutput
from langalign.pretraining import pretrain
from langalign.storage import Storage

WAIT_LIMIT_S = 120.0
TRAIN_ROWS, PAIRS, TEST_ROWS = 300, 120, 100
EPOCHS = 8
# Steps 2 and 3 are one run of Ray Train, named by the first.
RUN_OF = {"head": "align"}
# A checkpoint an epoch, each waited for: a step lasts long enough to be disturbed.
OFTEN = "cluster.checkpoint_interval_s=0"
OWN_CLUSTER = "cluster.address=null"

CONFIG = {
    "name": "tiny",
    "data": {"target_language": "xc"},
    "encoder": {"pooling": "mean", "max_length": 48},
    "tune": {"learning_rate": 1e-3, "max_epochs": EPOCHS},
    "aligner": {"kind": "ae", "learning_rate": 1e-3, "max_epochs": EPOCHS},
    "head": {"learning_rate": 1e-3, "max_epochs": EPOCHS},
    "compare": {"methods": ["english", "omission"], "aligners": ["linear"]},
    "cluster": {"embed_actors": 1, "shard_rows": 40},
}


def write_inputs(folder: Path, address: str | None) -> Path:
    """Write data, an encoder and `tiny.yaml`, which names them and the cluster; returns that."""
    tables = {
        "train": counterpart.labelled_table(TRAIN_ROWS, 0, "en"),
        "parallel": counterpart.parallel_table(PAIRS, 0),
        "test": counterpart.labelled_table(TEST_ROWS, 0, "xc", split="test"),
    }
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    for role, table in tables.items():
        pa.csv.write_csv(table, folder / f"{role}.csv")
        config["data"][role] = str(folder / f"{role}.csv")
    config["cluster"]["address"] = address
    config["encoder"]["name"] = str(write_encoder(folder / "encoder"))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_pair_inputs(folder: Path, address: str) -> Path:
    """As `write_inputs`, for a task of three labels on pairs of texts, without step 1."""
    config: dict[str, Any] = yaml.safe_load(write_inputs(folder, address).read_text())
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


def write_encoder(folder: Path, *, max_length: int = 48) -> Path:
    """One layer, width 32, hardly trained."""
    return pretrain(
        counterpart.unpaired_texts(200, 0, "en"),
        counterpart.unpaired_texts(200, 0, "xc"),
        folder,
        mlm_steps=2,
        contrastive_steps=2,
        batch_size=16,
        vocab_size=1500,
        max_length=max_length,
        hidden_size=32,
        layers=1,
        heads=2,
    )


@dataclass(frozen=True)
class Finished:
    """A finished run: its storage and summary."""

    storage: Storage
    summary: dict[str, Any]


class Run:
    """One run of the pipeline in this process; keeps all it printed."""

    def __init__(self, inputs: Path, storage: Storage, *overrides: str) -> None:
        self.config: PipelineConfig = load_config(PipelineConfig, inputs, overrides)
        self.storage = storage
        self.printed = io.StringIO()
        self.pipeline = Pipeline(self.config, storage, Console(file=self.printed, width=200))

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


def scores(summary: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Every figure of a summary by what it is a figure of."""
    rows = summary["results"]
    keys = ("method", "aligner", "language", "split", "metric")
    found = {tuple(str(row[key]) for key in keys): float(row["value"]) for row in rows}
    assert len(found) == len(rows) > 0
    return found


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


def wait_for(condition: Callable[[], Any], what: str, *, limit_s: float = WAIT_LIMIT_S) -> Any:
    """The first true value of `condition`, looked at 50 times a second."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)
    return found


def kill_worker(title: str) -> None:
    """SIGKILL the process of a cluster below this process whose title holds `title`."""
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
            if name.startswith(RUN_OF.get(step, step)):
                storage.delete_folder(f"runs/tiny/train/{name}")


def has_checkpoint(storage: Storage, step: str) -> bool:
    """Whether the last checkpoint that Ray Train knows of is one of the step."""
    with suppress(StorageError):  # half written, or replaced by the next
        return any(
            _last(storage, key).info()["unit"].startswith(f"steps/{step}/")
            for key in _snapshots(storage, step)
        )
    return False


@dataclass(frozen=True)
class Kept:
    """What the last checkpoint of a step holds: a unit's output, and its epochs so far."""

    output: StepOutput
    epochs: list[dict[str, Any]]

    def assert_continued(self) -> None:
        """The unit's result has these very epochs: no two of them take the same seconds."""
        assert 0 < len(self.epochs) < EPOCHS, "the unit was over before the disturbance"
        found = self.output.info()["history"]
        assert found[: len(self.epochs)] == self.epochs, "the unit began anew instead of going on"


def last_checkpoint(storage: Storage, step: str) -> Kept:
    """Of the one Ray Train run that does a step, at a moment at which nothing trains."""
    (snapshot,) = _snapshots(storage, step)
    checkpoint = _last(storage, snapshot)
    with safe_open(checkpoint.fetch() / "state.safetensors", framework="np") as file:
        epochs = json.loads(file.metadata()["history"])
    return Kept(StepOutput(storage, checkpoint.info()["unit"]), epochs)


def _last(storage: Storage, snapshot: str) -> StepOutput:
    """The last checkpoint that a snapshot of Ray Train's state names."""
    latest = storage.read_json(snapshot)["latest_checkpoint_result"]["checkpoint_dir_name"]
    return StepOutput(storage, f"{snapshot.rpartition('/')[0]}/{latest}")


def _snapshots(storage: Storage, step: str) -> list[str]:
    keys = [stored.key for stored in storage.list("runs/tiny/train")]
    run = f"runs/tiny/train/{RUN_OF.get(step, step)}"
    return [key for key in keys if key.startswith(run) and "snapshot" in key]


def assert_same_embeddings(found: Storage, wanted: Storage) -> None:
    """All sets, with their ids, to 1e-6."""
    digests = wanted.folders("embeddings")
    assert found.folders("embeddings") == digests
    for digest in digests:
        rows, wanted_rows = (read_rows(s, f"embeddings/{digest}") for s in (found, wanted))
        assert rows["id"].to_pylist() == wanted_rows["id"].to_pylist()
        pairs = zip(
            rows["embedding"].to_pylist(), wanted_rows["embedding"].to_pylist(), strict=True
        )
        assert all(row == pytest.approx(wanted_row, abs=1e-6) for row, wanted_row in pairs)


def read_rows(storage: Storage, prefix: str) -> pa.Table:
    """All Parquet files below a prefix as one table."""
    keys = [stored.key for stored in storage.list(prefix) if stored.key.endswith(".parquet")]
    return pa.concat_tables([pq.read_table(io.BytesIO(storage.read_bytes(key))) for key in keys])
