"""The embedding step on Ray Data: read and tokenise, encode, write, each a stage of its own.

A row of the dataset is one shard of prepared data, the unit of work: tokenised by one actor,
embedded by another that holds the encoder, written as one Parquet part by a third. Shards are
sorted by token count inside, carry row ids, and no process ever sees more than a few of them. A
part that is already on storage is kept, so a run that was cut short goes on where it stopped.
"""

import hashlib
import io
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy

from cluster.metrics import EmbeddedTexts
from cluster.session import without_ray_wrapping
from langalign.embeddings import EmbeddingSet, part_name, rows_of_part, write_part
from langalign.errors import DataError, ObjectMissing
from langalign.outputs import StepOutput, digest_of
from langalign.storage import Storage
from langalign.tokens import TextTokenizer, TokenizedText

if TYPE_CHECKING:
    from langalign.encoder import SentenceEncoder

__all__ = [
    "ENCODER_FOLDER",
    "EncoderRule",
    "TextSet",
    "default_actors",
    "embed",
    "prepare_ray_data",
]

# Where a step output that holds an encoder keeps it.
ENCODER_FOLDER = "encoder"

# Tokenising keeps ahead of the encoder on a fraction of a core. An encoder leaves that fraction of
# its own free, or encoders that fill the cluster would wait for ever for their input.
TOKENIZE_CPUS = 0.1
# One tokenizer and one writer keep up with this many encoders. They are actors, not tasks: actors
# take every worker slot of a node, and Ray then ends a task's process after each second of rest,
# so that a third of the time of two cores went into starting Python (benchmarks/embed.py).
ENCODERS_PER_HELPER = 2
# Arrow columns need a value in every row.
_NONE = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class EncoderRule:
    """Which encoder, and how an embedding is read off it: all that its bytes depend on.

    `prefix` is the step output that holds the encoder, `weights` a digest over its files.
    """

    prefix: str
    weights: str
    pooling: str
    max_length: int
    precision: str

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `SentenceEncoder`."""
        return {
            "pooling": self.pooling,
            "max_length": self.max_length,
            "precision": self.precision,
        }

    def digest(self) -> str:
        """Over weights, tokenizer, pooling, length and precision."""
        return digest_of(self.weights, self.options())


@dataclass(frozen=True)
class TextSet:
    """Texts of one language in prepared shards: `column` and, for pair tasks, `pair_column`."""

    name: str
    digest: str
    language: str
    shards: tuple[str, ...]
    shard_rows: tuple[int, ...]
    column: str
    pair_column: str

    def output(self, storage: Storage, rule: EncoderRule) -> StepOutput:
        """Where its embeddings lie: `embeddings/<digest>`."""
        digest = digest_of(rule.digest(), self.digest, self.column, self.shard_rows)
        return StepOutput(storage, f"embeddings/{digest}")


def default_actors(*, gpus_per_actor: float, cpus_per_actor: float) -> int:
    """Processes that fill the cluster: by its GPUs if actors take any, else by its cores."""
    resources = ray.cluster_resources()
    if gpus_per_actor:
        return max(1, int(resources.get("GPU", 1) / gpus_per_actor))
    return max(1, int(resources.get("CPU", 1) / cpus_per_actor))


def prepare_ray_data() -> None:
    """Ray Data of this process: no bars (`Display` has one), and errors of stages as they are."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Its own wrapper keeps the text of an error only, and `without_ray_wrapping` wants the error.
    context.raise_original_map_exception = True


def embed(
    storage: Storage,
    rule: EncoderRule,
    sets: Sequence[TextSet],
    *,
    actors: int,
    gpus_per_actor: float = 0,
    cpus_per_actor: float = 1,
    batch_tokens: int | None = None,
    on_part: Callable[[int, int], None] | None = None,
) -> dict[str, EmbeddingSet]:
    """Embed every text of every set that is not embedded yet; returns a set per name.

    `on_part(done, total)` is called after every part.

    Raises:
        IntegrityError: the stored encoder is altered.
        StorageError: the storage stays out of reach.
    """
    outputs = {texts.name: texts.output(storage, rule) for texts in sets}
    work = [
        (texts, shard)
        for texts in sets
        if not outputs[texts.name].is_done()
        for shard in range(len(texts.shards))
    ]
    records: dict[str, dict[str, dict[str, Any]]] = {texts.name: {} for texts in sets}
    left = []
    for texts, shard in work:
        record = _kept_part(outputs[texts.name], part_name(shard), texts.shard_rows[shard])
        if record:
            records[texts.name][part_name(shard)] = record
        else:
            left.append((texts, shard))
    done = len(work) - len(left)
    for row in _run(storage, rule, left, actors, gpus_per_actor, cpus_per_actor, batch_tokens):
        records[row["set"]][row["part"]] = {
            "sha256": row["sha256"],
            "size_bytes": row["size_bytes"],
        }
        done += 1
        if on_part:
            on_part(done, len(work))
    for texts in sets:
        if records[texts.name]:
            info = {"rows": sum(texts.shard_rows), "language": texts.language, **rule.options()}
            outputs[texts.name].finish(records[texts.name], info)
    return {name: EmbeddingSet(output) for name, output in outputs.items()}


def _run(
    storage: Storage,
    rule: EncoderRule,
    work: Sequence[tuple[TextSet, int]],
    actors: int,
    gpus: float,
    cpus: float,
    batch_tokens: int | None,
) -> Any:
    if not work:
        return
    prepare_ray_data()
    items = [
        {
            "set": texts.name,
            "prefix": texts.output(storage, rule).prefix,
            "key": texts.shards[shard],
            "part": part_name(shard),
            "column": texts.column,
            "pair_column": texts.pair_column,
            "language": texts.language,
        }
        for texts, shard in work
    ]
    encoders = min(actors, len(items))
    helpers = ActorPoolStrategy(size=math.ceil(encoders / ENCODERS_PER_HELPER))
    dataset = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map(
            _Tokenize,
            fn_constructor_kwargs={"storage": storage, "rule": rule},
            compute=helpers,
            num_cpus=TOKENIZE_CPUS,
        )
        .map(
            _Encode,
            fn_constructor_kwargs={
                "storage": storage,
                "rule": rule,
                "batch_tokens": batch_tokens,
                "threads": max(1, int(cpus)),
            },
            compute=ActorPoolStrategy(size=encoders),
            num_gpus=gpus,
            num_cpus=max(0.0, cpus - TOKENIZE_CPUS),
        )
        .map(_Write, fn_constructor_kwargs={"storage": storage}, compute=helpers, num_cpus=0)
    )
    with without_ray_wrapping():
        yield from dataset.iter_rows()


class _Tokenize:
    """Stage 1, an actor that does not load torch: one shard of texts to token ids."""

    def __init__(self, storage: Storage, rule: EncoderRule) -> None:
        self.storage = storage
        self.rule = rule

    # Loaded with the first row: of an error in a constructor Ray passes on the text only.
    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that lies beside the encoder."""
        output = StepOutput(self.storage, self.rule.prefix)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("config.json", "tokenizer.json"):
                (Path(folder) / name).write_bytes(output.read(f"{ENCODER_FOLDER}/{name}"))
            return TextTokenizer.from_folder(Path(folder), max_length=self.rule.max_length)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        table = pq.read_table(io.BytesIO(self.storage.read_bytes(row.pop("key"))))
        pairs = table[row.pop("pair_column")].to_pylist()
        tokens = self.tokenizer(table[row.pop("column")].to_pylist(), pairs)
        row |= {"ids": table["id"].to_numpy(), "tokens": tokens.ids, "offsets": tokens.offsets}
        row["types"] = _NONE if tokens.types is None else tokens.types
        has_labels = "label" in table.column_names and not table["label"].null_count
        row["labels"] = table["label"].to_numpy() if has_labels else _NONE
        return row


class _Encode:
    """Stage 2, an actor that holds the encoder: token ids to the bytes of a Parquet part."""

    def __init__(
        self, storage: Storage, rule: EncoderRule, batch_tokens: int | None, threads: int
    ) -> None:
        self.storage = storage
        self.rule = rule
        self.batch_tokens = batch_tokens
        self.threads = threads
        self.embedded = EmbeddedTexts()

    # With the first row, as the tokenizer is.
    @cached_property
    def encoder(self) -> "SentenceEncoder":
        """The frozen encoder, on the actor's device."""
        # Imported here: the other stages run without torch.
        import torch

        from langalign.encoder import SentenceEncoder

        # Ray would round down the cores that the tokenizer's share leaves.
        torch.set_num_threads(self.threads)
        folder = StepOutput(self.storage, self.rule.prefix).fetch() / ENCODER_FOLDER
        # Ray shows an actor only the GPUs it was given.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return SentenceEncoder.load_frozen(
            folder, device, batch_tokens=self.batch_tokens, **self.rule.options()
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        types = row.pop("types")
        tokens = TokenizedText(row.pop("tokens"), row.pop("offsets"), types if len(types) else None)
        labels, language, ids = row.pop("labels"), row.pop("language"), row.pop("ids")
        row["bytes"] = write_part(
            ids,
            self.encoder.embed_tokens(tokens),
            pa.array(labels) if len(labels) else None,
            language,
        )
        self.embedded.add(language=language, texts=len(ids), tokens=len(tokens.ids))
        return row


class _Write:
    """Stage 3, an actor: one part to storage, so that no encoder waits for the network."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        data = row.pop("bytes")
        record = StepOutput(self.storage, row.pop("prefix")).write(row["part"], data)
        return {**row, **record}


def _kept_part(output: StepOutput, name: str, rows: int) -> dict[str, Any] | None:
    """The record of a part that an earlier, cut-short run left whole; None if it has to be made."""
    try:
        data = output.storage.read_bytes(output.key(name))
        if rows_of_part(data) != rows:
            return None
    except (ObjectMissing, DataError):
        return None
    return {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
