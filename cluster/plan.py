"""From a config and prepared data to units of work: who trains on what, and how it is called."""

from dataclasses import dataclass

from cluster.embed import EncoderRule
from cluster.prepare import RunData
from cluster.text_units import FinetuneUnit, FineTuning, TextPart, TuneUnit
from cluster.units import (
    AlignerShape,
    AlignUnit,
    EmbeddedPairs,
    EmbeddedPart,
    EvaluateUnit,
    HeadUnit,
    Part,
)
from langalign.benchmarkconfig import AlignStepConfig, LocalConfig
from langalign.config import AlignerConfig, HeadConfig, PipelineConfig, TuneConfig
from langalign.errors import ConfigError
from langalign.loop import FitOptions
from langalign.storage import Storage

__all__ = ["Plan", "fit_options"]

NO_ALIGNER = AlignerShape("none")


@dataclass(frozen=True)
class Plan:
    """Builds the units of one run. `rules` are filled as encoders become known."""

    config: PipelineConfig
    data: RunData
    storage: Storage

    def tune_units(self, base: EncoderRule) -> dict[str, TuneUnit]:
        """Step 1 of the chosen rows, and of English alone where that baseline is asked for."""
        rows = self.config.tune.rows
        if rows == "none":
            return {}
        wanted = {rows}
        if "english" in self.config.compare.methods:
            wanted.add("english")
        return {kind: self._tune_unit(kind, base) for kind in sorted(wanted, key=rows.__ne__)}

    def align_units(self, prefixes: dict[str, str]) -> list[AlignUnit]:
        """Step 2 of the chosen aligner first, then of those to compare."""
        chosen = self.config.aligner
        return [
            AlignUnit(
                shape=shape,
                direction=chosen.direction,
                pairs=self._pairs(prefixes),
                options=fit_options(chosen, self.config.seed),
                identity_weight=chosen.identity_weight,
            )
            for shape in self._shapes()
            if shape.kind != "none"
        ]

    def head_units(self, prefixes: dict[str, str], aligned: list[AlignUnit]) -> list[HeadUnit]:
        """Step 3 through every aligner, and the baselines that have rows."""
        by_kind = {unit.shape.kind: unit.output(self.storage).prefix for unit in aligned}
        method = "langalign" if self.config.aligner.direction == "forward" else "rev-langalign"
        units = [
            self._head_unit(
                method if shape.kind != "none" else "omission", prefixes, shape, by_kind
            )
            for shape in self._shapes()
        ]
        for baseline in self.baselines():
            units.append(self._head_unit(baseline, prefixes, NO_ALIGNER, by_kind))
        return units

    def evaluate_unit(self, tuned: TuneUnit, prefixes: dict[str, str]) -> EvaluateUnit:
        """The English-only baseline after step 1: encoder and head as step 1 left them."""
        return EvaluateUnit(
            method="english",
            head=tuned.output(self.storage).prefix,
            classes=len(self.data.task.labels),
            tests={
                "test": self._part(prefixes, "test.english", "all", of_target=True),
                "english": self._part(prefixes, "train.english", "held_out", of_target=False),
            },
        )

    def finetune_unit(
        self, rule: EncoderRule, prefixes: dict[str, str], aligned: list[AlignUnit]
    ) -> FinetuneUnit:
        """Step 3 with a trainable encoder, for the chosen aligner."""
        sets = self.data.text_sets()
        shape = self._shapes()[0]
        head, tune = self.config.head, self.config.tune
        target = TextPart(sets["target"], self.data.split("parallel"), of_target=True)
        train = TextPart(sets["train"], self.data.split("train"), of_target=False)
        return FinetuneUnit(
            shape=shape,
            aligner=aligned[0].output(self.storage).prefix if aligned else None,
            direction=self.config.aligner.direction,
            rule=rule,
            train=train,
            held_out=target if self.data.has_labelled_pairs else train,
            tests={"test": TextPart(sets["test"], self.data.split("test"), of_target=True)},
            classes=len(self.data.task.labels),
            metric=self.data.task.metric,
            tuning=self._tuning(head, tune, dropout=head.dropout),
            train_aligner="aligner" in head.train,
        )

    def baselines(self) -> list[str]:
        """Baselines that need a head of their own and have the rows for it."""
        asked = self.config.compare.methods
        has = {
            "english": self.config.tune.rows == "none",
            # Without step 1 a head on plain English embeddings is the English-only baseline.
            "omission": self.config.tune.rows != "none" and self.config.aligner.kind != "none",
            "translated": self.data.has_labelled_pairs,
            "native": "native" in self.data.roles,
        }
        return [method for method in asked if has[method]]

    def notes(self) -> list[str]:
        """What was asked for and cannot be given, and why."""
        notes = []
        asked = self.config.compare.methods
        if "translated" in asked and not self.data.has_labelled_pairs:
            notes.append("translated: left out, because data.parallel has no label column")
        if "native" in asked and "native" not in self.data.roles:
            notes.append("native: left out, because data.native is not set")
        if "omission" in asked and self.config.tune.rows == "none":
            notes.append("omission: without step 1 it is the English-only row")
        if self.config.head.residuals:
            notes.append(
                "head.residuals: heads behind an aligner learned from rows moved by what it leaves"
            )
        if not self.data.has_labelled_pairs:
            notes.append(
                "epochs were chosen on held-out English rows: data.parallel has no labels to "
                "choose by translated rows"
            )
        return notes

    def _tune_unit(self, kind: str, base: EncoderRule) -> TuneUnit:
        sets = self.data.text_sets()
        parts = []
        if kind in ("english", "both"):
            parts.append(TextPart(sets["train"], self.data.split("train"), of_target=False))
        if kind in ("translated", "both"):
            if not self.data.has_labelled_pairs:
                raise ConfigError(
                    f"tune.rows={kind} needs a label for every pair of data.parallel; add a "
                    f"{self.data.task.label_column!r} column or set tune.rows=english"
                )
            parts.append(TextPart(sets["target"], self.data.split("parallel"), of_target=True))
        tune = self.config.tune
        return TuneUnit(
            rows=kind,
            rule=base,
            parts=tuple(parts),
            classes=len(self.data.task.labels),
            metric=self.data.task.metric,
            tuning=self._tuning(tune, tune, dropout=self.config.head.dropout),
        )

    def _head_unit(
        self,
        method: str,
        prefixes: dict[str, str],
        shape: AlignerShape,
        aligners: dict[str, str],
    ) -> HeadUnit:
        role = {"translated": "target", "native": "native"}.get(method, "train")
        reads_target = role != "train"
        train = self._part(prefixes, role, "train", of_target=reads_target)
        held_out = self._part(prefixes, role, "held_out", of_target=reads_target)
        # Chosen on translated rows, but a baseline that has none must not see them.
        if method not in ("english", "translated", "native") and self.data.has_labelled_pairs:
            held_out = self._part(prefixes, "target", "held_out", of_target=True)
        tests = {"test": self._part(prefixes, "test", "all", of_target=True)}
        if not reads_target:
            tests["english"] = self._part(prefixes, "train", "held_out", of_target=False)
        adds_residuals = shape.kind != "none" and self.config.head.residuals
        trains_aligner = shape.kind != "none" and "aligner" in self.config.head.train
        return HeadUnit(
            method=method,
            shape=shape,
            aligner=aligners.get(shape.kind),
            direction=self.config.aligner.direction,
            classes=len(self.data.task.labels),
            metric=self.data.task.metric,
            train=train,
            held_out=held_out,
            tests=tests,
            options=fit_options(self.config.head, self.config.seed),
            dropout=self.config.head.dropout,
            residuals_of=self._pairs(prefixes) if adds_residuals else None,
            train_aligner=trains_aligner,
        )

    def _pairs(self, prefixes: dict[str, str]) -> EmbeddedPairs:
        return EmbeddedPairs(prefixes["source"], prefixes["target"], self.data.split("parallel"))

    def _part(
        self, prefixes: dict[str, str], name: str, part: Part, *, of_target: bool
    ) -> EmbeddedPart:
        role = "parallel" if name == "target" else name.removesuffix(".english")
        return EmbeddedPart(prefixes[name], self.data.split(role), part, of_target)

    def _shapes(self) -> list[AlignerShape]:
        chosen = self.config.aligner
        shapes = [
            AlignerShape(
                chosen.kind, chosen.depth, chosen.hidden, chosen.dropout, chosen.identity_pairs
            )
        ]
        for kind in self.config.compare.aligners:
            if kind not in (chosen.kind, "none"):
                shapes.append(AlignerShape(kind, identity_pairs=chosen.identity_pairs))
        return shapes

    def _tuning(
        self, section: TuneConfig | HeadConfig, tune: TuneConfig, *, dropout: float
    ) -> FineTuning:
        return FineTuning(
            options=fit_options(section, self.config.seed),
            warmup_fraction=tune.warmup_fraction,
            max_gradient_norm=tune.max_gradient_norm,
            precision=tune.precision,
            dropout=dropout,
            batch_tokens=self.config.encoder.batch_tokens,
        )


def fit_options(
    section: TuneConfig | AlignerConfig | AlignStepConfig | HeadConfig | LocalConfig, seed: int
) -> FitOptions:
    """Optimiser and stopping rule of a step."""
    return FitOptions(
        learning_rate=section.learning_rate,
        batch_size=section.batch_size,
        max_epochs=section.max_epochs,
        patience=section.patience,
        weight_decay=section.weight_decay,
        seed=seed,
    )
