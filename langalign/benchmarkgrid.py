"""The paper's evaluation as a grid of cells: rows, sizes, seeds, tasks and languages.

A cell is one figure of one table: a method with its aligner, trained on so many task rows
(`rows`) and so many translated pairs (`pairs`), for one task, language and seed.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from langalign.benchmarkconfig import (
    AlignStepConfig,
    ColumnsConfig,
    CostsConfig,
    CounterpartConfig,
    GroupsConfig,
    LocalConfig,
    LoraConfig,
    SimcseConfig,
)
from langalign.config import (
    AlignerKind,
    EncoderConfig,
    HeadConfig,
    Section,
    TaskConfig,
    TuneConfig,
)
from langalign.sizes import Sizes

__all__ = [
    "LOCAL",
    "OF_PAIRS",
    "OWN_HEAD",
    "BenchmarkConfig",
    "Cell",
    "GridConfig",
    "RowName",
    "StudyConfig",
    "cells",
]

RowName = Literal[
    "english",
    "native",
    "translated",
    "translated-local",
    "omission",
    "langalign",
    "rev-langalign",
    "data-share",
    "lora",
    "simcse",
]
FEWEST_HELD_OUT = 8
# What a spec of rows that are no local file, relative to a folder, begins with.
_NO_FILES = ("hub:", "s3://", "/")
# Rows with a cell for each aligner kind, and so for each number of pairs.
ALIGNED: tuple[RowName, ...] = ("langalign", "rev-langalign", "data-share")
# Rows trained on the target side of the labelled pairs, of which there are only so many.
OF_PAIRS: tuple[RowName, ...] = ("translated", "lora", "simcse")
# The row of a local translator: its pairs are those that the translator was trained on.
LOCAL: RowName = "translated-local"
# Rows without an aligner that are scored with the head of step 1, as it left it (section 3.4.3).
OWN_HEAD: tuple[RowName, ...] = ("english", "native", LOCAL, *OF_PAIRS)


class StudyConfig(Section):
    """One task in one target language. Paths are relative to `data`, if that is set."""

    name: str = Field(..., pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$", description="as in sa-ko")
    task: TaskConfig = TaskConfig()
    source_language: str = Field("en", description="language code of the labelled rows")
    target_language: str = Field(..., description="language code of the rows to classify")
    language: str | None = Field(None, description="its name in local.prefix; unset: the code")
    train: str = Field(..., description="labelled English rows, or `demo`")
    parallel: str = Field(..., description="translated sentences: source, target, label?")
    test: str = Field(..., description="labelled target-language rows, only ever scored")
    native: str | None = Field(None, description="labelled target-language rows to train on")
    target: ColumnsConfig = ColumnsConfig()
    counterpart: CounterpartConfig = CounterpartConfig()
    rows: Sizes | None = Field(None, min_length=1, description="in place of grid.rows")
    pairs: Sizes | None = Field(None, min_length=1, description="in place of grid.pairs")
    share_pairs: Sizes | None = Field(None, description="in place of grid.share_pairs")
    local_pairs: Sizes | None = Field(None, description="in place of grid.local_pairs")
    measured_pairs: int | None = Field(None, gt=0, description="in place of grid.measured_pairs")

    def spec(self, role: str, data: str | None) -> str | None:
        """Where the rows of a role lie: a local path is relative to `data`."""
        spec: str | None = getattr(self, role)
        if spec is None or data is None or spec == "demo" or spec.startswith(_NO_FILES):
            return spec
        return str(Path(data) / spec)


class GridConfig(Section):
    """The axes. Every combination that has rows is a cell."""

    methods: list[RowName] = Field(
        list(get_args(RowName)), min_length=1, description="rows of the tables"
    )
    aligners: list[AlignerKind] = Field(
        ["fc", "ae", "linear", "procrustes", "procrustes-uncentred", "residual"],
        description="kinds of the langalign row",
    )
    reverse_aligners: list[AlignerKind] = Field(
        ["fc", "ae"], description="kinds of the rev-langalign row"
    )
    share_aligners: list[AlignerKind] = Field(
        ["fc", "ae"], description="kinds of the data-share row"
    )
    rows: Sizes = Field(
        [1000, 2000, 5000, 10000],
        min_length=1,
        description="task rows of steps 1 and 3: a list, or {from, to, step}",
    )
    tune_rows: int | None = Field(
        None, gt=1, description="task rows of step 1 alone; unset: as many as step 3 has"
    )
    pairs: Sizes = Field([500, 2000], min_length=1, description="translated pairs of step 2")
    share_pairs: Sizes = Field([2000], description="pairs of the data-share row")
    local_pairs: Sizes = Field(
        [2000], description="translated pairs that local translators are trained on"
    )
    translated_rows: Sizes | None = Field(
        None, description="sizes of rows made of translations; unset: sizes up to the most pairs"
    )
    measured_pairs: int | None = Field(
        None, gt=0, description="alignment is measured on held-out ones of so many; unset: fewest"
    )
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="seeds; each draws its own rows")
    test_rows: int = Field(2000, gt=0, description="test rows at most (section 3.3)")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of rows and pairs held out for choosing (section 3.4.4)"
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        for name in ("rows", "pairs", "share_pairs", "local_pairs", "translated_rows", "seeds"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise ValueError(f"grid.{name}={values} names a value twice; drop one of them")
            if name != "seeds" and any(value < 10 for value in values):
                raise ValueError(f"grid.{name}={values}: give sizes of 10 or more")
        fewest = min(self.fewest_pairs, self.measured)
        if fewest * self.validation_fraction < FEWEST_HELD_OUT:
            raise ValueError(
                f"grid.pairs={self.pairs}: of {fewest} pairs too few are held out to choose and to "
                f"measure alignment on ({FEWEST_HELD_OUT}); give larger sizes"
            )
        if "none" in [*self.aligners, *self.reverse_aligners, *self.share_aligners]:
            raise ValueError("`none` is no aligner of a row; the row without one is `omission`")
        return self

    @property
    def most_pairs(self) -> int:
        """Pairs that are read: as many as any cell takes."""
        local = self.local_pairs if LOCAL in self.methods else []
        others = [*local, *(self.translated_rows or []), self.measured]
        return max([*self._aligned_pairs, *others])

    @property
    def fewest_pairs(self) -> int:
        """The fewest that an aligner is trained on."""
        return min(self._aligned_pairs)

    @property
    def measured(self) -> int:
        """Pairs on whose held-out rows alignment is measured in every cell.

        No aligner is trained on those rows, be it of fewer pairs or of more (see `Subset`).
        """
        return self.measured_pairs or self.fewest_pairs

    @property
    def _aligned_pairs(self) -> list[int]:
        return [*self.pairs, *(self.share_pairs if "data-share" in self.methods else [])]

    def sizes_of(self, method: RowName) -> list[int]:
        """Task rows of a method's cells, ascending."""
        if method not in OF_PAIRS:
            return sorted(self.rows)
        if self.translated_rows is not None:
            return sorted(self.translated_rows)
        return sorted(size for size in self.rows if size <= self.most_pairs)

    def kinds_of(self, method: RowName) -> list[AlignerKind]:
        """Aligner kinds of a method's cells; none for the rows without an aligner."""
        return {
            "langalign": self.aligners,
            "rev-langalign": self.reverse_aligners,
            "data-share": self.share_aligners,
        }.get(method, [])


class BenchmarkConfig(Section):
    """Everything a benchmark needs."""

    name: str = Field("benchmark", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="run name")
    title: str = Field("", description="heading of the report; unset: the name")
    storage: str | None = Field(
        None, description="folder or s3://bucket/prefix; unset: LANGALIGN_STORAGE"
    )
    data: str | None = Field(None, description="folder that the studies' paths are relative to")
    is_published: bool = Field(
        False, description="the data are the paper's, so its figures stand beside ours"
    )
    studies: list[StudyConfig] = Field(
        ...,
        min_length=1,
        description="tasks and languages: name, target_language, train, "
        "parallel, test, native, task, target (columns and labels that differ), rows, pairs",
    )
    grid: GridConfig = GridConfig()
    encoder: EncoderConfig = EncoderConfig()
    tune: TuneConfig = TuneConfig()
    aligner: AlignStepConfig = AlignStepConfig()
    head: HeadConfig = HeadConfig()
    lora: LoraConfig = LoraConfig()
    simcse: SimcseConfig = SimcseConfig()
    local: LocalConfig = LocalConfig()
    costs: CostsConfig = CostsConfig()
    cluster: GroupsConfig = GroupsConfig()

    def grid_of(self, study: StudyConfig) -> GridConfig:
        """The grid with the study's own sizes."""
        sizes = {"rows", "pairs", "share_pairs", "local_pairs", "measured_pairs"}
        own = study.model_dump(include=sizes, exclude_none=True)
        return GridConfig.model_validate({**self.grid.model_dump(), **own})

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        for study in self.studies:
            self.grid_of(study)
        names = [study.name for study in self.studies]
        if len(set(names)) < len(names):
            raise ValueError(f"studies are named {', '.join(names)}; give each a name of its own")
        if self.head.train != ["head"]:
            raise ValueError(
                f"head.train={self.head.train}: a benchmark runs on frozen embeddings; "
                f"set head.train=[head]"
            )
        if self.tune.rows in ("translated", "both"):
            raise ValueError(
                f"tune.rows={self.tune.rows}: step 1 of a benchmark is the paper's, on English "
                f"rows; set tune.rows=english or none"
            )
        return self


@dataclass(frozen=True)
class Cell:
    """One figure: what was trained, on how much, and for which test rows."""

    study: str
    language: str
    method: str
    aligner: str
    rows: int
    pairs: int | None
    seed: int

    @property
    def label(self) -> str:
        """As in `sa-ko langalign ae, 5,000 rows, 2,000 pairs, seed 0`."""
        kind = "" if self.aligner == "none" else f" {self.aligner}"
        pairs = "" if self.pairs is None else f", {self.pairs:,} pairs"
        return f"{self.study} {self.method}{kind}, {self.rows:,} rows{pairs}, seed {self.seed}"

    def values(self) -> dict[str, Any]:
        """As plain values, for a manifest."""
        return asdict(self)


def cells(study: StudyConfig, grid: GridConfig, seed: int) -> Iterator[Cell]:
    """All cells of one study and seed, in the order of the config."""
    for method in grid.methods:
        pairs = grid.share_pairs if method == "data-share" else grid.pairs
        for rows in grid.sizes_of(method):
            if method == LOCAL:
                for size in sorted(grid.local_pairs):
                    yield Cell(study.name, study.target_language, method, "none", rows, size, seed)
                continue
            if method not in ALIGNED:
                yield Cell(study.name, study.target_language, method, "none", rows, None, seed)
                continue
            for size in sorted(pairs):
                for kind in grid.kinds_of(method):
                    yield Cell(study.name, study.target_language, method, kind, rows, size, seed)
