"""What a replica costs: seconds from start to ready, and memory by number of languages.

    python benchmarks/serving_start.py               # encoder of the demo's size
    python benchmarks/serving_start.py --size base

Each line is a service of its own, started cold: Ray, HAProxy and one replica. All languages share
one encoder and each has an `fc` aligner at the paper's widths and a head. `store` is a folder, or
an S3 server of this machine, from which the replica fetches everything over HTTP. `memory` is the
replica's resident memory once it has answered.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import torch
from random_encoder import SHAPES, make_config, make_tokenizer
from rich.console import Console
from rich.table import Table
from serving_setup import HAPROXY, LABELS, ours, publish, server
from transformers import XLMRobertaForSequenceClassification as Classifier

from cluster.ports import free_ports
from cluster.seaweed import Identity, Seaweed, seaweed_ports
from langalign.storage import Storage

LANGUAGES = (1, 20)
MIB = 2**20


@dataclass(frozen=True)
class Start:
    """One start."""

    store: str
    languages: int
    ready_s: float
    memory_mib: float


def publish_all(size: str, storage: Storage, scratch: Path) -> None:
    """One model for each language."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = Classifier(make_config(size, tokenizer, LABELS)).eval()
    for number in range(max(LANGUAGES)):
        publish(model, tokenizer, storage, scratch, language=f"x{number}", kind="fc")


def start(kind: str, root: str, languages: int, folder: Path) -> Start:
    """Start a service with a home of its own, so that nothing was fetched before."""
    (port,) = free_ports(1)
    names = [f"bench-x{number}" for number in range(languages)]
    command = ours(folder, port, model=names, storage=root)
    log = folder / "log"
    with server(command, port, log, {**HAPROXY, "HOME": str(folder)}) as (ready_s, process):
        for number in range(languages):
            body = {"language": f"x{number}", "inputs": ["a good film"]}
            url = f"http://127.0.0.1:{port}/v1/classify"
            httpx2.post(url, json=body, timeout=60).raise_for_status()
        memory = sum(_replica_memory(process))
    return Start(kind, languages, ready_s, memory / MIB)


def _replica_memory(process: psutil.Process) -> list[int]:
    children = process.children(recursive=True)
    return [c.memory_info().rss for c in children if "ServeReplica" in " ".join(c.cmdline())]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SHAPES), default="tiny")
    arguments = parser.parse_args()
    starts = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bucket = Seaweed(
            folder / "s3",
            [Identity("bench", "bench", os.urandom(16).hex())],
            bucket="bench",
            ports=seaweed_ports(),
        )
        bucket.start()
        os.environ |= bucket.environment()
        try:
            for kind, root in (("folder", str(folder / "store")), ("S3", "s3://bench/store")):
                publish_all(arguments.size, Storage.from_environment(root), folder / "model")
                for languages in LANGUAGES:
                    home = folder / f"{kind}-{languages}"
                    home.mkdir()
                    starts.append(start(kind, root, languages, home))
                    print(starts[-1], file=sys.stderr)
        finally:
            bucket.stop()
    table = Table(title=f"One replica, {arguments.size} encoder")
    for column in ("store", "languages", "start to ready, s", "memory, MiB"):
        table.add_column(column, justify="left" if column == "store" else "right")
    for row in starts:
        figures = (f"{row.ready_s:.1f}", f"{row.memory_mib:.0f}")
        table.add_row(row.store, str(row.languages), *figures)
    Console(width=90).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
