"""A benchmark's local translators: trained by Ray Train and applied by Ray Data, side by side.

What ends one is the reason of its cells; the others go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import Queue
from threading import Thread

import ray

from cluster.benchmark_data import StudyRows
from cluster.benchmark_plan import translator_unit
from cluster.connection import Connection
from cluster.embed import EncoderRule, TextSet, default_actors
from cluster.local_translation import (
    TranslatorUnit,
    translate_rows,
    translated_set,
    translation_steps,
)
from cluster.monitor import Progress, start_monitor
from cluster.session import crash_reason
from cluster.train import run_units
from langalign.benchmarkconfig import GroupsConfig
from langalign.benchmarkgrid import BenchmarkConfig
from langalign.errors import LangAlignError
from langalign.outputs import StepOutput
from langalign.storage import Storage

__all__ = ["LocalRows"]


@dataclass(frozen=True)
class _Work:
    """A translator, and the texts that it is to translate."""

    unit: TranslatorUnit
    texts: list[TextSet] = field(default_factory=list)

    def is_done(self, storage: Storage) -> bool:
        """Whether it is trained and has translated them all."""
        steps = {step for one in self.texts for step in translation_steps(self.unit, one, storage)}
        return all(StepOutput(storage, step).is_done() for step in steps)


@dataclass(frozen=True)
class LocalRows:
    """Makes the rows of `translated-local`, for all studies and seeds together."""

    config: BenchmarkConfig
    connection: Connection

    def added_to(
        self, prepared: Sequence[StudyRows], bases: Mapping[str, EncoderRule]
    ) -> list[StudyRows]:
        """The prepared rows with those that local translators make of the English ones.

        `bases` are the base encoders by study, whose tokenizer a tiny translator takes.
        """
        storage, display = self.connection.storage, self.connection.display
        units = [
            {
                pairs: translator_unit(self.config, rows, bases[rows.study.name], pairs)
                for pairs in self.config.grid_of(rows.study).local_pairs
            }
            for rows in prepared
        ]
        # By output: studies of the same rows share a translator.
        every: dict[str, _Work] = {}
        for rows, by in zip(prepared, units, strict=True):
            for unit in by.values():
                work = every.setdefault(unit.output(storage).prefix, _Work(unit))
                work.texts.append(rows.sets["train"])
        left = [work for work in every.values() if not work.is_done(storage)]
        if left:
            # Before the step, whose line would end with that of the connection.
            self.connection.connect()
        with display.step("local") as line:
            lost = self._make(left)
            line.say(f"{len(every)} translators")
        return [self._translated(rows, by, lost) for rows, by in zip(prepared, units, strict=True)]

    def _make(self, works: Sequence[_Work]) -> dict[str, str]:
        """As many at once as the cluster has room for; reasons by the step that is lost."""
        own, show = self.config.cluster, self.connection.display.show
        waiting = list(works)
        ended: Queue[dict[str, str] | Exception] = Queue()
        running, lost = 0, dict[str, str]()
        while waiting or running:
            # Asked anew, as a cluster may have grown.
            while waiting and running < _room(own):
                # Not of a pool, whose end would wait for all of them after Ctrl-C.
                Thread(target=self._make_one, args=(waiting.pop(0), ended), daemon=True).start()
                running += 1
            show(Progress("translators", len(works) - len(waiting) - running, len(works), ""))
            found = ended.get()
            running -= 1
            if isinstance(found, Exception):
                raise found
            lost |= found
        return lost

    def _make_one(self, work: _Work, ended: "Queue[dict[str, str] | Exception]") -> None:
        """Train and translate, in a thread of its own; what was lost goes into the queue."""
        try:
            ended.put(self._lost_of(work))
        except Exception as error:  # noqa: BLE001 (raised again by `_make`)
            ended.put(error)

    def _lost_of(self, work: _Work) -> dict[str, str]:
        """Train and translate; returns the reasons of the translations that are not there."""
        storage = self.connection.storage
        steps = {translation_steps(work.unit, one, storage)[1]: one for one in work.texts}
        try:
            self._train(work.unit)
        except LangAlignError as error:
            return dict.fromkeys(steps, str(error))
        lost = {}
        for step, texts in steps.items():
            try:
                self._translate(work.unit, texts)
            except LangAlignError as error:
                lost[step] = str(error)
            except ray.exceptions.RayError as error:
                lost[step] = crash_reason(error)
        return lost

    def _train(self, unit: TranslatorUnit) -> None:
        own = self.config.cluster
        run_units(
            [unit],
            self.connection.storage,
            run=self.config.name,
            # Of its own: a monitor keeps one error, and does not know whose it is.
            monitor=start_monitor(),
            # Runs side by side would take turns in one line, as would translations.
            show=lambda _: None,
            gpus_per_worker=own.gpus_per_group,
            cpus_per_worker=own.cpus_per_group,
            max_failures=own.max_failures,
        )

    def _translate(self, unit: TranslatorUnit, texts: TextSet) -> None:
        own = self.config.cluster
        translate_rows(
            unit,
            texts,
            self.connection.storage,
            connect=self.connection.connect,
            gpus_per_actor=own.gpus_per_group,
            cpus_per_actor=own.cpus_per_group,
        )

    def _translated(
        self,
        rows: StudyRows,
        units: Mapping[int, TranslatorUnit],
        lost: Mapping[str, str],
    ) -> StudyRows:
        """The rows of a study and seed with those that its translators have made."""
        storage = self.connection.storage
        sets, made_by, blocked = dict(rows.sets), dict(rows.made_by), dict(rows.blocked)
        for pairs, unit in units.items():
            texts, language = rows.sets["train"], rows.study.target_language
            made = translated_set(unit, texts, storage, language)
            sets[f"local-{pairs}"] = made
            made_by[made.name] = translation_steps(unit, texts, storage)
            if reason := lost.get(made_by[made.name][1]):
                blocked[made.name] = reason
        return replace(rows, sets=sets, made_by=made_by, blocked=blocked)


def _room(own: GroupsConfig) -> int:
    return default_actors(gpus_per_actor=own.gpus_per_group, cpus_per_actor=own.cpus_per_group)
