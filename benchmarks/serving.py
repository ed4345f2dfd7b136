"""The service against what a team would write first: same weights, same load.

    python benchmarks/serving.py                     # encoder of the demo's size
    python benchmarks/serving.py --size base --seconds 20
    python benchmarks/serving.py --ingress python    # Ray's own proxy instead of HAProxy
    python benchmarks/serving.py --precision bf16    # of all servers and the ceiling
    python benchmarks/serving.py --replicas 2        # and as many workers of uvicorn

Peers are FastAPI and uvicorn around a transformers text-classification pipeline, and around
sentence-transformers, which gives embeddings only (infinity-emb does not install beside these
versions). All take one sentence a request, over keep-alive connections from a process of its own;
the service and the pipeline must give the same probabilities, and the largest difference is shown.
`empty` is an application that answers at once in the service's place (serving_floor.py): what Ray
Serve and its ingress leave to one. The model is one that a pipeline can hold too: first-token
pooling, no aligner. Sentences have the lengths of SST-2's. Server and load share the machine's
cores. (Named serving.py, because a script serve.py would hide the package `serve` from Python.)

Closed loop: each of 1, 8, 32, 128 connections asks again as soon as it is answered, and where it is
refused (503) after the seconds of Retry-After; latencies are those of answers. Open loop: Poisson
arrivals at a share of the highest closed-loop rate, latency from the moment of arrival.
`ceiling` is the bare model in this process over 500 sentences in batches tokenised and sorted
beforehand, measured before, between and after the servers, as a machine's speed drifts.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import httpx2
import numpy as np
import torch
from random_encoder import SHAPES, sentences_as_long_as_real_ones
from rich.console import Console
from rich.table import Table
from serving_load import Measured, run_load
from serving_setup import (
    EQUAL_PRIORITY,
    HAPROXY,
    LABELS,
    OPTIONS,
    empty,
    make_models,
    ours,
    peer,
    server,
)

from cluster.ports import free_ports
from langalign import artifacts
from langalign.encoder import SentenceEncoder
from langalign.storage import Storage

CONNECTIONS = (1, 8, 32, 128)
PEERS = ("pipeline", "sentence-transformers")
CEILING_TEXTS = 500


def probabilities(port: int, texts: list[str]) -> np.ndarray:
    """Probabilities (N, 2) that a server gives, in the order of LABELS."""
    rows = []
    for text in texts:
        body = {"language": "en", "inputs": [text]}
        answer = httpx2.post(f"http://127.0.0.1:{port}/v1/classify", json=body, timeout=60)
        (found,) = answer.json()["predictions"]
        if isinstance(found, dict):
            by_label = found["probabilities"]
        else:
            by_label = {entry["label"]: entry["score"] for entry in found}
        rows.append([by_label[label] for label in LABELS])
    return np.array(rows)


class Ceiling:
    """The bare encoder over batches that lie ready."""

    def __init__(self, store: Path, texts: list[str], arguments: argparse.Namespace) -> None:
        torch.set_num_threads(arguments.threads)
        folder = artifacts.fetch(Storage(str(store)), "bench-xc") / "encoder"
        options = OPTIONS | {"precision": arguments.precision}
        self.encoder = SentenceEncoder.load(str(folder), **options).prepare()
        self.seconds = arguments.seconds
        self.sentences = len(texts)
        tokens = self.encoder.tokenize(texts)
        self.batches = [self.encoder.batch(tokens, rows) for rows in self.encoder.batches(tokens)]

    @torch.inference_mode()
    def per_s(self) -> float:
        """Sentences per second, in whole passes that take as long as a load or longer."""
        self.encoder(*self.batches[0])
        began, passes = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < self.seconds:
            for batch in self.batches:
                self.encoder(*batch)
            passes += 1
        return passes * self.sentences / spent


def measure(way: str, port: int, texts: list[str], arguments: argparse.Namespace) -> list[Measured]:
    """All loads on one server, from a process of its own."""
    found = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:

        def load(connections: int, per_s: float | None = None) -> None:
            job = pool.submit(run_load, way, port, texts, arguments.seconds, connections, per_s)
            found.append(job.result())

        for connections in CONNECTIONS:
            load(connections)
        load(128, arguments.share * max(row.per_s for row in found))
    return found


def report(rows: list[Measured], notes: list[str]) -> None:
    """Print the table, a line for each load and server, with the rate over the pipeline's."""
    table = Table(title="one sentence a request")
    for column in ("load", "server", "requests/s", "ratio", "p50 ms", "p99 ms", "503", "failed"):
        table.add_column(column, justify="left" if column in ("server", "load") else "right")
    base = {row.load: row.per_s for row in rows if row.way == PEERS[0]}
    for row in sorted(rows, key=lambda row: (row.connections, row.load)):
        ratio = f"{row.per_s / base[row.load]:.2f}" if row.load in base else "–"
        figures = [f"{row.per_s:.0f}", ratio, f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}"]
        table.add_row(row.load, row.way, *figures, str(row.refused), str(row.failed))
    console = Console(width=110)
    console.print(table)
    for note in notes:
        console.print(note)


def main() -> None:
    """Measure all servers and print the table."""
    arguments = _parse()
    texts = sentences_as_long_as_real_ones(2_000)
    rows: list[Measured] = []
    notes: list[str] = []
    vectors: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = make_models(arguments.size, folder)
        ceiling = Ceiling(models[1], texts[:CEILING_TEXTS], arguments)
        bare = [ceiling.per_s()]
        for way in arguments.ways:
            (port,) = free_ports(1)
            command, env = start_of(way, folder, models, port, arguments)
            with server(command, port, folder / f"{way}.log", env) as (ready_s, _):
                notes.append(f"{way}: ready after {ready_s:.1f} s")
                if way in ("pipeline", "ours"):
                    vectors[way] = probabilities(port, texts[:50])
                rows += measure(way, port, texts, arguments)
            bare.append(ceiling.per_s())
    listed = ", ".join(f"{per_s:.0f}" for per_s in bare)
    notes.append(f"ceiling before, between and after the servers: {listed} sentences/s")
    if len(vectors) == 2:
        difference = np.abs(vectors["ours"] - vectors["pipeline"]).max()
        notes.append(f"largest difference of a probability between the two: {difference:.1e}")
    report(rows, notes)


def start_of(
    way: str, folder: Path, models: tuple[Path, Path], port: int, arguments: argparse.Namespace
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a server; `models` as `make_models` gives them."""
    pipeline_folder, store = models
    replicas, precision = arguments.replicas, arguments.precision
    threads = str(max(1, arguments.threads // replicas))
    ingress = EQUAL_PRIORITY | (HAPROXY if arguments.ingress == "haproxy" else {})
    if way == "empty":
        return empty(folder, port, replicas), ingress | {"PYTHONPATH": str(Path(__file__).parent)}
    if way in PEERS:
        model = {"PEER_WAY": way, "PEER_FOLDER": str(pipeline_folder)}
        effort = {"PEER_THREADS": threads, "PEER_PRECISION": precision}
        return peer(port, replicas), model | effort
    settings = {"replicas": str(replicas), "threads": threads, "precision": precision}
    settings |= dict(change.split("=", 1) for change in arguments.set)
    settings |= {"model": "bench-xc", "storage": str(store)}
    return ours(folder, port, **settings), ingress


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SHAPES), default="tiny")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--ingress", choices=("haproxy", "python"), default="haproxy")
    ways = [*PEERS, "ours", "empty"]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, help="servers to measure")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of all replicas together"
    )
    parser.add_argument(
        "--replicas", type=int, default=1, help="processes of each server that hold the model"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the service"
    )
    parser.add_argument("--share", type=float, default=0.7, help="of capacity, open loop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
