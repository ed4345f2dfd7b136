"""The embedding step against sentence-transformers and a bare loop: same weights, same sentences.

    python benchmarks/embed.py                      # tiny encoder, 50k rows; base-sized, 2k rows
    python benchmarks/embed.py --only tiny --rows 20000
    python benchmarks/embed.py --memory             # peak memory at 50k and 500k rows

Ways: `ours on Ray` is cluster.embed (tokenising and encoding apart, Parquet out), in steady state,
that is from the first finished part on, with start-up and the cost of a block shown apart;
`ours in process` is SentenceEncoder.embed, tokenising included; `bare loop` runs the model over
batches that were tokenised and sorted by length beforehand, so it does less than all the others;
`sentence-transformers` is `encode` at the better of batch sizes 32 and 128, tried on a tenth.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
import torch
from random_encoder import MAX_LENGTH, SHAPES, make_config, make_tokenizer, sentences
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import XLMRobertaModel

from cluster.embed import ENCODER_FOLDER, EncoderRule, TextSet, embed
from cluster.session import session
from langalign.data import LABELLED_SCHEMA, RowStream, write_shards
from langalign.encoder import SentenceEncoder
from langalign.outputs import StepOutput
from langalign.storage import Storage

SHARD_ROWS = 2048
# A small run is cut finer, or it would have no steady state.
FEWEST_SHARDS = 16
DEFAULT_ROWS = {"tiny": 50_000, "base": 2_000}
MEMORY_ROWS = (50_000, 500_000)


@dataclass
class Result:
    """Sentences per second and what else a way showed; `vectors` (N, D) to compare."""

    way: str
    per_s: float
    vectors: np.ndarray | None = None
    note: str = ""


def make_encoder(size: str, folder: Path) -> None:
    """Write an encoder with random weights."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    XLMRobertaModel(make_config(size, tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path, precision: str, batch_tokens: int | None) -> SentenceEncoder:
    """The encoder of `folder` on the device there is."""
    encoder = SentenceEncoder.load(
        str(folder),
        pooling="mean",
        max_length=MAX_LENGTH,
        precision=precision,
        batch_tokens=batch_tokens,
    )
    return encoder.prepare("cuda" if torch.cuda.is_available() else "cpu")


def bare_loop(folder: Path, texts: list[str], precision: str, batch_tokens: int | None) -> Result:
    """The model alone, over padded batches that lie ready in memory."""
    encoder = load(folder, precision, batch_tokens)
    tokens = encoder.tokenize(texts)
    batches = [encoder.batch(tokens, rows) for rows in encoder.batches(tokens)]
    with torch.inference_mode():
        encoder(*batches[-1])
        start = time.perf_counter()
        for batch in batches:
            encoder(*batch).cpu()
    return Result("bare loop, pre-tokenised", len(texts) / (time.perf_counter() - start))


def in_process(folder: Path, texts: list[str], precision: str, batch_tokens: int | None) -> Result:
    """SentenceEncoder.embed, tokenising included."""
    encoder = load(folder, precision, batch_tokens)
    encoder.embed(texts[:64])
    start = time.perf_counter()
    vectors = encoder.embed(texts)
    return Result(
        f"ours in process, {precision}", len(texts) / (time.perf_counter() - start), vectors
    )


def peer(folder: Path, texts: list[str], precision: str) -> Result:
    """sentence-transformers at its better batch size."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    transformer = Transformer(str(folder), max_seq_length=MAX_LENGTH, model_kwargs={"dtype": dtype})
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling])
    model.encode(texts[:64])
    tried = {size: _encode(model, texts[: len(texts) // 10], size)[0] for size in (32, 128)}
    batch_size = max(tried, key=lambda size: tried[size])
    per_s, vectors = _encode(model, texts, batch_size)
    return Result(f"sentence-transformers, {precision}", per_s, vectors, f"batch size {batch_size}")


def _encode(
    model: SentenceTransformer, texts: list[str], batch_size: int
) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    vectors = model.encode(texts, batch_size=batch_size, show_progress_bar=False)
    return len(texts) / (time.perf_counter() - start), np.asarray(vectors)


def on_ray(folder: Path, texts: list[str], precision: str, batch_tokens: int | None) -> Result:
    """cluster.embed over shards on a local storage."""
    with tempfile.TemporaryDirectory() as root:
        storage = Storage(root)
        output = StepOutput(storage, "steps/encoder/bench")
        output.finish(output.write_folder(folder, ENCODER_FOLDER), {})
        rule = EncoderRule(output.prefix, "bench", "mean", MAX_LENGTH, precision)
        shard_rows = min(SHARD_ROWS, max(1, len(texts) // FEWEST_SHARDS))
        prepared = write_shards(_stream(texts), storage, prefix="texts", shard_rows=shard_rows)
        rows = TextSet(
            "bench",
            prepared.summary.digest,
            "en",
            prepared.shards,
            prepared.shard_rows,
            "text",
            "text_pair",
        )
        times: list[float] = []
        start = time.perf_counter()
        gpus = torch.cuda.device_count()
        actors = gpus or os.cpu_count() or 1
        sets = embed(
            storage,
            rule,
            [rows],
            actors=actors,
            gpus_per_actor=1 if gpus else 0,
            batch_tokens=batch_tokens,
            on_part=lambda done, total: times.append(time.perf_counter()),
        )
        # Until every actor has given its first part, some are still loading.
        first = min(actors, len(times) - 1)
        steady_rows = sum(prepared.shard_rows[first:])
        steady_s = times[-1] - times[first - 1]
        block_ms = 1000 * steady_s / (len(times) - first)
        note = f"start-up {times[first - 1] - start:.1f} s, {block_ms:.0f} ms a block"
        vectors = sets["bench"].load().embeddings
    return Result(f"ours on Ray, {precision}", steady_rows / steady_s, vectors, note)


def _stream(texts: list[str]) -> RowStream:
    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(texts), 8192):
            part = texts[start : start + 8192]
            columns: list[Any] = [range(start, start + len(part)), part, [None] * len(part)]
            columns += [[0] * len(part), ["en"] * len(part)]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, LABELLED_SCHEMA, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=LABELLED_SCHEMA)

    return RowStream(batches(), labels=("none",), languages=("en",))


def compare(size: str, rows: int, batch_tokens: int | None) -> None:
    """All ways on one encoder, in one run, and their table."""
    texts = sentences(rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_encoder(size, folder)
        results = [
            peer(folder, texts, "fp32"),
            bare_loop(folder, texts, "fp32", batch_tokens),
            in_process(folder, texts, "fp32", batch_tokens),
            in_process(folder, texts, "bf16", batch_tokens),
        ]
        with session():
            results.append(on_ray(folder, texts, "fp32", batch_tokens))
            results.append(on_ray(folder, texts, "bf16", batch_tokens))
    reference = results[0]
    table = Table(title=f"{size} encoder, {rows:,} sentences, {os.cpu_count()} cores")
    for name in ("way", "sentences/s", "over peer", "largest difference", "note"):
        table.add_column(name)
    for result in results:
        gap = ""
        if result.vectors is not None and reference.vectors is not None:
            gap = f"{np.abs(result.vectors - reference.vectors).max():.1e}"
        ratio = f"{result.per_s / reference.per_s:.2f}"
        table.add_row(result.way, f"{result.per_s:,.0f}", ratio, gap, result.note)
    Console(width=120).print(table)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Largest resident size of one worker process, and of the driver, in MiB."""
    peaks = {"driver": 0.0, "worker": 0.0}
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.2):
            me = psutil.Process()
            peaks["driver"] = max(peaks["driver"], me.memory_info().rss / 2**20)
            for child in psutil.process_iter(["name", "memory_info", "cmdline"]):
                title = " ".join(child.info["cmdline"] or [])
                if title.startswith("ray::") and child.info["memory_info"]:
                    # Shared pages are the object store's, which has a limit of its own.
                    memory = child.info["memory_info"]
                    peaks["worker"] = max(peaks["worker"], (memory.rss - memory.shared) / 2**20)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def memory(batch_tokens: int | None) -> None:
    """Peak memory of driver and workers at two sizes."""
    table = Table(title="Peak memory, tiny encoder")
    for name in ("rows", "driver MiB", "largest worker MiB", "sentences/s"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as temporary, session():
        make_encoder("tiny", Path(temporary))
        for rows in MEMORY_ROWS:
            texts = sentences(rows)
            with peak_memory() as peaks:
                result = on_ray(Path(temporary), texts, "fp32", batch_tokens)
            figures = (f"{peaks['driver']:.0f}", f"{peaks['worker']:.0f}", f"{result.per_s:,.0f}")
            table.add_row(f"{rows:,}", *figures)
    Console(width=100).print(table)
    print("the driver holds the benchmark's own texts and the vectors it compares")


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(SHAPES), help="one encoder size")
    parser.add_argument("--rows", type=int, help="sentences, instead of 50k and 2k")
    parser.add_argument(
        "--batch-tokens", type=int, help="padded tokens a batch; unset: ours by device"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    given = parser.parse_args()
    # Ray's workers run at a lower priority than this process; the ways are to run at the same.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if given.memory:
        memory(given.batch_tokens)
        return 0
    for size in [given.only] if given.only else SHAPES:
        compare(size, given.rows or DEFAULT_ROWS[size], given.batch_tokens)
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
