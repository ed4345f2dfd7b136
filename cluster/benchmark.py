"""The benchmark: a grid of cells over the cluster, then tables, figures and a page from them.

Rows are prepared and the base encoder is stored once; then every group (one tuned encoder with all
its cells) is a Ray task, the longest first. Run again, cells that are there are not made again;
failed ones are tried again.
"""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from rich.console import Console

from cluster import encoders
from cluster.benchmark_data import StudyRows, prepare_study
from cluster.benchmark_group import run_group
from cluster.benchmark_plan import Group, plan_groups, translator_unit
from cluster.connection import Connection
from cluster.display import Display
from cluster.embed import EncoderRule, TextSet
from cluster.local_translation import (
    TranslatorUnit,
    translate_rows,
    translated_set,
    translation_steps,
)
from cluster.monitor import Progress, watching
from cluster.prepare import DEMO
from cluster.train import run_units
from langalign.benchmarkcells import ResultSet
from langalign.benchmarkgrid import LOCAL, BenchmarkConfig, StudyConfig
from langalign.benchmarkreport import main_tables, write_benchmark_report
from langalign.benchmarkresult import CellResult, CellStore
from langalign.errors import LangAlignError, TrainingError
from langalign.report import dump_json
from langalign.storage import Storage
from langalign.texttables import TextTable

__all__ = ["Benchmark"]

POLL_S = 2.0


class Benchmark:
    """One benchmark, or the rest of one."""

    def __init__(self, config: BenchmarkConfig, storage: Storage, console: Console) -> None:
        self.config = config
        self.storage = storage
        self.display = Display(console)
        self.folder = f"runs/{config.name}/benchmark"
        self.store = CellStore(storage, self.folder)
        self._ray = Connection(config.cluster.address, storage, self.display)
        self.tables: list[TextTable] = []
        self.written: list[str] = []

    def run(self) -> dict[str, Any]:
        """Fill in the grid and write the report; returns the summary, whose tables are `tables`.

        Raises:
            TrainingError: not one cell has a score.
            LangAlignError: the rows or the encoder cannot be read.
        """
        start = time.monotonic()
        self.storage.check()
        with self._ray:
            groups = self._groups()
            results = self._cells(groups)
        if not any(result.is_done for result in results):
            raise TrainingError(
                f"none of {len(results)} cells has a score: {results[0].reason}"
                if results
                else "the grid has no cell; name rows for grid.methods, or other methods"
            )
        facts = {
            "seeds": ", ".join(map(str, self.config.grid.seeds)),
            "encoder": self.config.encoder.name,
            "command": shlex.join(["python", *sys.argv]),
        }
        self.tables = main_tables(self.config, ResultSet.of(results))
        summary = self._summary(results, time.monotonic() - start)
        with self.display.step("report") as line:
            keys = write_benchmark_report(self.store, self.config, results, facts)
            key = f"{self.folder}/summary.json"
            self.storage.write_bytes(key, dump_json(summary, indent=2).encode())
            self.written = [self.storage.uri(name) for name in [*keys, key]]
            line.say(f"{len(results)} cells, {summary['cells']['failed']} of them failed")
        return summary

    def _groups(self) -> list[Group]:
        """Prepare the rows of every study and seed, and plan."""
        bases = {study.name: self._base_encoder(study) for study in self.config.studies}
        prepared: list[StudyRows] = []
        with self.display.step("prepare") as line:
            seeds = self.config.grid.seeds
            many = [(study, seed) for study in self.config.studies for seed in seeds]
            for done, (study, seed) in enumerate(many):
                self.display.show(Progress("studies", done, len(many), f"{study.name}, {seed}"))
                prepared.append(prepare_study(self.config, study, seed, self.storage))
            line.say(f"{len(bases)} studies, {len(seeds)} seeds")
        if LOCAL in self.config.grid.methods and self.config.tune.rows != "none":
            prepared = self._translated(prepared, bases)
        groups: list[Group] = []
        for rows in prepared:
            groups += plan_groups(self.config, rows, bases[rows.study.name], self.storage)
        return groups

    def _translated(
        self, prepared: list[StudyRows], bases: Mapping[str, EncoderRule]
    ) -> list[StudyRows]:
        """Train the local translators by Ray Train, and let them translate the English rows.

        What ends one on purpose is the reason of its cells; the others go on.
        """
        units = [
            {
                pairs: translator_unit(self.config, rows, bases[rows.study.name], pairs)
                for pairs in self.config.grid_of(rows.study).local_pairs
            }
            for rows in prepared
        ]
        if not all(unit.output(self.storage).is_done() for by in units for unit in by.values()):
            self._ray.connect()
        with self.display.step("local") as line:
            found = [self._with_local(*each) for each in zip(prepared, units, strict=True)]
            line.say(f"{sum(map(len, units))} translators")
        return found

    def _with_local(self, rows: StudyRows, units: Mapping[int, TranslatorUnit]) -> StudyRows:
        """The rows of a study and seed with those that local translators make of the English."""
        sets, made_by, blocked = dict(rows.sets), dict(rows.made_by), dict(rows.blocked)
        for pairs, unit in units.items():
            texts, language = rows.sets["train"], rows.study.target_language
            made = translated_set(unit, texts, self.storage, language)
            sets[f"local-{pairs}"] = made
            made_by[made.name] = translation_steps(unit, texts, self.storage)
            try:
                self._translate(unit, texts)
            except LangAlignError as error:
                blocked[made.name] = str(error)
        return replace(rows, sets=sets, made_by=made_by, blocked=blocked)

    def _translate(self, unit: TranslatorUnit, texts: TextSet) -> None:
        cluster = self.config.cluster
        if not unit.output(self.storage).is_done():
            self._ray.connect()
            run_units(
                [unit],
                self.storage,
                run=self.config.name,
                monitor=self._ray.monitor,
                show=self.display.show,
                gpus_per_worker=cluster.gpus_per_group,
                cpus_per_worker=cluster.cpus_per_group,
                max_failures=cluster.max_failures,
            )
        translate_rows(
            unit,
            texts,
            self.storage,
            connect=self._ray.connect,
            gpus_per_actor=cluster.gpus_per_group,
            cpus_per_actor=cluster.cpus_per_group,
            on_shard=lambda done, total: self.display.show(Progress("shards", done, total, "")),
        )

    def _base_encoder(self, study: StudyConfig) -> EncoderRule:
        options = self.config.encoder
        language = encoders.DemoLanguage(**study.counterpart.model_dump())
        output = encoders.demo_encoder_output(self.storage, language)
        is_demo = options.name == DEMO
        if is_demo and not output.is_done():
            self._ray.connect()
        with self.display.step("encoder") as line:
            if is_demo:
                if not output.is_done():
                    with watching(self._ray.monitor, self.display.show):
                        encoders.pretrain_demo_encoder(output, self._ray.monitor, language)
            else:
                output = encoders.store_encoder(self.storage, options.name, options.revision)
            line.say(f"{study.name}: {options.name}, kept at {output.prefix}")
        return EncoderRule(
            prefix=output.prefix,
            weights=encoders.weights_digest(output),
            pooling=options.pooling,
            max_length=options.max_length,
            precision=options.precision,
        )

    def _cells(self, groups: Sequence[Group]) -> list[CellResult]:
        """Results of all cells, in the order of the groups; a cell without one has failed."""
        members = [member for group in groups for member in group.members]
        digests = {member.digest for member in members}
        found = self.store.done(digests)
        left = [g for g in groups if any(m.digest not in found for m in g.members)]
        if left:
            # Before the step, whose line would end with that of the connection.
            self._ray.connect()
        with self.display.step("cells") as line:
            if left:
                self._run(left, total=len(members))
                found = self.store.done(digests)
                line.say(f"{len(found)} of {len(members)} cells")
            else:
                line.found(f"{len(members)} cells")
        failed = self.store.digests() & digests - set(found)
        found |= {digest: self.store.read(digest) for digest in failed}
        # By content a cell may be another study's of the same rows, and keeps that one's name.
        return [replace(found[member.digest], cell=member.cell) for member in members]

    def _run(self, groups: list[Group], *, total: int) -> None:
        cluster = self.config.cluster
        task = ray.remote(
            num_cpus=cluster.cpus_per_group,
            num_gpus=cluster.gpus_per_group,
            max_retries=cluster.max_failures,
        )(run_group)
        # The longest first, so that none is begun when all others are at their end.
        groups = sorted(groups, key=lambda group: -group.weight)
        pending = {task.remote(group, self.store, self._ray.monitor): group for group in groups}
        pace = _Pace([group.weight for group in groups])
        while pending:
            ended, _ = ray.wait(list(pending), timeout=POLL_S)
            for reference in ended:
                group = pending.pop(reference)
                pace.end(group.weight)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    self._lost(group, error)
            open_cells = sum(len(group.members) for group in pending.values())
            self.display.show(Progress("cells", total - open_cells, total, pace.text()))

    def _lost(self, group: Group, error: Exception) -> None:
        """Write a crash, whatever its cause, as the reason of the cells that it leaves open."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
        found = self.store.done(member.digest for member in group.members)
        for member in group.members:
            if member.digest not in found:
                self.store.write(
                    CellResult.failure(member.cell, member.digest, group.metric, reason)
                )

    def _summary(self, results: Sequence[CellResult], seconds: float) -> dict[str, Any]:
        done = [result for result in results if result.is_done]
        return {
            "job": "benchmark",
            "run": self.config.name,
            "status": "done" if len(done) == len(results) else "done, with failed cells",
            "seconds": round(seconds, 3),
            "seed": self.config.grid.seeds[0],
            "cells": {"done": len(done), "failed": len(results) - len(done)},
            "results": [_row(result) for result in done],
            "tables": [table.values() for table in self.tables],
            "models": [],
        }


class _Pace:
    """How long the rest will take, from the work that is done."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.total = sum(weights)
        self.ended = 0.0
        self.start = time.monotonic()

    def end(self, weight: float) -> None:
        """A group has ended."""
        self.ended += weight

    def text(self) -> str:
        """Seconds that are left; nothing before the first group has ended."""
        if not self.ended:
            return ""
        passed = time.monotonic() - self.start
        return f"about {passed * (self.total - self.ended) / self.ended:.0f} s left"


def _row(result: CellResult) -> Mapping[str, Any]:
    """A row of summary.json, as every job writes them, with sizes and the manifest's digest."""
    cell = result.cell
    return {
        "study": cell.study,
        "method": cell.method,
        "aligner": cell.aligner,
        "language": cell.language,
        "split": "test",
        "metric": result.metric,
        "value": result.score,
        "seed": cell.seed,
        "rows": cell.rows,
        "pairs": cell.pairs,
        "cell": result.digest,
    }
