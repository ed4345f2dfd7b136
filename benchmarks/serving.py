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
arrivals at a share of each server's own best closed-loop rate, latency from the moment of arrival.

A machine's speed drifts, so all servers but `empty` run side by side and each load comes in rounds:
one server after the other has it while the rest are idle, and ratios are of rates of one round.
`bare` is the model in this process over 500 sentences in batches tokenised and sorted beforehand,
measured in every round too.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median

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
WAYS = (*PEERS, "ours", "empty")
BARE = "bare"
RATIOS = (*PEERS, BARE)  # what rates are divided by
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
    def measured(self) -> Measured:
        """Sentences per second, in whole passes that take as long as a load or longer."""
        self.encoder(*self.batches[0])
        began, passes = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < self.seconds:
            for batch in self.batches:
                self.encoder(*batch)
            passes += 1
        return Measured(BARE, "", 0, passes * self.sentences / spent, 0.0, 0.0, 0, 0)


Round = dict[str, Measured]  # what each server, and the bare model, did in one round of a load


def measure(
    ports: dict[str, int], texts: list[str], ceiling: Ceiling, arguments: argparse.Namespace
) -> list[list[Round]]:
    """For each load its rounds, in which the servers take turns: in reverse in every second one.

    All loads come from one process beside this one.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:

        def load(way: str, connections: int, per_s: float | None) -> Measured:
            asked = (way, ports[way], texts, arguments.seconds, connections, per_s)
            return pool.submit(run_load, *asked).result()

        def rounds(connections: int, rates: dict[str, float] | None = None) -> list[Round]:
            found = []
            for number in range(arguments.rounds):
                ways = list(ports)[:: -1 if number % 2 else 1]
                one = {BARE: ceiling.measured()}
                one |= {w: load(w, connections, rates[w] if rates else None) for w in ways}
                found.append(one)
            return found

        closed = [rounds(connections) for connections in CONNECTIONS]
        best = {way: max(median(r[way].per_s for r in found) for found in closed) for way in ports}
        return [*closed, rounds(128, {way: arguments.share * best[way] for way in ports})]


def report(loads: list[list[Round]]) -> None:
    """Print the table: for each load and server the medians over the rounds, of ratios too."""
    table = Table(title=f"one sentence a request; medians of {len(loads[0])} rounds")
    for column in ("load", "server"):
        table.add_column(column)
    over = [f"over {base}" for base in RATIOS]
    for column in ("requests/s", *over, "p50 ms", "p99 ms", "p99/p50", "503", "failed"):
        table.add_column(column, justify="right")
    for rounds in loads:
        for way in rounds[0]:
            if way != BARE:
                table.add_row(*_row(rounds, way))
    Console(width=165).print(table)


def _row(rounds: list[Round], way: str) -> list[str]:
    rows = [found[way] for found in rounds]
    p50_ms, p99_ms = median(row.p50_ms for row in rows), median(row.p99_ms for row in rows)
    spread = median(row.p99_ms / row.p50_ms for row in rows)
    return [
        *(rows[0].load, way, f"{median(row.per_s for row in rows):.0f}"),
        *(_ratio(rounds, way, base) for base in RATIOS),
        *(f"{p50_ms:.1f}", f"{p99_ms:.1f}", f"{spread:.1f}"),
        *(str(sum(row.refused for row in rows)), str(sum(row.failed for row in rows))),
    ]


def _ratio(rounds: list[Round], way: str, base: str) -> str:
    """A server's rate over another's of the same round: median, least and most."""
    is_open = rounds[0][way].load.startswith("open")  # each server has arrivals of its own
    if base not in rounds[0] or way in (base, "empty") or is_open:
        return "–"
    found = [r[way].per_s / r[base].per_s for r in rounds]
    return f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


def main() -> None:
    """Measure all servers and print the table."""
    arguments = _parse()
    texts = sentences_as_long_as_real_ones(2_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = make_models(arguments.size, folder)
        # `empty` and the service are a cluster of Ray each, and HAProxy has the same ports in both.
        for ways in (set(arguments.ways) - {"empty"}, set(arguments.ways) & {"empty"}):
            if ways:
                compare([way for way in WAYS if way in ways], folder, models, texts, arguments)


def compare(
    ways: list[str],
    folder: Path,
    models: tuple[Path, Path],
    texts: list[str],
    arguments: argparse.Namespace,
) -> None:
    """Start some servers, measure them in turn, and print; `models` as `make_models` gives them."""
    ceiling = Ceiling(models[1], texts[:CEILING_TEXTS], arguments)
    ports = dict(zip(ways, free_ports(len(ways)), strict=True))
    with ExitStack() as running:
        for way, port in ports.items():
            command, env = start_of(way, folder, models, port, arguments)
            running.enter_context(server(command, port, folder / f"{way}.log", env))
        if {"pipeline", "ours"} <= ports.keys():
            theirs, our = (probabilities(ports[way], texts[:50]) for way in ("pipeline", "ours"))
            difference = np.abs(theirs - our).max()
            print(f"largest difference of a probability, pipeline and ours: {difference:.1e}")
        loads = measure(ports, texts, ceiling, arguments)
    report(loads)
    bare = [found[BARE].per_s for rounds in loads for found in rounds]
    print(f"bare model: {median(bare):.0f} sentences/s ({min(bare):.0f} to {max(bare):.0f})")


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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="servers to measure")
    parser.add_argument("--rounds", type=int, default=3, help="of each load, servers taking turns")
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
