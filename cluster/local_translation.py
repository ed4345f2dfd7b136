"""Rows translated by a local model: fine-tuned on the pairs by Ray Train, applied by Ray Data."""

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.data import ActorPoolStrategy

from cluster.embed import (
    ENCODER_FOLDER,
    EncoderRule,
    TextSet,
    default_actors,
    prepare_ray_data,
)
from cluster.plan import fit_options
from cluster.prepare import DEMO
from cluster.session import without_ray_wrapping
from cluster.text_units import TextPart
from cluster.texts import read_texts
from cluster.units import Part
from cluster.work import Unit, UnitWork
from langalign.benchmarkconfig import LocalConfig
from langalign.embeddings import part_name
from langalign.loop import FitOptions
from langalign.outputs import StepOutput, digest_of
from langalign.seq2seq import Seq2SeqTranslator, fit_translator, model_digest
from langalign.storage import Storage

__all__ = ["TranslatorUnit", "local_unit", "translate_rows", "translated_set"]

FOLDER = "translator"


@dataclass(frozen=True)
class TranslatorUnit(Unit):
    """Fine-tune a sequence-to-sequence model on pairs, given as their two sides.

    `model` is a folder or hub name; with `demo`, a tiny one over the tokenizer of `rule`. `start`
    is a digest of its weights, taken where the work is planned: of what a name means elsewhere
    nothing is known.
    """

    model: str
    revision: str | None
    start: str
    rule: EncoderRule | None
    source: TextPart
    target: TextPart
    prefix: str
    max_length: int
    options: FitOptions
    step = "translator"

    @property
    def max_epochs(self) -> int:
        """Of the stopping rule."""
        return self.options.max_epochs

    @property
    def label(self) -> str:
        """As in `translator on 2,000 pairs`."""
        return f"translator on {len(self.source.split.ids('all')):,} pairs"

    def identity(self) -> list[Any]:
        """Weights and texts, and every option."""
        sides = [self.source.identity(), self.target.identity()]
        return [self.start, *sides, self.prefix, self.max_length, asdict(self.options)]

    def run(self, work: UnitWork) -> None:
        """Train; leaves the model."""
        translator = work.together(lambda: self._load(work.storage))
        train, held_out = work.together(
            lambda: (self._pairs(work, "train"), self._pairs(work, "held_out"))
        )
        history = fit_translator(
            translator,
            train,
            held_out,
            options=self.options,
            worker=work.worker,
            report=work.report,
            resume=work.resume,
        )

        def write() -> dict[str, Any]:
            with TemporaryDirectory() as folder:
                translator.save(Path(folder))
                return work.output.write_folder(Path(folder), FOLDER)

        work.finish(write, {"history": [asdict(entry) for entry in history]})

    def _load(self, storage: Storage) -> Seq2SeqTranslator:
        options = {"prefix": self.prefix, "max_length": self.max_length}
        if self.rule is None:
            return Seq2SeqTranslator.load(self.model, revision=self.revision, **options)
        folder = StepOutput(storage, self.rule.prefix).fetch() / ENCODER_FOLDER
        return Seq2SeqTranslator.tiny(folder, seed=self.options.seed, **options)

    def _pairs(self, work: UnitWork, part: Part) -> list[tuple[str, str]]:
        """This worker's share; the two texts of a pair task are two pairs."""
        sides = []
        for side in (self.source, self.target):
            rows = read_texts(work.storage, side.texts, side.split.share(part, work.worker))
            sides.append([*rows.texts, *(text for text in rows.pairs if text is not None)])
        return list(zip(*sides, strict=True))


def local_unit(
    own: LocalConfig,
    rule: EncoderRule | None,
    sides: tuple[TextPart, TextPart],
    *,
    language: str,
    seed: int,
) -> TranslatorUnit:
    """The translator that `own` says, of (source, target) texts.

    `rule` is the encoder whose tokenizer the tiny model takes; `language` stands in the prefix.
    """
    tiny_rule = rule if own.model == DEMO else None
    source, target = sides
    return TranslatorUnit(
        model=own.model,
        revision=own.revision,
        start=tiny_rule.digest() if tiny_rule else model_digest(own.model, own.revision),
        rule=tiny_rule,
        source=source,
        target=target,
        prefix=own.prefix.replace("{language}", language),
        max_length=own.max_length,
        options=fit_options(own, seed),
    )


def translate_rows(
    unit: TranslatorUnit,
    texts: TextSet,
    storage: Storage,
    *,
    connect: Callable[[], None],
    gpus_per_actor: float = 0,
    cpus_per_actor: float = 1,
    on_shard: Callable[[int, int], None] | None = None,
) -> None:
    """Write `translated_set`: every row by a finished translator; labels and ids stay.

    `connect` is called where there is something to translate, before Ray is used.

    Raises:
        IntegrityError: the stored translator is altered.
    """
    output = _output(unit, texts, storage)
    if output.is_done():
        return
    items = [{"key": key, "name": part_name(shard)} for shard, key in enumerate(texts.shards)]
    connect()
    prepare_ray_data()
    actors = default_actors(gpus_per_actor=gpus_per_actor, cpus_per_actor=cpus_per_actor)
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Translate,
        fn_constructor_kwargs={"unit": unit, "storage": storage, "output": output},
        compute=ActorPoolStrategy(size=min(actors, len(items))),
        num_gpus=gpus_per_actor,
        num_cpus=cpus_per_actor,
    )
    records: dict[str, Any] = {}
    seconds = 0.0
    with without_ray_wrapping():
        for row in dataset.iter_rows():
            records[row["name"]] = {"sha256": row["sha256"], "size_bytes": row["size_bytes"]}
            # Of the processes: what passes here depends on what else the cluster does.
            seconds += row["seconds"]
            if on_shard:
                on_shard(len(records), len(items))
    output.finish(records, {"rows": sum(texts.shard_rows), "seconds": seconds})


def translated_set(
    unit: TranslatorUnit, texts: TextSet, storage: Storage, language: str
) -> TextSet:
    """The text set that `translate_rows` writes: the same shards in another language."""
    output = _output(unit, texts, storage)
    return replace(
        texts,
        name=f"translated by {unit.output(storage).prefix}",
        digest=digest_of(output.prefix),
        language=language,
        shards=tuple(output.key(part_name(shard)) for shard in range(len(texts.shards))),
    )


def translation_steps(unit: TranslatorUnit, texts: TextSet, storage: Storage) -> tuple[str, str]:
    """Storage prefixes of the two steps behind `translated_set`: training, and translating."""
    return unit.output(storage).prefix, _output(unit, texts, storage).prefix


def _output(unit: TranslatorUnit, texts: TextSet, storage: Storage) -> StepOutput:
    digest = digest_of(unit.output(storage).prefix, texts.digest, texts.shard_rows)
    return StepOutput(storage, f"steps/translation/{digest}")


class _Translate:
    """An actor that holds the model: one shard of rows to the same rows translated."""

    def __init__(self, unit: TranslatorUnit, storage: Storage, output: StepOutput) -> None:
        self.unit = unit
        self.storage = storage
        self.output = output

    # With the first row: of an error in a constructor Ray passes on the text only.
    @cached_property
    def translator(self) -> Seq2SeqTranslator:
        """On the actor's device."""
        folder = self.unit.output(self.storage).fetch() / FOLDER
        made = Seq2SeqTranslator.load(
            str(folder), prefix=self.unit.prefix, max_length=self.unit.max_length
        )
        return made.to("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        start = time.monotonic()
        table = pq.read_table(io.BytesIO(self.storage.read_bytes(row.pop("key"))))
        for column in ("text", "text_pair"):
            texts = table[column].to_pylist()
            if texts[0] is None:
                continue
            # A model that says nothing leaves no text that an encoder could read.
            said = [text or "." for text in self.translator.translate(texts)]
            place = table.schema.get_field_index(column)
            table = table.set_column(place, column, pa.array(said, pa.string()))
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        record = self.output.write(row["name"], sink.getvalue())
        return {**row, **record, "seconds": time.monotonic() - start}
