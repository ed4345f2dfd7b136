"""Results of a benchmark: a manifest for every cell, and means, intervals and tests over seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from langalign.benchmarkgrid import Cell
from langalign.storage import Storage

__all__ = ["CONFIDENCE", "CellResult", "CellStore", "Estimate", "estimate", "paired_p"]

CONFIDENCE = 0.95
# Figures, in points or cosines, that are no further apart differ by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CellResult:
    """What came of a cell: its scores by metric, or the reason why there are none.

    `alignment` holds the measures of the held-out pairs `before` (with their number, `pairs`) and
    `after` the aligner, and the cosine of a source sentence and its own image (`moved`). `seconds`
    is what the cell takes by step, as if it were alone: `translator` (training a local one, and
    translating by it), `tune` (step 1 and what comes before it), `embed`, `align` and `head`.
    `made_from` names encoder, rows, options and versions; it is empty in a manifest that was
    written before there was one, and where a cell has failed.
    """

    cell: Cell
    digest: str
    status: Literal["done", "failed"]
    metric: str
    scores: Mapping[str, float]
    alignment: Mapping[str, Mapping[str, float]]
    epochs: Mapping[str, int]
    seconds: Mapping[str, float]
    counts: Sequence[Sequence[int]]
    reason: str = ""
    made_from: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether there is a score."""
        return self.status == "done"

    @property
    def score(self) -> float:
        """The task's metric, in 0 to 1."""
        return self.scores[self.metric]

    def manifest(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "cell": self.cell.values(),
            "digest": self.digest,
            "status": self.status,
            "reason": self.reason,
            "metric": self.metric,
            "scores": dict(self.scores),
            "confusion": [list(row) for row in self.counts],
            "alignment": {when: dict(values) for when, values in self.alignment.items()},
            "epochs": dict(self.epochs),
            "seconds": dict(self.seconds),
            "made_from": dict(self.made_from),
        }

    @classmethod
    def failure(cls, cell: Cell, digest: str, metric: str, reason: str) -> "CellResult":
        """A cell without a score."""
        return cls(cell, digest, "failed", metric, {}, {}, {}, {}, [], " ".join(reason.split()))


@dataclass(frozen=True)
class CellStore:
    """The manifests of a benchmark, `<folder>/cells/<digest>.json`."""

    storage: Storage
    folder: str

    def key(self, digest: str) -> str:
        """Storage key of a manifest."""
        return f"{self.folder}/cells/{digest}.json"

    def write(self, result: CellResult) -> None:
        """Keep a result; one that is there is replaced."""
        self.storage.write_json(self.key(result.digest), result.manifest())

    def read(self, digest: str) -> CellResult:
        """The result of a digest.

        Raises:
            ObjectMissing: there is none.
        """
        found = self.storage.read_json(self.key(digest))
        return CellResult(
            cell=Cell(**found["cell"]),
            digest=digest,
            status=found["status"],
            metric=found["metric"],
            scores=found["scores"],
            alignment=found["alignment"],
            epochs=found["epochs"],
            seconds=found["seconds"],
            counts=found["confusion"],
            reason=found["reason"],
            made_from=found.get("made_from", {}),
        )

    def digests(self) -> set[str]:
        """Of all manifests, failed ones too."""
        keys = (item.key for item in self.storage.list(f"{self.folder}/cells"))
        return {key.rpartition("/")[2].removesuffix(".json") for key in keys}

    def done(self, digests: Iterable[str]) -> dict[str, CellResult]:
        """Those of `digests` that have a score, by digest."""
        found = (self.read(digest) for digest in self.digests() & set(digests))
        return {result.digest: result for result in found if result.is_done}


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, and half the width of its interval.

    None where there is no interval: with one seed, and where the figures do not vary, which with a
    few seeds says nothing of how they would.
    """

    mean: float
    half_width: float | None
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """Student's t interval of a mean at 95 %; `values` holds one figure for each seed."""
    count = len(values)
    mean = statistics.fmean(values)
    if count < 2 or max(values) - min(values) <= _ROUNDING:
        return Estimate(mean, None, count)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return Estimate(mean, quantile * statistics.stdev(values) / math.sqrt(count), count)


def paired_p(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """Two-sided p of a paired t-test over the seeds that both have; None with fewer than two.

    None too where the differences do not vary but for rounding, of which the test can say nothing;
    where they are all 0 it is 1.
    """
    seeds = sorted(set(ours) & set(theirs))
    if len(seeds) < 2:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    if np.ptp(differences) <= _ROUNDING:
        return 1.0 if np.abs(differences).max() <= _ROUNDING else None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
