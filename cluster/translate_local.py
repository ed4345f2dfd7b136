"""`jobs/translate.py` with a local model: fine-tuned on pairs, and applied to the rows, by Ray."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import encoders
from cluster.connection import Connection
from cluster.display import Display
from cluster.embed import EncoderRule, TextSet
from cluster.local_translation import (
    TranslatorUnit,
    local_unit,
    translate_rows,
    translated_set,
    translation_steps,
)
from cluster.monitor import Progress, watching
from cluster.prepare import DEMO, materialised, text_sets
from cluster.steps import Step, run_steps
from cluster.text_units import TextPart
from cluster.units import Split
from langalign.data import RowStream, read_parallel, write_shards
from langalign.outputs import StepOutput
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
        self._ray = Connection(config.cluster.address, storage, display)

    def translate(self, rows: pa.Table) -> TranslationRun:
        """All texts of labelled rows; `usage` has the seconds of training and of translating.

        Raises:
            DataError: the pairs cannot be read.
            TranslationError: the model cannot be loaded.
            TrainingError: its loss is not finite, or workers died too often.
        """
        stream = RowStream(rows.to_batches(), labels=self.task.labels)
        texts = self._text_sets("train", stream)["train"]
        with self._ray:
            unit = self._unit()
            made = translated_set(unit, texts, self.storage, self.config.target_language)
            local = Step("local", [unit])
            run_steps(self._ray, [local], run=self.config.name, cluster=self.config.cluster)
            asked = self._apply(unit, texts)
        tables = [pq.read_table(io.BytesIO(self.storage.read_bytes(key))) for key in made.shards]
        done = pa.concat_tables(tables)
        columns = text_columns(rows)
        found = [text for column in columns for text in done[column].to_pylist()]
        steps = translation_steps(unit, texts, self.storage)
        seconds = sum(StepOutput(self.storage, step).seconds() for step in steps)
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
            sides = self._text_sets("parallel", pairs)
        source, target = sides["source"], sides["target"]
        split = Split(sum(source.shard_rows), config.validation_fraction, config.seed)
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
            self._ray.connect()
            with self.display.step("encoder"), watching(self._ray.monitor, self.display.show):
                encoders.pretrain_demo_encoder(output, self._ray.monitor)
        weights = encoders.weights_digest(output)
        return EncoderRule(output.prefix, weights, "mean", own.max_length, "fp32")

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
                connect=self._ray.connect,
                gpus_per_actor=cluster.gpus_per_worker,
                cpus_per_actor=cluster.cpus_per_worker,
                on_shard=on_shard,
            )
            line.say(f"{asked:,} rows now, the others before")
        return asked

    def _text_sets(self, role: str, rows: RowStream) -> dict[str, TextSet]:
        config = self.config
        prepared = write_shards(
            rows,
            self.storage,
            prefix=f"runs/{config.name}/translate/{role}",
            shard_rows=config.cluster.shard_rows,
        )
        return text_sets({role: prepared}, config.source_language, config.target_language)
