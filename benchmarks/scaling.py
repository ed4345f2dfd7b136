"""Weak scaling on the nodes of a rehearsal: what scheduling costs as nodes are added.

    python benchmarks/scaling.py                  # 1, 2 and 4 nodes, about 8 minutes on two cores
    python benchmarks/scaling.py --nodes 1 2

Each node brings one logical core and the same amount of work: blocks of a few sentences for the
embedding step, trials of one epoch for a sweep. All nodes share this machine, so there is no
speed-up to see; with so little work in a block or trial, what is left is what Ray and this project
spend on scheduling it. `join` is from the wish for nodes until all have joined; `ms a trial` is
the search over its trials, start of processes included; `s a node more` is what embedding's start
and the search take longer than with the fewest nodes, by each node that came on top.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch
import yaml
from random_encoder import MAX_LENGTH, make_config, make_tokenizer, sentences
from ray.autoscaler.sdk import request_resources
from rich.console import Console
from rich.table import Table
from transformers import XLMRobertaModel

from cluster.embed import ENCODER_FOLDER, EncoderRule, TextSet, embed
from cluster.rehearsal import rehearsal
from cluster.rehearsal.stage import Stage, open_stage
from cluster.session import session
from cluster.tune import Sweep
from langalign.configfile import load_config
from langalign.data import LABELLED_SCHEMA, RowStream, write_shards
from langalign.outputs import StepOutput
from langalign.searchspace import SweepConfig
from langalign.storage import Storage

ROOT = Path(__file__).parents[1]
SWEEP = Path(rehearsal.__file__).with_name("sweep.yaml")
NODES = (1, 2, 4)
BLOCKS, BLOCK_ROWS = 64, 8  # of a node
TRIALS, STACK = 16, 4  # of a node
DRIVER_LIMIT_S = 500.0
# A search that hardly trains: the closed form, and one epoch of a head.
SMALL = [
    *("space.kind=[linear]", "space.depth=", "space.dropout=", "head.max_epochs=1"),
    *("tune.rows=none", "sweep.scheduler=none", "sweep.confirm_seeds=0", "publish=false"),
    *("data.train_rows=200", "data.parallel_rows=100", "data.test_rows=50"),
]


def write_encoder(folder: Path) -> None:
    """A tiny encoder with random weights."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    XLMRobertaModel(make_config("tiny", tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def joined(nodes: int) -> float:
    """Seconds until so many workers are there."""
    start = time.perf_counter()
    request_resources(num_cpus=nodes)
    while ray.cluster_resources().get("CPU", 0) < nodes:
        time.sleep(0.1)
    return time.perf_counter() - start


def embedding(nodes: int, folder: Path, storage: Storage) -> dict[str, float]:
    """Start-up, and milliseconds a block from there on."""
    output = StepOutput(storage, "steps/encoder/bench")
    if not output.is_done():
        output.finish(output.write_folder(folder, ENCODER_FOLDER), {})
    rule = EncoderRule(output.prefix, "bench", "mean", MAX_LENGTH, "fp32")
    prefix = f"texts-{nodes}"
    texts = sentences(nodes * BLOCKS * BLOCK_ROWS)
    prepared = write_shards(_stream(texts), storage, prefix=prefix, shard_rows=BLOCK_ROWS)
    digest, shards, rows = prepared.summary.digest, prepared.shards, prepared.shard_rows
    part = TextSet("bench", digest, "en", shards, rows, "text", "text_pair")
    times: list[float] = []
    start = time.perf_counter()
    embed(
        storage,
        rule,
        [part],
        actors=nodes,
        on_part=lambda done, total: times.append(time.perf_counter()),
    )
    steady_s = times[-1] - times[nodes - 1]
    return {
        "embed_start_s": times[nodes - 1] - start,
        "ms_a_block": 1000 * steady_s / (len(times) - nodes),
    }


def _stream(texts: list[str]) -> RowStream:
    def batches() -> Iterator[pa.RecordBatch]:
        rows = len(texts)
        columns: list[Any] = [range(rows), texts, [None] * rows, [0] * rows, ["en"] * rows]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, LABELLED_SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=LABELLED_SCHEMA)

    return RowStream(batches(), labels=("none",), languages=("en",))


def sweep(nodes: int, folder: Path, storage: Storage) -> dict[str, float]:
    """Seconds of a search, and milliseconds a trial."""
    config = storage_config(folder)
    trials = nodes * TRIALS
    values = [*SMALL, f"name=scaling-{nodes}", f"sweep.trials={trials}", f"sweep.stack={STACK}"]
    printed = io.StringIO()
    loaded = load_config(SweepConfig, config, values)
    Sweep(loaded, storage, Console(file=printed, width=200)).run()
    found = re.search(r"search\s+([\d.]+)s", printed.getvalue())
    assert found, printed.getvalue()
    seconds = float(found[1])
    return {"search_s": seconds, "ms_a_trial": 1000 * seconds / trials}


def storage_config(folder: Path) -> Path:
    """The rehearsal's sweep with the random encoder."""
    content = yaml.safe_load(SWEEP.read_text())
    content["encoder"]["name"] = str(folder)
    content["cluster"]["embed_actors"] = 1
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def drive(nodes: int, folder: Path) -> None:
    """Measure, connected to the cluster; prints one line of JSON."""
    storage = Storage.from_environment(None)
    with session():
        result: dict[str, float] = {"join_s": joined(nodes)}
        result |= embedding(nodes, folder, storage)
        result |= sweep(nodes, folder, storage)
    print(json.dumps(result), flush=True)


def measure(stage: Stage, nodes: int, folder: Path) -> dict[str, float]:
    """A cluster of so many nodes, and what its driver measured."""
    stage.replace(worker_cpus=1, max_workers=nodes, idle_s=600)
    command = [sys.executable, __file__, "--drive", str(nodes), "--folder", str(folder)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**stage.cluster.environment, "RAY_ADDRESS": stage.cluster.address},
        stdout=subprocess.PIPE,
        text=True,
        timeout=DRIVER_LIMIT_S,
        check=True,
    )
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def started_s(values: dict[str, float]) -> float:
    """Seconds of what starts processes on every node."""
    return values["embed_start_s"] + values["search_s"]


def compare(counts: list[int]) -> None:
    """A table by number of nodes."""
    table = Table(title=f"A node: {BLOCKS} blocks of {BLOCK_ROWS} texts, {TRIALS} trials")
    columns = ("nodes", "join s", "embed start s", "ms a block", "search s", "ms a trial")
    for column in (*columns, "s a node more"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, open_stage(ROOT) as stage:
        folder = Path(name)
        write_encoder(folder)
        found = {nodes: measure(stage, nodes, folder) for nodes in sorted(counts)}
    fewest = min(counts)
    for nodes, values in found.items():
        more = "–"
        if nodes > fewest:
            more = f"{(started_s(values) - started_s(found[fewest])) / (nodes - fewest):.1f}"
        table.add_row(str(nodes), *(f"{value:.1f}" for value in values.values()), more)
    Console(width=90).print(table)


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=list(NODES))
    parser.add_argument("--drive", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive, arguments.folder)
    else:
        compare(arguments.nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
