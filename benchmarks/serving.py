"""The service against what a team would write first: same weights, same load.

    python benchmarks/serving.py                     # encoder of the demo's size
    python benchmarks/serving.py --size base --seconds 20
    python benchmarks/serving.py --ingress python    # Ray's own proxy instead of HAProxy
    python benchmarks/serving.py --precision bf16    # of all servers and the ceiling

Peers are FastAPI and uvicorn around a transformers text-classification pipeline, and around
sentence-transformers, which gives embeddings only (infinity-emb does not install beside these
versions). All take one sentence a request, over keep-alive connections from a process of its own;
the service and the pipeline must give the same probabilities, and the largest difference is shown.
The model is one that a pipeline can hold too: first-token pooling, no aligner. Sentences have the
lengths of SST-2's. Server and load share the machine's cores. (Named serving.py, because a script
serve.py would hide the package `serve` from Python.)

Closed loop: each of 1, 8, 32, 128 connections asks again as soon as it is answered, and where it is
refused (503) after the seconds of Retry-After; latencies are those of answers. Open loop: Poisson
arrivals at a share of the highest closed-loop rate, latency from the moment of arrival.
`ceiling` is the bare model in this process, over batches tokenised and sorted beforehand.
"""

import argparse
import os
import sys
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
from serving_setup import EQUAL_PRIORITY, HAPROXY, LABELS, OPTIONS, make_models, ours, server

from cluster.ports import free_ports
from langalign import artifacts
from langalign.encoder import SentenceEncoder
from langalign.storage import Storage

CONNECTIONS = (1, 8, 32, 128)
PEERS = ("pipeline", "sentence-transformers")


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


def ceiling(store: Path, texts: list[str], threads: int, precision: str) -> float:
    """Sentences per second of the bare encoder over batches that lie ready."""
    torch.set_num_threads(threads)
    folder = artifacts.fetch(Storage(str(store)), "bench-xc") / "encoder"
    encoder = SentenceEncoder.load(str(folder), **OPTIONS | {"precision": precision}).prepare()
    tokens = encoder.tokenize(texts)
    batches = [encoder.batch(tokens, rows) for rows in encoder.batches(tokens)]
    with torch.inference_mode():
        encoder(*batches[0])
        began = time.perf_counter()
        for batch in batches:
            encoder(*batch)
        return len(texts) / (time.perf_counter() - began)


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
    threads, precision = str(arguments.threads), arguments.precision
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pipeline_folder, store = make_models(arguments.size, folder)
        for way in arguments.ways:
            (port,) = free_ports(1)
            settings = dict(change.split("=", 1) for change in arguments.set)
            settings |= {"model": "bench-xc", "storage": str(store), "threads": threads}
            settings["precision"] = precision
            command = ours(folder, port, **settings)
            env = EQUAL_PRIORITY | (HAPROXY if arguments.ingress == "haproxy" else {})
            if way != "ours":
                script = str(Path(__file__).with_name("serving_peer.py"))
                command = [sys.executable, script, way, str(pipeline_folder), str(port)]
                command += [threads, precision]
                env = {}
            with server(command, port, folder / f"{way}.log", env) as (ready_s, _):
                notes.append(f"{way}: ready after {ready_s:.1f} s")
                if way != "sentence-transformers":
                    vectors[way] = probabilities(port, texts[:50])
                rows += measure(way, port, texts, arguments)
        bare = ceiling(store, texts, arguments.threads, precision)
        notes.append(f"ceiling: {bare:.0f} sentences/s")
    if len(vectors) == 2:
        difference = np.abs(vectors["ours"] - vectors["pipeline"]).max()
        notes.append(f"largest difference of a probability between the two: {difference:.1e}")
    report(rows, notes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SHAPES), default="tiny")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--ingress", choices=("haproxy", "python"), default="haproxy")
    ways = [*PEERS, "ours"]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, help="servers to measure")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the service"
    )
    parser.add_argument("--share", type=float, default=0.7, help="of capacity, open loop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
