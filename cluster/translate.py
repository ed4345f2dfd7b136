"""The translation job: labelled English rows to pairs that carry the labels."""

import io
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from cluster.display import Display
from cluster.monitor import Progress
from cluster.prepare import DEMO, materialised
from cluster.translate_local import LocalTranslation, text_columns
from langalign import counterpart
from langalign.data import read_labelled
from langalign.errors import ConfigError
from langalign.jsontext import dump_json
from langalign.llm import ChatOptions, ChatTranslator
from langalign.storage import Storage
from langalign.tasks import Task, build_task
from langalign.translateconfig import TranslateConfig
from langalign.translation import (
    DictionaryTranslator,
    TranslationRun,
    Translator,
    Usage,
    translate_all,
)

__all__ = ["API_KEY_VARIABLE", "Translation"]

API_KEY_VARIABLE = "OPENAI_API_KEY"


class Translation:
    """One translation job, or the rest of one."""

    def __init__(self, config: TranslateConfig, storage: Storage, console: Console) -> None:
        self.config = config
        self.storage = storage
        self.display = Display(console)
        self.task: Task = build_task(**config.task.model_dump())
        self.folder = f"runs/{config.name}/translate"
        self.written: list[str] = []

    def run(self) -> dict[str, Any]:
        """Translate every row; returns the summary, which says what it took and cost.

        Raises:
            ConfigError: a translator that does not go with the language.
            DataError: the rows, or the pairs of a local model, cannot be read.
            TranslationError: the translator cannot go on; what is done is kept.
            TrainingError: a local model cannot be trained.
        """
        start = time.monotonic()
        self.storage.check()
        with ExitStack() as stack:
            translate = self._translator(stack)
            with self.display.step("read") as line:
                rows = self._rows()
                line.say(f"{len(rows):,} rows")
            translated = translate(rows)
        pairs = self._pairs(rows, translated.texts)
        sink = io.BytesIO()
        pq.write_table(pairs, sink)
        summary = self._summary(translated, len(pairs), time.monotonic() - start)
        refused = [{"text": text, "reason": why} for text, why in translated.refused.items()]
        files = {"pairs.parquet": sink.getvalue()}
        files["refused.json"] = dump_json(refused, indent=2).encode()
        files["summary.json"] = dump_json(summary, indent=2).encode()
        for name, data in files.items():
            self.storage.write_bytes(f"{self.folder}/{name}", data)
        self.written = [self.storage.uri(f"{self.folder}/{name}") for name in files]
        return summary

    def _rows(self) -> pa.Table:
        config = self.config
        with materialised(
            config.data, "train", config.source_language, config.rows, config.seed
        ) as place:
            batches = read_labelled(
                place,
                self.task,
                language=config.source_language,
                limit=config.rows,
                sample_seed=config.seed,
            )
            return pa.Table.from_batches(list(batches))

    def _translate(self, translator: Translator, rows: pa.Table) -> TranslationRun:
        texts = [text for column in text_columns(rows) for text in rows[column].to_pylist()]

        def report(done: int, total: int, usage: Usage) -> None:
            spent = self._money(usage)
            text = f"{usage.prompt_tokens + usage.completion_tokens:,} tokens, {spent:.2f} spent"
            self.display.show(Progress("texts", done, total, text))

        with self.display.step("translate") as line:
            done = translate_all(
                translator,
                texts,
                self.storage,
                part_texts=self.config.part_texts,
                refused_share=self.config.translator.refused_share,
                report=report,
            )
            line.say(f"{done.asked:,} texts now, the others before; {len(done.refused):,} refused")
        return done

    def _pairs(self, rows: pa.Table, translations: list[str | None]) -> pa.Table:
        """Columns source, target, label, and source_pair, target_pair for a task on pairs.

        A row of which a text was refused is left out.
        """
        count = len(rows)
        table = {}
        for place, column in enumerate(text_columns(rows)):
            suffix = "_pair" * place
            made = translations[place * count : (place + 1) * count]
            table[f"source{suffix}"] = rows[column]
            table[f"target{suffix}"] = pa.array(made, pa.string())
        return pa.table({**table, "label": rows["label"]}).drop_null()

    def _translator(self, stack: ExitStack) -> Callable[[pa.Table], TranslationRun]:
        """What translates the rows."""
        config, own = self.config, self.config.translator
        is_demo = config.target_language == counterpart.COUNTERPART
        if own.kind == "local":
            if config.parallel == DEMO and not is_demo:
                raise ConfigError(
                    f"target_language={config.target_language}: the demo's pairs are of its own "
                    f"language, {counterpart.COUNTERPART}; name yours with parallel"
                )
            return LocalTranslation(config, self.task, self.storage, self.display).translate
        if own.kind == "dictionary":
            if not is_demo:
                raise ConfigError(
                    f"target_language={config.target_language}: the dictionary knows only the "
                    f"demo's language, {counterpart.COUNTERPART}; set translator.kind=api"
                )
            return partial(self._translate, DictionaryTranslator())
        assert own.model is not None  # its config says so
        chat = ChatTranslator(
            ChatOptions(
                url=own.url,
                model=own.model,
                prompt=own.prompt.replace("{language}", config.language or config.target_language),
                tail=own.tail,
                temperature=own.temperature,
                concurrency=own.concurrency,
                requests_per_minute=own.requests_per_minute,
                retries=own.retries,
                timeout_s=own.timeout_s,
            ),
            os.environ.get(API_KEY_VARIABLE),
        )
        stack.callback(chat.close)
        return partial(self._translate, chat)

    def _money(self, usage: Usage) -> float:
        own = self.config.translator
        return usage.money(own.prompt_price, own.completion_price)

    def _summary(self, translated: TranslationRun, pairs: int, seconds: float) -> dict[str, Any]:
        usage = translated.usage
        return {
            "job": "translate",
            "run": self.config.name,
            "status": "done",
            "seconds": round(seconds, 3),
            "seed": self.config.seed,
            "results": [],
            "models": [],
            "pairs": pairs,
            "texts_asked": translated.asked,
            "refused": len(translated.refused),
            "calls": usage.calls,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "translating_s": round(usage.seconds, 3),
            "money": round(self._money(usage), 6),
        }
