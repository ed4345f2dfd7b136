"""The service against FastAPI + uvicorn around a transformers pipeline: same weights, same load.

    python benchmarks/serve.py                     # demo-sized encoder
    python benchmarks/serve.py --size base --seconds 20
    python benchmarks/serve.py --ingress python    # Ray's own proxy instead of HAProxy

Both classify one sentence a request, over keep-alive connections from a process of their own, and
must give the same probabilities, which is checked first. The model is one that a transformers
pipeline can hold too: first-token pooling, no aligner. Server and load share the machine's cores.
Closed loop: each of 1, 8, 32, 128 connections asks again as soon as it is answered. Open loop:
Poisson arrivals at a share of the highest closed-loop rate, latency from the moment of arrival.
`ceiling` is the bare model in this process, over batches tokenised and sorted beforehand.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import torch
import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig
from transformers import XLMRobertaForSequenceClassification as Classifier

from langalign import artifacts
from langalign.counterpart import unpaired_texts
from langalign.encoder import SentenceEncoder
from langalign.manifest import ManifestDraft
from langalign.model import write_config
from langalign.pretraining import train_tokenizer
from langalign.storage import Storage

ROOT = Path(__file__).parents[1]
SHAPES = {"demo": (3, 128, 4), "base": (12, 768, 12)}
LABELS = ("negative", "positive")
MAX_LENGTH = 128
CONNECTIONS = (1, 8, 32, 128)
START_LIMIT_S = 180.0
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
OPTIONS: dict[str, Any] = {"pooling": "cls", "max_length": MAX_LENGTH, "precision": "fp32"}
PEER = """
import sys
import torch
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

torch.set_num_threads(int(sys.argv[3]))
cut = {"max_length": 128, "truncation": True}
pipe = pipeline("text-classification", model=sys.argv[1], top_k=None, **cut)
app = FastAPI()


class Request(BaseModel):
    language: str
    inputs: list[str]


@app.post("/v1/classify")
def classify(request: Request):
    return {"predictions": pipe(request.inputs)}


@app.get("/readyz")
def ready():
    return {"status": "ok"}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
"""


@dataclass(frozen=True)
class Measured:
    """One load on one server; latencies in milliseconds."""

    way: str
    load: str
    per_s: float
    p50_ms: float
    p99_ms: float
    refused: int
    failed: int


def sentences(rows: int) -> list[str]:
    """Mixed lengths: one to six reviews joined, most of them short."""
    generator = np.random.default_rng(0)
    pool = unpaired_texts(5_000, 0, "en")
    counts = np.clip(generator.geometric(0.5, size=rows), 1, 6)
    picks = generator.integers(0, len(pool), size=(rows, 6))
    return [" ".join(pool[i] for i in row[:n]) for row, n in zip(picks, counts, strict=True)]


def make_models(size: str, folder: Path) -> tuple[Path, Path]:
    """One set of random weights as a pipeline's folder and as a storage with a published model."""
    layers, width, heads = SHAPES[size]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(sentences(5_000), 8000),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        type_vocab_size=1,
        id2label=dict(enumerate(LABELS)),
        label2id={label: place for place, label in enumerate(LABELS)},
    )
    model = Classifier(config).eval()
    pipeline_folder, draft_folder = folder / "pipeline", folder / "model"
    model.save_pretrained(pipeline_folder)
    tokenizer.save_pretrained(pipeline_folder)
    model.roberta.save_pretrained(draft_folder / "encoder")
    tokenizer.save_pretrained(draft_folder / "encoder")
    head = {key: value.contiguous() for key, value in model.classifier.state_dict().items()}
    save_file(head, draft_folder / "head.safetensors")
    (draft_folder / "README.md").write_text("# benchmark\n")
    shared: dict[str, Any] = {
        "source_language": "en",
        "target_language": "xc",
        "direction": "forward",
        "aligner": {"kind": "none"},
        "encoder": OPTIONS,
    }
    write_config(draft_folder, labels=LABELS, dropout=0.1, is_pair_task=False, **shared)
    draft = ManifestDraft(seed=0, task={"name": "bench"}, labels=list(LABELS), **shared)
    artifacts.publish(Storage(str(folder / "store")), draft_folder, draft, name="bench")
    return pipeline_folder, folder / "store"


@contextmanager
def server(command: list[str], port: int, log: Path, env: dict[str, str]) -> Iterator[float]:
    """Run a server until the block ends; gives the seconds from start to ready."""
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 (commands of this file)
            command, cwd=ROOT, env={**os.environ, **env}, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.perf_counter() - began > START_LIMIT_S:
                sys.exit(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield time.perf_counter() - began
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        for left in psutil.wait_procs(family, timeout=10)[1]:
            left.kill()


def _is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def ours(store: Path, folder: Path, port: int, threads: int, changes: list[str]) -> list[str]:
    """The command of the service, and its deployment file."""
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"] |= {
        "model": ["bench"],
        "storage": str(store),
        "threads": threads,
        **dict(change.split("=", 1) for change in changes),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return [str(Path(sys.executable).parent / "serve"), "run", str(folder / "config.yaml")]


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


class Load:
    """Requests over keep-alive connections; collects latencies by status."""

    def __init__(self, port: int, bodies: list[bytes], seconds: float) -> None:
        self._port = port
        self._bodies = bodies
        self._seconds = seconds
        self.latencies_s: list[float] = []
        self.refused = 0
        self.failed = 0

    async def closed(self, connections: int) -> None:
        """Each connection asks again as soon as it is answered."""
        deadline = time.perf_counter() + self._seconds
        await asyncio.gather(*[self._asker(n, deadline) for n in range(connections)])

    async def open(self, per_s: float, connections: int) -> None:
        """Arrivals by a Poisson process; an arrival without a free connection waits for one."""
        arrivals: asyncio.Queue[float | None] = asyncio.Queue()
        workers = [asyncio.create_task(self._worker(n, arrivals)) for n in range(connections)]
        gaps = np.random.default_rng(1).exponential(1 / per_s, size=int(per_s * self._seconds))
        moment = time.perf_counter()
        for gap in gaps:
            moment += gap
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            arrivals.put_nowait(moment)
        for _ in workers:
            arrivals.put_nowait(None)
        await asyncio.gather(*workers)

    async def _asker(self, number: int, deadline: float) -> None:
        streams = await asyncio.open_connection("127.0.0.1", self._port)
        place = number * 37
        while (began := time.perf_counter()) < deadline:
            await self._ask(streams, place, began)
            place += 1
        streams[1].close()

    async def _worker(self, number: int, arrivals: "asyncio.Queue[float | None]") -> None:
        streams = await asyncio.open_connection("127.0.0.1", self._port)
        place = number * 37
        while (moment := await arrivals.get()) is not None:
            await self._ask(streams, place, moment)
            place += 1
        streams[1].close()

    async def _ask(
        self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], place: int, began: float
    ) -> None:
        reader, writer = streams
        writer.write(self._bodies[place % len(self._bodies)])
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"content-length"]))
        status = int(head.split(b" ", 2)[1])
        if status == 200:
            self.latencies_s.append(time.perf_counter() - began)
        elif status == 503:
            self.refused += 1
        else:
            self.failed += 1


def run_load(
    way: str, port: int, texts: list[str], seconds: float, connections: int, per_s: float | None
) -> Measured:
    """One load, in the process that calls."""
    bodies = []
    for text in texts:
        body = json.dumps({"language": "en", "inputs": [text]}).encode()
        head = (
            f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        bodies.append(head.encode() + body)
    warm_up = Load(port, bodies, min(2.0, seconds))
    asyncio.run(warm_up.closed(connections))
    load = Load(port, bodies, seconds)
    began = time.perf_counter()
    asyncio.run(load.closed(connections) if per_s is None else load.open(per_s, connections))
    elapsed_s = time.perf_counter() - began
    p50, p99 = np.percentile(load.latencies_s, [50, 99]) * 1000
    shown = f"{connections} connections" if per_s is None else f"open, {per_s:.0f}/s"
    answered = len(load.latencies_s)
    return Measured(way, shown, answered / elapsed_s, p50, p99, load.refused, load.failed)


def ceiling(store: Path, texts: list[str], threads: int) -> float:
    """Sentences per second of the bare encoder over batches that lie ready."""
    torch.set_num_threads(threads)
    folder = artifacts.fetch(Storage(str(store)), "bench") / "encoder"
    encoder = SentenceEncoder.load(str(folder), **OPTIONS).prepare()
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
    """Print the table."""
    table = Table(title="one sentence a request")
    for column in ("server", "load", "requests/s", "p50 ms", "p99 ms", "refused", "failed"):
        table.add_column(column, justify="left" if column in ("server", "load") else "right")
    for row in rows:
        figures = [f"{row.per_s:.0f}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}"]
        table.add_row(row.way, row.load, *figures, str(row.refused), str(row.failed))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note)


def main() -> None:
    """Measure both servers and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SHAPES), default="demo")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--ingress", choices=("haproxy", "python"), default="haproxy")
    parser.add_argument("--only", choices=("pipeline", "ours"), help="one of the two servers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the service"
    )
    parser.add_argument("--share", type=float, default=0.7, help="of capacity, open loop")
    arguments = parser.parse_args()
    texts = sentences(2_000)
    rows: list[Measured] = []
    notes: list[str] = []
    vectors = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pipeline_folder, store = make_models(arguments.size, folder)
        peer = folder / "peer.py"
        peer.write_text(PEER)
        port, other = _free_port(), _free_port()
        threads = str(arguments.threads)
        pipeline_command = [sys.executable, str(peer), str(pipeline_folder), str(other), threads]
        our_command = ours(store, folder, port, arguments.threads, arguments.set)
        our_env = HAPROXY if arguments.ingress == "haproxy" else {}
        ways = {
            "pipeline": (other, pipeline_command, {}),
            "ours": (port, our_command, our_env),
        }
        for way, (address, command, env) in ways.items():
            if arguments.only not in (None, way):
                continue
            with server(command, address, folder / f"{way}.log", env) as ready_s:
                notes.append(f"{way}: ready after {ready_s:.1f} s")
                vectors.append(probabilities(address, texts[:50]))
                rows += measure(way, address, texts, arguments)
        notes.append(f"ceiling: {ceiling(store, texts, arguments.threads):.0f} sentences/s")
    if len(vectors) == 2:
        difference = np.abs(vectors[0] - vectors[1]).max()
        notes.append(f"largest difference of a probability between the two: {difference:.1e}")
    report(rows, notes)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
