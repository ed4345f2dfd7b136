"""From the grid to work: cells of one tuned encoder are a group, those on the same rows a stack.

Everything a cell's result depends on is in its digest, which names its manifest.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from cluster.benchmark_data import StudyRows
from cluster.embed import EncoderRule
from cluster.local_translation import TranslatorUnit, local_unit
from cluster.plan import fit_options
from cluster.simcse_unit import SimcseUnit
from cluster.text_units import FineTuning, TextPart, TuneUnit
from cluster.work import Unit
from langalign.aligners import Direction
from langalign.benchmarkgrid import LOCAL, OF_PAIRS, OWN_HEAD, BenchmarkConfig, Cell, cells
from langalign.loop import FitOptions
from langalign.lora import LoraOptions
from langalign.outputs import digest_of
from langalign.storage import Storage
from langalign.trials import AlignerShape, TrialOptions

__all__ = [
    "Group",
    "PlannedCell",
    "Stack",
    "left_by",
    "left_out",
    "plan_groups",
    "translator_unit",
]


@dataclass(frozen=True)
class PlannedCell:
    """A cell with the options of its trial; None where step 1's own head is what is scored."""

    cell: Cell
    options: TrialOptions | None
    digest: str


@dataclass(frozen=True)
class Stack:
    """Trials on the same rows: `train` parts together, the pairs as (source, target).

    Alignment is measured on the held-out rows of the `measured` pairs, the same for all stacks of a
    study and seed.
    """

    train: tuple[TextPart, ...]
    held_out: TextPart
    pairs: tuple[TextPart, TextPart] | None
    measured: tuple[TextPart, TextPart]
    direction: Direction
    members: tuple[PlannedCell, ...]

    @property
    def trained_on(self) -> tuple[TextPart, ...]:
        """The rows that a user's own training would embed."""
        return tuple(dict.fromkeys((*self.train, self.held_out, *(self.pairs or ()))))

    @property
    def parts(self) -> tuple[TextPart, ...]:
        """All rows that it reads, beside those to test on."""
        return tuple(dict.fromkeys((*self.trained_on, *self.measured)))


@dataclass(frozen=True)
class Group:
    """One encoder, tuned by `tune` (or left as it is), and all that is scored with it.

    `made_by` are the storage prefixes of the steps that made its rows, where a local translator
    did; `blocked` says why they could not be made, and is empty if they were.
    """

    name: str
    base: EncoderRule
    before: SimcseUnit | None
    tune: TuneUnit | None
    own: PlannedCell | None
    stacks: tuple[Stack, ...]
    test: TextPart
    classes: int
    metric: str
    made_by: tuple[str, ...]
    blocked: str

    @property
    def members(self) -> list[PlannedCell]:
        """All cells."""
        own = [self.own] if self.own else []
        return [*own, *(member for stack in self.stacks for member in stack.members)]

    def tuned_at(self, storage: Storage) -> str:
        """The prefix of step 1's output; empty without step 1."""
        return self.tune.output(storage).prefix if self.tune else ""

    @cached_property
    def weight(self) -> float:
        """About how long it takes, in units of its own: rows trained on, and pairs by kind."""
        return self.work_of({member.digest for member in self.members})

    def work_of(self, written: Collection[str]) -> float:
        """The part of `weight` that is behind those of its cells whose digests are `written`."""
        found = [member for member in self.members if member.digest in written]
        if not found:
            return 0.0
        tuned = sum(part.split.ids("train").size for part in self.tune.parts) if self.tune else 0
        work = 3.0 * tuned * (6 if self.before else 1)
        for cell in (member.cell for member in found if member is not self.own):
            is_learned = cell.aligner in ("fc", "ae", "residual")
            work += (cell.pairs or 0) * 6.0 * is_learned + cell.rows * 0.3
        return work


def plan_groups(
    config: BenchmarkConfig, rows: StudyRows, base: EncoderRule, storage: Storage
) -> list[Group]:
    """The groups of one study and seed."""
    return _Planner(config, rows, base, storage).groups()


def left_out(config: BenchmarkConfig, rows: StudyRows) -> str:
    """The methods of the grid that have no cell, or too few, with the reasons; empty if none."""
    reasons: dict[str, list[str]] = {}
    for cell in cells(rows.study, config.grid_of(rows.study), rows.seed):
        methods = reasons.setdefault(_lack(config, rows, cell), [])
        if cell.method not in methods:
            methods.append(cell.method)
    reasons.pop("", None)
    return "; ".join(f"{', '.join(methods)}: {reason}" for reason, methods in reasons.items())


def _lack(config: BenchmarkConfig, rows: StudyRows, cell: Cell) -> str:
    """Why a cell of the grid cannot be made; empty if it can."""
    if cell.method == "native":
        # Labelled rows of the target language are as many as there are; the table has a gap.
        if "native" not in rows.sets:
            return "the study names no such rows"
        count = rows.rows("native")
        return "" if cell.rows <= count else f"sizes above the {count:,} rows that there are"
    if cell.method == LOCAL and config.tune.rows == "none":
        return "it is a tuned encoder, and tune.rows=none"
    if cell.method in (*OF_PAIRS, "data-share") and not rows.has_labelled_pairs:
        return "the pairs have no labels"
    if cell.method == "omission" and config.tune.rows == "none":
        # A head on plain English embeddings.
        return "without step 1 it is the row english"
    return ""


class _Planner:
    def __init__(
        self, config: BenchmarkConfig, rows: StudyRows, base: EncoderRule, storage: Storage
    ) -> None:
        self.config = config
        self.grid = config.grid_of(rows.study)
        self.rows = rows
        self.base = base
        self.storage = storage

    def groups(self) -> list[Group]:
        """Cells by encoder: the rows that step 1 trains on decide."""
        wanted = cells(self.rows.study, self.grid, self.rows.seed)
        alike: dict[tuple[str, tuple[TextPart, ...]], list[Cell]] = {}
        for cell in wanted:
            if _lack(self.config, self.rows, cell):
                continue
            # How step 1 goes about its rows; it is the same for all other methods.
            way = cell.method if cell.method in ("lora", "simcse") else "tune"
            alike.setdefault((way, self._tune_parts(cell)), []).append(cell)
        return [self._group(way, parts, found) for (way, parts), found in alike.items()]

    def _part(self, name: str, size: int) -> TextPart:
        return TextPart(
            self.rows.sets[name],
            self.rows.subset(name, size),
            of_target=name not in ("train", "source"),
        )

    def _train_parts(self, cell: Cell, size: int) -> tuple[TextPart, ...]:
        """`size` task rows of a cell; with shared data, as many of them as there are from pairs."""
        if cell.method == LOCAL:
            return (self._part(f"local-{cell.pairs}", size),)
        if cell.method != "data-share":
            own = "target" if cell.method in OF_PAIRS else "train"
            return (self._part("native" if cell.method == "native" else own, size),)
        assert cell.pairs is not None
        shared = self._part("source", min(size, cell.pairs))
        rest = size - cell.pairs
        return (shared, self._part("train", rest)) if rest > 0 else (shared,)

    def _tune_parts(self, cell: Cell) -> tuple[TextPart, ...]:
        if self.config.tune.rows == "none" and cell.method not in ("lora", "simcse"):
            return ()
        is_own = cell.method in OWN_HEAD
        size = cell.rows if is_own else (self.grid.tune_rows or cell.rows)
        return self._train_parts(cell, size)

    def _group(self, way: str, parts: tuple[TextPart, ...], found: list[Cell]) -> Group:
        before = self._simcse_unit(parts[0]) if way == "simcse" else None
        begin = left_by(before, self.base, self.storage) if before else self.base
        tune = self._tune_unit(way, begin, parts) if parts else None
        rule = left_by(tune, begin, self.storage) if tune else begin
        test = self._part("test", self.rows.rows("test"))
        own = None
        if tune:
            mine = [cell for cell in found if cell.method in OWN_HEAD]
            own = PlannedCell(mine[0], None, self._digest(rule, test)) if mine else None
        stacks = tuple(self._stacks(found, rule, test, skipped=own.cell if own else None))
        return Group(
            name=f"{self.rows.study.name} seed {self.rows.seed}",
            base=self.base,
            before=before,
            tune=tune,
            own=own,
            stacks=stacks,
            test=test,
            classes=len(self.rows.task.labels),
            metric=self.rows.task.metric,
            made_by=self.rows.made_by.get(parts[0].texts.name, ()) if parts else (),
            blocked=self.rows.blocked.get(parts[0].texts.name, "") if parts else "",
        )

    def _stacks(
        self, found: Iterable[Cell], rule: EncoderRule, test: TextPart, skipped: Cell | None
    ) -> Iterator[Stack]:
        alike: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in found:
            if cell == skipped:
                continue
            pairs = cell.pairs or (max(self.grid.pairs) if cell.method == "omission" else 0)
            # What the omission leaves out is LangAlign, so all else is as there.
            family = "langalign" if cell.method == "omission" else cell.method
            alike.setdefault((family, cell.rows, pairs), []).append(cell)
        for (family, size, pairs), members in alike.items():
            yield self._stack(family, size, pairs, members, rule, test)

    def _stack(
        self,
        family: str,
        size: int,
        pairs: int,
        members: list[Cell],
        rule: EncoderRule,
        test: TextPart,
    ) -> Stack:
        train = self._train_parts(members[0], size)
        sides = self._sides(pairs) if pairs else None
        measured = self._sides(self.grid.measured)
        chooses_translated = sides is not None and self.rows.has_labelled_pairs
        held_out = sides[1] if sides and chooses_translated else train[0]
        direction: Direction = "reverse" if family == "rev-langalign" else "forward"
        where = [[p.identity() for p in train], held_out.identity()]
        where += [[p.identity() for p in each] for each in (sides or (), measured)]
        planned = []
        for cell in members:
            options = self._options(cell)
            digest = self._digest(rule, test, *where, direction, asdict(options))
            planned.append(PlannedCell(cell, options, digest))
        return Stack(train, held_out, sides, measured, direction, tuple(planned))

    def _sides(self, pairs: int) -> tuple[TextPart, TextPart]:
        return self._part("source", pairs), self._part("target", pairs)

    def _digest(self, rule: EncoderRule, test: TextPart, *parts: Any) -> str:
        task = [self.rows.task.metric, len(self.rows.task.labels)]
        return digest_of("cell", rule.digest(), test.identity(), task, *parts)

    def _options(self, cell: Cell) -> TrialOptions:
        aligner = self.config.aligner
        return TrialOptions(
            AlignerShape(cell.aligner, identity_pairs=aligner.identity_pairs),
            align=fit_options(aligner, cell.seed),
            head=fit_options(self.config.head, cell.seed),
            head_dropout=self.config.head.dropout,
            adds_residuals=self.config.head.residuals,
        )

    def _tune_unit(self, way: str, rule: EncoderRule, parts: tuple[TextPart, ...]) -> TuneUnit:
        tune, lora = self.config.tune, None
        if way == "lora":
            own = self.config.lora
            lora = LoraOptions(own.rank, own.alpha, own.dropout, self.rows.seed)
            changed = {"learning_rate": own.learning_rate, "max_epochs": own.max_epochs}
            tune = tune.model_copy(update=changed)
        return TuneUnit(
            rows="both" if len(parts) > 1 else parts[0].texts.name,
            rule=rule,
            parts=parts,
            classes=len(self.rows.task.labels),
            metric=self.rows.task.metric,
            tuning=FineTuning(
                options=fit_options(tune, self.rows.seed),
                warmup_fraction=tune.warmup_fraction,
                max_gradient_norm=tune.max_gradient_norm,
                precision=tune.precision,
                dropout=self.config.head.dropout,
                batch_tokens=self.config.encoder.batch_tokens,
            ),
            lora=lora,
        )

    def _simcse_unit(self, part: TextPart) -> SimcseUnit:
        own = self.config.simcse
        options = FitOptions(
            learning_rate=own.learning_rate,
            batch_size=own.batch_size,
            max_epochs=own.max_epochs,
            # The paper trains for 10 epochs and says nothing of stopping.
            patience=own.max_epochs,
            seed=self.rows.seed,
        )
        tokens = self.config.encoder.batch_tokens
        return SimcseUnit(self.base, part, options, own.temperature, own.dropout, tokens)


def left_by(unit: Unit, rule: EncoderRule, storage: Storage) -> EncoderRule:
    """The encoder that a unit leaves, named by what it is trained from, as its output is."""
    prefix = unit.output(storage).prefix
    return EncoderRule(prefix, prefix, rule.pooling, rule.max_length, rule.precision)


def translator_unit(
    config: BenchmarkConfig, rows: StudyRows, base: EncoderRule, pairs: int
) -> TranslatorUnit:
    """The local translator of a study and seed that is trained on so many pairs."""
    subset = rows.subset("source", pairs)
    sides = (
        TextPart(rows.sets["source"], subset, of_target=False),
        TextPart(rows.sets["target"], subset, of_target=True),
    )
    language = rows.study.language or rows.study.target_language
    return local_unit(config.local, base, sides, language=language, seed=rows.seed)
