"""A benchmark's local translators: trained side by side by Ray Train, then applied by Ray Data.

What ends one is the reason of its cells; the others go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from cluster.monitor import Progress, start_monitor, watching
from cluster.session import crash_reason, without_ray_wrapping
from cluster.train import run_units
from langalign.benchmarkconfig import GroupsConfig
from langalign.benchmarkgrid import BenchmarkConfig
from langalign.errors import LangAlignError
from langalign.storage import Storage

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
        if not units:
            return {}
        storage, monitor = self.connection.storage, self.connection.monitor
        own = self.config.cluster
        waiting = list(units)
        room = default_actors(gpus_per_actor=own.gpus_per_group, cpus_per_actor=own.cpus_per_group)
        task = ray.remote(num_cpus=0, max_retries=own.max_failures)(_train_one)
        pending: dict[Any, TranslatorUnit] = {}
        lost: dict[str, str] = {}
        with watching(monitor, self.connection.display.show):
            while waiting or pending:
                while waiting and len(pending) < room:
                    unit = waiting.pop(0)
                    pending[task.remote(unit, storage, monitor, self.config.name, own)] = unit
                (ended,), _ = ray.wait(list(pending))
                prefix = pending.pop(ended).output(storage).prefix
                try:
                    with without_ray_wrapping():
                        ray.get(ended)
                except LangAlignError as error:
                    lost[prefix] = str(error)
                except ray.exceptions.RayError as error:
                    lost[prefix] = crash_reason(error)
        return lost

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


def _train_one(
    unit: TranslatorUnit, storage: Storage, monitor: Any, run: str, cluster: GroupsConfig
) -> None:
    """One Ray Train run, started from a Ray task; its progress is passed on to `monitor`."""
    run_units(
        [unit],
        storage,
        run=run,
        # Of its own: a monitor keeps one error, and does not know whose it is.
        monitor=start_monitor(),
        show=monitor.post.remote,
        gpus_per_worker=cluster.gpus_per_group,
        cpus_per_worker=cluster.cpus_per_group,
        max_failures=cluster.max_failures,
    )
