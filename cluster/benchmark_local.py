"""A benchmark's local translators: trained side by side by Ray Train, then applied by Ray Data.

What ends one is the reason of its cells; the others go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

__all__ = ["LocalRows"]


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
        every = {unit.output(storage).prefix: unit for by in units for unit in by.values()}
        left = [unit for unit in every.values() if not unit.output(storage).is_done()]
        if left:
            # Before the step, whose line would end with that of the connection.
            self.connection.connect()
        with display.step("local") as line:
            lost = self._train(left)
            found = [
                self._translated(rows, by, lost) for rows, by in zip(prepared, units, strict=True)
            ]
            line.say(f"{len(every)} translators")
        return found

    def _train(self, units: Sequence[TranslatorUnit]) -> dict[str, str]:
        """As many at once as the cluster has room for; reasons by the output that is not there."""
        own, show = self.config.cluster, self.connection.display.show
        waiting = list(units)
        ended: Queue[tuple[TranslatorUnit, Exception | None]] = Queue()
        running, lost = 0, dict[str, str]()
        while waiting or running:
            # Asked anew, as a cluster may have grown.
            while waiting and running < _room(own):
                # Not of a pool, whose end would wait for all of them after Ctrl-C.
                Thread(target=self._train_one, args=(waiting.pop(0), ended), daemon=True).start()
                running += 1
            show(Progress("translators", len(units) - len(waiting) - running, len(units), ""))
            unit, error = ended.get()
            running -= 1
            if isinstance(error, LangAlignError):
                lost[unit.output(self.connection.storage).prefix] = str(error)
            elif error:
                raise error
        return lost

    def _train_one(
        self, unit: TranslatorUnit, ended: "Queue[tuple[TranslatorUnit, Exception | None]]"
    ) -> None:
        """One Ray Train run, in a thread of its own; how it ended goes into the queue."""
        own = self.config.cluster
        try:
            run_units(
                [unit],
                self.connection.storage,
                run=self.config.name,
                # Of its own: a monitor keeps one error, and does not know whose it is.
                monitor=start_monitor(),
                # Runs side by side would take turns in one line.
                show=lambda _: None,
                gpus_per_worker=own.gpus_per_group,
                cpus_per_worker=own.cpus_per_group,
                max_failures=own.max_failures,
            )
        except Exception as error:  # noqa: BLE001 (raised again by `_train`)
            ended.put((unit, error))
        else:
            ended.put((unit, None))

    def _translated(
        self,
        rows: StudyRows,
        units: Mapping[int, TranslatorUnit],
        lost: Mapping[str, str],
    ) -> StudyRows:
        """The rows of a study and seed with those that its translators make."""
        storage = self.connection.storage
        sets, made_by, blocked = dict(rows.sets), dict(rows.made_by), dict(rows.blocked)
        for pairs, unit in units.items():
            texts, language = rows.sets["train"], rows.study.target_language
            made = translated_set(unit, texts, storage, language)
            sets[f"local-{pairs}"] = made
            made_by[made.name] = translation_steps(unit, texts, storage)
            reason = lost.get(unit.output(storage).prefix) or self._translate(unit, texts)
            if reason:
                blocked[made.name] = reason
        return replace(rows, sets=sets, made_by=made_by, blocked=blocked)

    def _translate(self, unit: TranslatorUnit, texts: TextSet) -> str:
        """Write the translated rows; returns why they could not be, empty if they are there."""
        cluster, show = self.config.cluster, self.connection.display.show
        try:
            translate_rows(
                unit,
                texts,
                self.connection.storage,
                connect=self.connection.connect,
                gpus_per_actor=cluster.gpus_per_group,
                cpus_per_actor=cluster.cpus_per_group,
                on_shard=lambda done, total: show(Progress("shards", done, total, "")),
            )
        except LangAlignError as error:
            return str(error)
        except ray.exceptions.RayError as error:
            return crash_reason(error)
        return ""


def _room(own: GroupsConfig) -> int:
    return default_actors(gpus_per_actor=own.gpus_per_group, cpus_per_actor=own.cpus_per_group)
