"""`jobs/translate.py` with a local model: fine-tuned on pairs, and applied to the rows, by Ray."""

import io
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import encoders, session
from cluster.benchmark_group import recorded_s
from cluster.display import Display
from cluster.embed import EncoderRule, TextSet
from cluster.local_translation import (
    TranslatorUnit,
    local_unit,
    translate_rows,
    translated_set,
    translation_steps,
)
from cluster.monitor import Progress, start_monitor, watching
from cluster.prepare import DEMO, materialised
from cluster.text_units import TextPart
from cluster.train import run_units
from cluster.units import Split
from langalign.data import PreparedData, RowStream, read_parallel, write_shards
from langalign.storage import Storage
from langalign.tasks import Task
from langalign.translateconfig import TranslateConfig
from langalign.translation import TranslationRun, Usage

__all__ = ["LocalTranslation", "text_columns"]


def text_columns(rows: pa.Table) -> list[str]:
    """The text columns that labelled rows have."""
    return ["text"] if rows["text_pair"].null_count == len(rows) else ["text", "text_pair"]


class LocalTranslation:
    """A model and its translations, each made once and found again by its digest."""

    def __init__(
        self, config: TranslateConfig, task: Task, storage: Storage, display: Display
    ) -> None:
        self.config = config
        self.task = task
        self.storage = storage
        self.display = display
        self._ray = ExitStack()
        self._monitor: Any = None

    def translate(self, rows: pa.Table) -> TranslationRun:
        """All texts of labelled rows; `usage` has the seconds of training and of translating.

        Raises:
            DataError: the pairs cannot be read.
            TranslationError: the model cannot be loaded.
            TrainingError: its loss is not finite, or workers died too often.
        """
        stream = RowStream(rows.to_batches(), labels=self.task.labels)
        texts = self._text_set("text", self.config.source_language, self._shards("rows", stream))
        with self._ray:
            unit = self._unit()
            made = translated_set(unit, texts, self.storage, self.config.target_language)
            self._train(unit)
            asked = self._apply(unit, texts)
        tables = [pq.read_table(io.BytesIO(self.storage.read_bytes(key))) for key in made.shards]
        done = pa.concat_tables(tables)
        columns = text_columns(rows)
        found = [text for column in columns for text in done[column].to_pylist()]
        steps = translation_steps(unit, texts, self.storage)
        seconds = sum(recorded_s(self.storage, step) for step in steps)
        return TranslationRun(found, {}, Usage(seconds=seconds), asked * len(columns))

    def _unit(self) -> TranslatorUnit:
        config = self.config
        with materialised(
            config.parallel, "parallel", config.target_language, config.pairs, config.seed
        ) as place:
            pairs = read_parallel(
                place,
                source_language=config.source_language,
                target_language=config.target_language,
                limit=config.pairs,
                sample_seed=config.seed,
                task=self.task,
            )
            prepared = self._shards("parallel", pairs)
        split = Split(prepared.summary.rows, config.validation_fraction, config.seed)
        source = self._text_set("source", config.source_language, prepared)
        target = self._text_set("target", config.target_language, prepared)
        return local_unit(
            config.local,
            self._tiny_rule(),
            (TextPart(source, split, of_target=False), TextPart(target, split, of_target=True)),
            language=config.language or config.target_language,
            seed=config.seed,
        )

    def _tiny_rule(self) -> EncoderRule | None:
        """The demo's encoder, whose tokenizer the tiny model takes; none for another model."""
        own = self.config.local
        if own.model != DEMO:
            return None
        output = encoders.demo_encoder_output(self.storage)
        if not output.is_done():
            self._connect()
            with self.display.step("encoder"), watching(self._monitor, self.display.show):
                encoders.pretrain_demo_encoder(output, self._monitor)
        weights = encoders.weights_digest(output)
        return EncoderRule(output.prefix, weights, "mean", own.max_length, "fp32")

    def _train(self, unit: TranslatorUnit) -> None:
        cluster = self.config.cluster
        is_done = unit.output(self.storage).is_done()
        if not is_done:
            self._connect()
        with self.display.step("local") as line:
            if is_done:
                line.found(unit.label)
                return
            run_units(
                [unit],
                self.storage,
                run=self.config.name,
                monitor=self._monitor,
                show=self.display.show,
                workers=cluster.workers,
                gpus_per_worker=cluster.gpus_per_worker,
                cpus_per_worker=cluster.cpus_per_worker,
                max_failures=cluster.max_failures,
                checkpoint_interval_s=cluster.checkpoint_interval_s,
            )
            line.say(unit.label)

    def _apply(self, unit: TranslatorUnit, texts: TextSet) -> int:
        """Translate what is not translated; returns how many rows were."""
        cluster, asked = self.config.cluster, 0

        def on_shard(done: int, total: int) -> None:
            nonlocal asked
            asked = sum(texts.shard_rows) * done // total
            self.display.show(Progress("shards", done, total, ""))

        with self.display.step("translate") as line:
            translate_rows(
                unit,
                texts,
                self.storage,
                connect=self._connect,
                gpus_per_actor=cluster.gpus_per_worker,
                cpus_per_actor=cluster.cpus_per_worker,
                on_shard=on_shard,
            )
            line.say(f"{asked:,} rows now, the others before")
        return asked

    def _shards(self, name: str, rows: RowStream) -> PreparedData:
        return write_shards(
            rows,
            self.storage,
            prefix=f"runs/{self.config.name}/translate/{name}",
            shard_rows=self.config.cluster.shard_rows,
        )

    def _text_set(self, column: str, language: str, prepared: PreparedData) -> TextSet:
        return TextSet(
            name=column,
            digest=prepared.summary.digest,
            language=language,
            shards=prepared.shards,
            shard_rows=prepared.shard_rows,
            column=column,
            pair_column=f"{column}_pair",
        )

    def _connect(self) -> None:
        if self._monitor is None:
            address = self.config.cluster.address
            self._ray.enter_context(session.checked_session(address, self.storage, self.display))
            self._monitor = start_monitor()
