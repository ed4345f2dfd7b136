"""The whole pipeline: prepare, tune, embed, align, fit heads, score, publish.

Each step leaves an output named by a digest of its inputs. Run again, a finished step is skipped
and says so; Ray is started only when something is left to do. A stored file whose hash is wrong
is thrown away with its step and built again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console

from cluster import encoders
from cluster.connection import Connection
from cluster.display import Display
from cluster.embed import EncoderRule, TextSet, default_actors, embed
from cluster.monitor import Progress, watching
from cluster.plan import Plan
from cluster.prepare import DEMO, RunData, prepare
from cluster.publishing import publish_model, write_reports
from cluster.scoring import curves, unit_rows
from cluster.steps import Step, run_steps
from cluster.text_units import TuneUnit
from cluster.units import AlignUnit
from cluster.work import Unit
from langalign.config import PipelineConfig
from langalign.errors import IntegrityError
from langalign.outputs import StepOutput
from langalign.storage import Storage

__all__ = ["Pipeline"]

Result = TypeVar("Result")


@dataclass
class Encoded:
    """The rows, the encoder as step 1 left it, and the embeddings' prefixes by text set."""

    data: RunData
    plan: Plan
    tuned: dict[str, TuneUnit]
    rule: EncoderRule
    prefixes: dict[str, str]


@dataclass
class Trained:
    """What the steps left. The first of `heads` is the model to publish."""

    data: RunData
    rule: EncoderRule
    tuned: dict[str, TuneUnit]
    aligned: list[AlignUnit]
    heads: list[Unit]
    notes: list[str]

    @property
    def units(self) -> list[Unit]:
        """All of them, in the order of the steps."""
        return [*self.tuned.values(), *self.aligned, *self.heads]


class Pipeline:
    """One run of the three steps of section 3.2 on Ray."""

    def __init__(
        self,
        config: PipelineConfig,
        storage: Storage,
        console: Console,
        *,
        parents: dict[str, str] | None = None,
    ) -> None:
        """`parents` are further origins of the model, for its manifest."""
        self.config = config
        self.storage = storage
        self.parents = parents or {}
        self.display = Display(console)
        self._ray = Connection(config.cluster.address, storage, self.display)
        self.written: list[str] = []

    def run(self) -> dict[str, Any]:
        """Run to the end, or to `stop_after`; returns the summary that `summary.json` holds.

        Raises:
            LangAlignError: a step ended on purpose, with the reason.
        """
        start = time.monotonic()
        self.storage.check()
        with self._ray:
            return self._rebuilding(lambda: self._run(start))

    def embedded(self) -> tuple[RunData, dict[str, str]]:
        """Run to the embeddings; returns the rows and the embeddings' prefixes by text set.

        Raises:
            LangAlignError: a step ended on purpose, with the reason.
        """
        with self._ray:
            encoded = self._rebuilding(self._encode)
        assert encoded is not None, "stop_after is for run()"
        return encoded.data, encoded.prefixes

    def _run(self, start: float) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "job": "train",
            "run": self.config.name,
            "status": "done",
            "seconds": 0.0,
            "seed": self.config.seed,
            "results": [],
            "models": [],
            "notes": [],
        }
        trained = self._train()
        histories: dict[str, list[dict[str, Any]]] = {}
        if trained is None:
            summary["status"] = f"stopped after {self.config.stop_after}"
        else:
            self._add_results(summary, trained)
            histories = curves(trained.units, self.storage)
        summary["seconds"] = round(time.monotonic() - start, 3)
        self.written = write_reports(self.storage, self.config.name, summary, histories)
        return summary

    def _add_results(self, summary: dict[str, Any], trained: Trained) -> None:
        is_forward = self.config.aligner.direction == "forward"
        chosen = trained.heads[0].output(self.storage).info()
        summary["chosen"] = {"method": chosen["method"], "aligner": chosen["aligner"]["kind"]}
        summary["notes"] = trained.notes
        summary["results"] = unit_rows(
            trained.units,
            self.storage,
            metric=trained.data.task.metric,
            seed=self.config.seed,
            languages=(trained.data.source_language, trained.data.target_language),
            align_method="langalign" if is_forward else "rev-langalign",
        )
        if not self.config.publish:
            return
        with self.display.step("publish") as line:
            published = publish_model(
                self.config,
                self.storage,
                data=trained.data,
                rule=trained.rule,
                head=trained.heads[0],
                steps=self._parents(trained),
                results=summary["results"],
            )
            line.say(f"{published['name']} {published['version']}")
        summary["models"] = [published]

    def _parents(self, trained: Trained) -> dict[str, str]:
        """Step outputs the model comes from, and those of the baselines that scoring may use."""
        parents = {**self.parents, "encoder": trained.rule.prefix}
        if self.config.tune.rows in trained.tuned:
            parents["tune"] = trained.tuned[self.config.tune.rows].output(self.storage).prefix
        if trained.aligned:
            parents["align"] = trained.aligned[0].output(self.storage).prefix
        if "english" in trained.tuned:
            parents["english"] = trained.tuned["english"].output(self.storage).prefix
        names = {"head english": "english", "head omission": "omission"}
        parents |= {
            names[unit.label]: unit.output(self.storage).prefix
            for unit in trained.heads[1:]
            if unit.label in names
        }
        return parents | {"head": trained.heads[0].output(self.storage).prefix}

    def _train(self) -> Trained | None:
        """All steps; None where `stop_after` ended the run before step 3."""
        encoded = self._encode()
        if encoded is None:
            return None
        plan, tuned = encoded.plan, encoded.tuned
        aligned = plan.align_units(encoded.prefixes)
        align = Step("align", aligned, "left out (aligner.kind=none)")
        if self._stops("align"):
            self._run_steps(align)
            return None
        heads: list[Unit] = list(plan.head_units(encoded.prefixes, aligned))
        if "encoder" in self.config.head.train:
            finetuned = plan.finetune_unit(encoded.rule, encoded.prefixes, aligned)
            heads[0] = finetuned
        if "english" in tuned:
            heads.append(plan.evaluate_unit(tuned["english"], encoded.prefixes))
        self._run_steps(align, Step("head", heads))
        return Trained(encoded.data, encoded.rule, tuned, aligned, heads, plan.notes())

    def _encode(self) -> Encoded | None:
        """The steps up to the embeddings; None where `stop_after` ended the run before."""
        data = self._prepare()
        if self._stops("prepare"):
            return None
        plan = Plan(self.config, data, self.storage)
        base = self._base_encoder()
        tuned = plan.tune_units(base)
        self._run_steps(Step("tune", list(tuned.values()), "left out (tune.rows=none)"))
        if self._stops("tune"):
            return None
        chosen = tuned.get(self.config.tune.rows)
        rule = self._rule(chosen.output(self.storage)) if chosen else base
        prefixes = self._embed(data, rule, tuned)
        if self._stops("embed"):
            return None
        return Encoded(data, plan, tuned, rule, prefixes)

    def _prepare(self) -> RunData:
        with self.display.step("prepare") as line:
            data = prepare(self.config, self.storage)
            counts = [f"{p.summary.rows:,} {role}" for role, p in data.roles.items()]
            dropped = sum(p.summary.duplicates_dropped for p in data.roles.values())
            line.say(", ".join(counts) + (f"; {dropped:,} duplicates dropped" if dropped else ""))
        return data

    def _base_encoder(self) -> EncoderRule:
        options = self.config.encoder
        if options.name == DEMO:
            return self._rule(self._demo_encoder())
        with self.display.step("encoder") as line:
            output = encoders.store_encoder(self.storage, options.name, options.revision)
            line.say(f"{options.name}, kept at {output.prefix}")
        return self._rule(output)

    def _demo_encoder(self) -> StepOutput:
        output = encoders.demo_encoder_output(self.storage)
        is_done = output.is_done()
        if not is_done:
            self._ray.connect()
        with self.display.step("encoder") as line:
            if is_done:
                line.found("the demo's tiny encoder")
            else:
                with watching(self._ray.monitor, self.display.show):
                    encoders.pretrain_demo_encoder(output, self._ray.monitor)
                line.say("the demo's tiny encoder, pre-trained on unpaired text")
        return output

    def _rule(self, output: StepOutput) -> EncoderRule:
        options = self.config.encoder
        return EncoderRule(
            prefix=output.prefix,
            weights=encoders.weights_digest(output),
            pooling=options.pooling,
            max_length=options.max_length,
            precision=options.precision,
        )

    def _embed(
        self, data: RunData, rule: EncoderRule, tuned: dict[str, TuneUnit]
    ) -> dict[str, str]:
        """Embedding prefixes by text set.

        The English-only baseline is scored on `train.english` and `test.english`, which are
        embedded by its own encoder where step 1 saw other rows as well.
        """
        sets = data.text_sets()
        english = tuned.get("english")
        english_rule = self._rule(english.output(self.storage)) if english else rule
        baseline = [sets["train"], sets["test"]] if english_rule != rule else []
        wanted = [(rule, list(sets.values())), (english_rule, baseline)]
        left = [(r, [t for t in many if not self._is_embedded(t, r)]) for r, many in wanted]
        if any(many for _, many in left):
            self._ray.connect()
        with self.display.step("embed") as line:
            for each_rule, many in left:
                self._embed_sets(each_rule, many)
            rows = sum(sum(texts.shard_rows) for _, many in wanted for texts in many)
            say = line.say if any(many for _, many in left) else line.found
            say(f"{rows:,} texts, {rule.pooling} pooling, {rule.precision}")
        prefixes = {name: t.output(self.storage, rule).prefix for name, t in sets.items()}
        for name in ("train", "test"):
            prefixes[f"{name}.english"] = sets[name].output(self.storage, english_rule).prefix
        return prefixes

    def _is_embedded(self, texts: TextSet, rule: EncoderRule) -> bool:
        return texts.output(self.storage, rule).is_done()

    def _embed_sets(self, rule: EncoderRule, sets: list[TextSet]) -> None:
        if not sets:
            return
        cluster = self.config.cluster
        embed(
            self.storage,
            rule,
            sets,
            actors=cluster.embed_actors
            or default_actors(
                gpus_per_actor=cluster.gpus_per_worker, cpus_per_actor=cluster.cpus_per_worker
            ),
            gpus_per_actor=cluster.gpus_per_worker,
            cpus_per_actor=cluster.cpus_per_worker,
            batch_tokens=self.config.encoder.batch_tokens,
            on_part=lambda done, total: self.display.show(Progress("shards", done, total, "")),
        )

    def _run_steps(self, *steps: Step) -> None:
        run_steps(self._ray, steps, run=self.config.name, cluster=self.config.cluster)

    def _stops(self, step: str) -> bool:
        return self.config.stop_after == step

    def _rebuilding(self, run: Callable[[], Result]) -> Result:
        """Run; where a stored step turns out altered, throw that step away and run again."""
        rebuilt: set[str] = set()
        while True:
            try:
                return run()
            except IntegrityError as error:
                if error.folder is None or error.folder in rebuilt:
                    raise
                rebuilt.add(error.folder)
                self.display.console.print(f"  [yellow]rebuilt[/yellow]  {error}")
                StepOutput(self.storage, error.folder).discard()
