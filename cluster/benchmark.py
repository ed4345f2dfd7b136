"""The benchmark: a grid of cells over the cluster, then tables, figures and a page from them.

Rows are prepared and the base encoder is stored once, local translators are trained; then every
group (one tuned encoder with all its cells) is a Ray task, the longest first. Run again, cells that
are there are not made again; failed ones are tried again.
"""

import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import ray
from rich.console import Console

from cluster import encoders
from cluster.benchmark_data import StudyRows, prepare_study
from cluster.benchmark_group import run_group, tune_ahead
from cluster.benchmark_local import LocalRows
from cluster.benchmark_plan import Group, left_out, plan_groups
from cluster.connection import Connection
from cluster.display import Display
from cluster.embed import EncoderRule
from cluster.monitor import Progress, watching
from cluster.pace import Pace
from cluster.prepare import DEMO
from cluster.session import crash_reason
from langalign.benchmarkcells import ResultSet
from langalign.benchmarkgrid import LOCAL, BenchmarkConfig, StudyConfig
from langalign.benchmarkreport import main_tables, write_benchmark_report
from langalign.benchmarkresult import CellResult, CellStore
from langalign.errors import TrainingError
from langalign.jsontext import dump_json
from langalign.storage import Storage
from langalign.texttables import TextTable

__all__ = ["Benchmark", "shared_step_1"]

LOOK_S = 10.0


class Benchmark:
    """One benchmark, or the rest of one."""

    def __init__(self, config: BenchmarkConfig, storage: Storage, console: Console) -> None:
        self.config = config
        self.storage = storage
        self.display = Display(console)
        self.folder = f"runs/{config.name}/benchmark"
        self.store = CellStore(storage, self.folder)
        self.summary_key = f"{self.folder}/summary.json"
        self._ray = Connection(config.cluster.address, storage, self.display)
        self.left_out: dict[str, str] = {}
        self.made, self.cores = 0, 0.0
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
        runs = self._runs(time.monotonic() - start)
        facts = {
            "seeds": ", ".join(map(str, self.config.grid.seeds)),
            "encoder": self.config.encoder.name,
            "command": shlex.join(["python", *sys.argv]),
            **({"time": _times(runs, sum(r.is_done for r in results))} if runs else {}),
            **{f"rows left out, {study}": why for study, why in self.left_out.items()},
        }
        self.tables = main_tables(self.config, ResultSet.of(results))
        summary = {**self._summary(results, time.monotonic() - start), "runs": runs}
        with self.display.step("report") as line:
            keys = write_benchmark_report(self.store, self.config, results, facts)
            self.storage.write_bytes(self.summary_key, dump_json(summary, indent=2).encode())
            self.written = [self.storage.uri(name) for name in [*keys, self.summary_key]]
            line.say(f"{len(results)} cells, {summary['cells']['failed']} of them failed")
        return summary

    def _runs(self, seconds: float) -> list[dict[str, float]]:
        """What the runs that made cells took, in order; of one that is stopped nothing is known."""
        is_first = not self.storage.exists(self.summary_key)
        before = [] if is_first else self.storage.read_json(self.summary_key).get("runs", [])
        own = {"cells": self.made, "seconds": round(seconds, 3), "cores": self.cores}
        return [*before, own] if self.made else before

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
            prepared = LocalRows(self.config, self._ray).added_to(prepared, bases)
        groups: list[Group] = []
        for rows in prepared:
            groups += plan_groups(self.config, rows, bases[rows.study.name], self.storage)
            # Seeds are alike but for repeats among the native rows that they draw.
            if why := left_out(self.config, rows):
                self.left_out.setdefault(rows.study.name, why)
        return groups

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
                before = len(found)
                self._run(left, self.store.digests() - set(found), total=len(members))
                self.cores = ray.cluster_resources().get("CPU", 0.0)
                found = self.store.done(digests)
                self.made = len(found) - before
                line.say(f"{len(found)} of {len(members)} cells")
            else:
                line.found(f"{len(members)} cells")
        failed = self.store.digests() & digests - set(found)
        found |= {digest: self.store.read(digest) for digest in failed}
        # By content a cell may be another study's of the same rows, and keeps that one's name.
        return [replace(found[member.digest], cell=member.cell) for member in members]

    def _run(self, groups: list[Group], old: Set[str], *, total: int) -> None:
        """Fill in groups; of `total` cells `old` are failures of earlier runs, tried again."""
        cluster, monitor = self.config.cluster, self._ray.monitor
        task, ahead = (
            ray.remote(
                num_cpus=cluster.cpus_per_group,
                num_gpus=cluster.gpus_per_group,
                max_retries=cluster.max_failures,
            )(function)
            for function in (run_group, tune_ahead)
        )
        # The longest first, so that none is begun when all others are at their end.
        groups = sorted(groups, key=lambda group: -group.weight)
        # As of the same English rows in studies of several languages.
        after = {
            place: ahead.remote(group, self.storage, monitor)
            for place, group in shared_step_1(groups, self.storage).items()
        }
        pending = {
            task.remote(group, self.store, monitor, after.get(group.tuned_at(self.storage))): group
            for group in groups
        }
        pace = Pace(self._left(groups, old)[1])
        while pending:
            # Often enough to look at, and on S3 a request for every 1,000 cells.
            ended, _ = ray.wait(list(pending), timeout=LOOK_S)
            for reference in ended:
                group = pending.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    self._lost(group, error)
            cells, work = self._left(pending.values(), old)
            self.display.show(Progress("cells", total - cells, total, pace.text(work)))

    def _left(self, groups: Iterable[Group], old: Set[str]) -> tuple[int, float]:
        """Cells that groups have still to write, beside `old` ones, and the work behind them."""
        written, cells, work = self.store.digests() - old, 0, 0.0
        for group in groups:
            cells += sum(member.digest not in written for member in group.members)
            work += group.weight - group.work_of(written)
        return cells, work

    def _lost(self, group: Group, error: Exception) -> None:
        """Write a crash, whatever its cause, as the reason of the cells that it leaves open."""
        reason = crash_reason(error)
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


def shared_step_1(groups: Iterable[Group], storage: Storage) -> dict[str, Group]:
    """Step 1's outputs that several groups need and nobody has made, each with one of these."""
    first: dict[str, Group] = {}
    shared: dict[str, Group] = {}
    for group in groups:
        place = group.tuned_at(storage)
        if place in first:
            shared[place] = first[place]
        elif group.tune and not group.blocked and not group.tune.output(storage).is_done():
            first[place] = group
    return shared


def _times(runs: Sequence[Mapping[str, float]], cells: int) -> str:
    """What runs took, of `cells` with a score in all."""
    parts = [f"{r['cells']:,} cells in {r['seconds']:,.0f} s on {r['cores']:g} cores" for r in runs]
    if sum(run["cells"] for run in runs) < cells:
        parts.append("of the others no time is kept")
    return "; ".join(parts)


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
