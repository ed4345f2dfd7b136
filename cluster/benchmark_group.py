"""What a process of a benchmark does: one tuned encoder, the embeddings by it, and all its cells.

Cells are written as they are done. Of a group that is run again, a stack with a missing cell is
trained as a whole, so that every cell comes from the same arithmetic as in an undisturbed run.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from cluster.benchmark_embed import Embedder
from cluster.benchmark_inputs import made_from
from cluster.benchmark_plan import Group, PlannedCell, Stack, left_by
from cluster.embed import EncoderRule
from cluster.encoders import WORDS
from cluster.scoring import score_rows
from cluster.session import crash_reason
from cluster.text_units import TextPart
from cluster.trial import assigned_device
from cluster.units import HEAD_FILE, Part
from cluster.work import UnitWork
from langalign.aligners import Direction, NoAligner
from langalign.alignment import cosine, measure_alignment
from langalign.benchmarkresult import CellResult, CellStore
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.errors import DataError, IntegrityError, LangAlignError
from langalign.loop import Worker
from langalign.outputs import StepOutput
from langalign.stacking import TrialStack
from langalign.storage import Storage
from langalign.training import Labelled, Pairs, count_outcomes
from langalign.trials import NO_PROBE, TrainedTrial, TrialData

__all__ = ["run_group", "tune_ahead", "tune_encoder"]

# Alignment is measured on so many held-out pairs at most: a probe is fitted on each cell's.
MEASURED_PAIRS = 300


def run_group(group: Group, store: CellStore, monitor: Any, _: None = None) -> None:
    """Fill in the missing cells of a group, as a Ray task; what fails is written as failed.

    The last argument is what Ray has it wait for, a `tune_ahead`.
    """
    cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    torch.set_num_threads(max(1, int(cores)))
    GroupRun(group, store, monitor, assigned_device()).run()


def tune_ahead(group: Group, storage: Storage, monitor: Any) -> None:
    """Step 1 of several groups, as a Ray task; each of them meets again what ends it."""
    with suppress(LangAlignError):
        tune_encoder(group, storage, monitor, assigned_device())


class GroupRun:
    """One group on this process."""

    def __init__(self, group: Group, store: CellStore, monitor: Any, device: torch.device) -> None:
        self.group = group
        self.store = store
        self.monitor = monitor
        self.device = device
        # By step, before the cells' own; from what the steps recorded, so that a group that is run
        # again writes the same.
        self.seconds: dict[str, float] = {}
        self.done: dict[str, CellResult] = {}

    def run(self) -> None:
        """Tune, embed what is needed, and score; a stored step that is altered is made again."""
        rebuilt: set[str] = set()
        while True:
            try:
                return self._fill()
            except IntegrityError as error:
                if error.folder is None or error.folder in rebuilt:
                    for member in self._open(self.group.members):
                        self._write_failure(member, str(error))
                    return
                rebuilt.add(error.folder)
                StepOutput(self.store.storage, error.folder).discard()

    def _fill(self) -> None:
        self.done = self.store.done(member.digest for member in self.group.members)
        with self._failing(self.group.members):
            if self.group.blocked:
                raise DataError(self.group.blocked)
            embedder = self._embedder()
            if self.group.own and self.group.own.digest not in self.done:
                self._own(self.group.own, embedder)
            for stack in self.group.stacks:
                if any(member.digest not in self.done for member in stack.members):
                    with self._failing(stack.members):
                        self._stack(stack, embedder)

    @contextmanager
    def _failing(self, members: Sequence[PlannedCell]) -> Iterator[None]:
        """Write what ends the work as the reason of the cells that it leaves open."""
        try:
            yield
        except IntegrityError:
            raise
        except Exception as error:  # noqa: BLE001 (the reason of its cells; others go on)
            reason = str(error) if isinstance(error, LangAlignError) else crash_reason(error)
            for member in self._open(members):
                self._write_failure(member, reason)

    def _open(self, members: Sequence[PlannedCell]) -> list[PlannedCell]:
        """Those without a score."""
        found = self.store.done(member.digest for member in members)
        return [member for member in members if member.digest not in found]

    def _write_failure(self, member: PlannedCell, reason: str) -> None:
        metric = self.group.metric
        self.store.write(CellResult.failure(member.cell, member.digest, metric, reason))

    def _embedder(self) -> Embedder:
        group, storage = self.group, self.store.storage
        rule = tune_encoder(group, storage, self.monitor, self.device)
        tuned = [unit.output(storage).prefix for unit in (group.before, group.tune) if unit]
        self.seconds["translator"] = self._translator_s()
        self.seconds["tune"] = sum(StepOutput(storage, prefix).seconds() for prefix in tuned)
        parts = [group.test, *(part for stack in group.stacks for part in stack.parts)]
        return Embedder(storage, rule, self.device, parts)

    def _translator_s(self) -> float:
        """A local translator's training, and its translating of the group's own rows."""
        if not self.group.made_by:
            return 0.0
        made = [StepOutput(self.store.storage, prefix) for prefix in self.group.made_by]
        training, translating = made
        share = self.group.members[0].cell.rows / int(translating.info()["rows"])
        return training.seconds() + share * translating.seconds()

    def _own(self, planned: PlannedCell, embedder: Embedder) -> None:
        """Step 1's own head, as it left it: the baselines of section 3.4.3."""
        assert self.group.tune is not None
        test = embedder.rows(self.group.test, "all")
        head = ClassificationHead(test.embeddings.shape[1], self.group.classes)
        output = self.group.tune.output(self.store.storage)
        head.load_state_dict(load_tensors(output.read(HEAD_FILE)))
        model = AlignedHead(NoAligner(), head, direction="forward").to(self.device)
        epochs = {"tune": len(output.info()["history"])}
        self._write(planned, model, test, {}, epochs, {})

    def _stack(self, stack: Stack, embedder: Embedder) -> None:
        data = self._trial_data(stack, embedder)
        test = embedder.rows(self.group.test, "all")
        embedded_s = embedder.seconds(stack.trained_on)
        options = [member.options for member in stack.members]
        trials = TrialStack([o for o in options if o], data, self.device, probe=NO_PROBE)
        failures: dict[int, str] = {}
        while trials.live:
            failures |= {r.trial: r.failure for r in trials.step() if r.failure}
        measured = self._measured_pairs(stack, embedder)
        before = self._before(measured) if stack.pairs else {}
        for number, member in enumerate(stack.members):
            if member.digest in self.done:
                continue
            if number in failures:
                self._write_failure(member, failures[number])
                continue
            trained = trials.finished[number]
            alignment = before | self._after(measured, trained) if member.cell.pairs else {}
            histories = {"align": trained.align_history, "head": trained.head_history}
            epochs = {step: len(history) for step, history in histories.items()}
            # The closed forms have no epochs, and take milliseconds.
            spent = {step: sum(e.seconds for e in each) for step, each in histories.items()}
            self._write(
                member, trained.model, test, alignment, epochs, {"embed": embedded_s, **spent}
            )

    def _trial_data(self, stack: Stack, embedder: Embedder) -> TrialData:
        parts = [embedder.rows(part, "train") for part in stack.train]
        rows = Labelled(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.labels for part in parts]),
            parts[0].of_target,
        )
        held_out = embedder.rows(stack.held_out, "held_out")
        # Without an aligner nothing reads the pairs.
        pairs = held_pairs = Pairs(rows.embeddings[:1], rows.embeddings[:1])
        if stack.pairs:
            pairs, held_pairs = (
                _pairs(stack.pairs, part, stack.direction, embedder)
                for part in ("train", "held_out")
            )
        return TrialData(
            pairs,
            held_pairs,
            rows,
            held_out,
            self.group.classes,
            self.group.metric,
            stack.direction,
        )

    def _measured_pairs(self, stack: Stack, embedder: Embedder) -> Pairs:
        pairs = _pairs(stack.measured, "held_out", stack.direction, embedder)
        return Pairs(pairs.source[:MEASURED_PAIRS], pairs.target[:MEASURED_PAIRS])

    @torch.no_grad()
    def _before(self, pairs: Pairs) -> dict[str, dict[str, float]]:
        # The base encoder of a language whose dictionary is known was measured when it was made.
        base = StepOutput(self.store.storage, self.group.base.prefix).info()
        words = {WORDS: base[WORDS]} if WORDS in base else {}
        found = _measured(pairs.source, pairs.target)
        return {"before": found | {"pairs": len(pairs.source)}, **words}

    @torch.no_grad()
    def _after(self, pairs: Pairs, trained: TrainedTrial) -> dict[str, dict[str, float]]:
        """With A(source) in the place of the source, and the source against its own image."""
        aligner = trained.model.aligner
        mapped = aligner(pairs.source)
        moved = cosine(pairs.source.cpu().numpy(), mapped.cpu().numpy())
        return {
            "after": _measured(mapped, aligner.keep(pairs.target)),
            "moved": {"cosine": moved},
        }

    def _write(
        self,
        member: PlannedCell,
        model: AlignedHead,
        test: Labelled,
        alignment: dict[str, dict[str, float]],
        epochs: dict[str, int],
        seconds: dict[str, float],
    ) -> None:
        counts = count_outcomes(model, test.to(self.device)).cpu().tolist()
        scores = {row["metric"]: row["value"] for row in score_rows(counts, self.group.metric, {})}
        spent = {name: round(s, 3) for name, s in {**self.seconds, **seconds}.items()}
        self.store.write(
            CellResult(
                cell=member.cell,
                digest=member.digest,
                status="done",
                metric=self.group.metric,
                scores=scores,
                alignment=alignment,
                epochs=epochs,
                seconds=spent,
                counts=counts,
                made_from=made_from(self.group, member, self.store.storage),
            )
        )


def tune_encoder(group: Group, storage: Storage, monitor: Any, device: torch.device) -> EncoderRule:
    """Step 1 of a group and what comes before it, unless it is done; the encoder that it leaves."""
    rule = group.base
    for unit in (group.before, group.tune):
        if unit is None:
            continue
        output = unit.output(storage)
        if not output.is_done():
            unit.run(
                UnitWork(
                    storage=storage,
                    output=output,
                    worker=Worker(device=device),
                    label=f"{group.name} {unit.label}",
                    max_epochs=unit.max_epochs,
                    monitor=monitor,
                    # Checkpoints are Ray Train's, and this is a task: it begins anew.
                    checkpoint_interval_s=math.inf,
                    resume=None,
                )
            )
        rule = left_by(unit, rule, storage)
    return rule


def _pairs(
    sides: tuple[TextPart, TextPart], which: Part, direction: Direction, embedder: Embedder
) -> Pairs:
    """From what the aligner reads to what it has to give."""
    source, target = (embedder.rows(side, which).embeddings for side in sides)
    return Pairs(target, source) if direction == "reverse" else Pairs(source, target)


def _measured(source: Tensor, target: Tensor) -> dict[str, float]:
    return measure_alignment(source.cpu().numpy(), target.cpu().numpy()).values()
