"""Which of the paper's findings a benchmark shows: paired differences over seeds, and a verdict.

A finding compares two sets of cells. Within a seed the difference is the mean over all sizes that
both have; the interval and the test are over seeds.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from langalign.benchmarkcells import PAPER_KINDS, Key, ResultSet, row_label
from langalign.benchmarkresult import Estimate, estimate, paired_p
from langalign.benchmarktables import OVER_SEEDS
from langalign.figures import MISSING
from langalign.texttables import Entry, TextTable, of_cells

__all__ = ["Finding", "findings", "findings_table"]

# Two ways are about equal where they are no further apart than this, in points.
EQUAL_POINTS = 2.0


@dataclass(frozen=True)
class Finding:
    """One comparison in one study: `difference` is in `unit`, and expected to be over 0.

    Where `is_equality`, it is expected to lie within `EQUAL_POINTS` of 0. `keys` name the cells
    that are compared.
    """

    study: str
    claim: str
    what: str
    difference: Estimate
    p: float | None
    keys: tuple[Key, ...]
    unit: str = "points"
    is_equality: bool = False

    @property
    def verdict(self) -> str:
        """Holds, does not hold, or open: there is no interval, or it is on both sides."""
        half = self.difference.half_width
        if half is None:
            return "one seed only" if self.difference.seeds == 1 else "open"
        low, high = self.difference.mean - half, self.difference.mean + half
        if self.is_equality:
            if low >= -EQUAL_POINTS and high <= EQUAL_POINTS:
                return "holds"
            return "does not hold" if low > EQUAL_POINTS or high < -EQUAL_POINTS else "open"
        if low > 0:
            return "holds"
        return "does not hold" if high <= 0 else "open"


def findings(results: ResultSet, study: str) -> list[Finding]:
    """Those that the study has cells for."""
    found: list[Finding] = []
    for kind, method in _aligned(results, study):
        found += _kind_findings(results, study, kind, method)
    for name in ("native", "translated"):
        keys = results.keys(study, name)
        pairs = [(key, _key(study, "english", key.rows)) for key in keys]
        claim = f"{name} data is above English-only (section 4)"
        found += _compare(results, study, claim, name, pairs)
    local = results.keys(study, "translated-local")
    pairs = [(_key(study, "english", key.rows), key) for key in local]
    claim = "a small local translator is below English-only (section 4, vs. NMT mT5)"
    found += _compare(results, study, claim, "translated, local model", pairs)
    return found


def findings_table(results: ResultSet, studies: Iterable[str]) -> TextTable:
    """A line for each finding."""
    lines = [_line(finding) for study in studies for finding in findings(results, study)]
    note = (
        "Difference: mean over the sizes that both sides have, then mean and 95 % interval over "
        f"seeds; p of a paired t-test. {OVER_SEEDS} Open: the interval does not decide, or there "
        "is none, since the difference is the same in every seed. About equal: within "
        f"{EQUAL_POINTS:g} points."
    )
    header = ("study", "the paper's finding", "shown by", "difference", "p", "verdict")
    return TextTable("Which of the paper's findings hold", header, lines, note)


def _line(finding: Finding) -> tuple[Entry, ...]:
    mean, half = finding.difference.mean, finding.difference.half_width
    digits = 1 if finding.unit == "points" else 3
    interval = "" if half is None else f" ± {half:.{digits}f}"
    p = MISSING if finding.p is None else f"{finding.p:.3f}"
    figures = (f"{mean:+.{digits}f}{interval} {finding.unit}", p)
    return (
        Entry(finding.study),
        Entry(finding.claim),
        Entry(finding.what),
        *of_cells(figures, finding.keys),
        Entry(finding.verdict),
    )


def _kind_findings(results: ResultSet, study: str, kind: str, method: str) -> Iterator[Finding]:
    keys = [key for key in results.keys(study, method) if key.aligner == kind]
    label = row_label(method, kind, 0)
    over_english = [(key, _key(study, "english", key.rows)) for key in keys]
    if method == "rev-langalign":
        claim = "reverse is above English-only (section 4.2.3)"
        yield from _compare(results, study, claim, label, over_english)
        yield from _grown(results, study, label, keys)
        return
    if method == "data-share":
        separate = [(key, _replaced(key, method="langalign")) for key in keys]
        claim = "shared data is about equal to separate data (section 4.1)"
        yield from _compare(results, study, claim, label, separate, is_equality=True)
        return
    claim = "LangAlign is above English-only (section 4)"
    yield from _compare(results, study, claim, label, over_english)
    claim = "leaving LangAlign out is below LangAlign (section 4.1)"
    over_omission = [(key, _key(study, "omission", key.rows)) for key in keys]
    yield from _compare(results, study, claim, label, over_omission)
    claim = "cosine after is above before (section 4.2.1)"
    yield from _closer(results, study, claim, label, keys)
    yield from _grown(results, study, label, keys)
    sizes = [key.rows for key in keys]
    translated = max((key.rows for key in results.keys(study, "translated")), default=0)
    if translated and sizes and max(sizes) > translated:
        best = _key(study, "translated", translated)
        grown = [(key, best) for key in keys if key.rows == max(sizes)]
        claim = (
            f"with {max(sizes):,} English rows LangAlign is above {translated:,} translated ones "
            "(section 4)"
        )
        yield from _compare(results, study, claim, label, grown)


def _grown(results: ResultSet, study: str, label: str, keys: list[Key]) -> Iterator[Finding]:
    """The largest number of task rows against the smallest."""
    most, least = max(key.rows for key in keys), min(key.rows for key in keys)
    if most > least:
        grown = [(key, _replaced(key, rows=least)) for key in keys if key.rows == most]
        claim = f"more English data helps ({least:,} to {most:,} rows; section 4)"
        yield from _compare(results, study, claim, label, grown)


def _compare(
    results: ResultSet,
    study: str,
    claim: str,
    what: str,
    pairs: Iterable[tuple[Key, Key]],
    *,
    is_equality: bool = False,
) -> Iterator[Finding]:
    scores = {pair: (results.scores(pair[0]), results.scores(pair[1])) for pair in pairs}
    differences: dict[tuple[Key, ...], dict[int, float]] = {
        pair: {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
        for pair, (ours, theirs) in scores.items()
    }
    yield from _found(study, claim, what, differences, is_equality=is_equality)


def _closer(
    results: ResultSet, study: str, claim: str, what: str, keys: Iterable[Key]
) -> Iterator[Finding]:
    differences: dict[tuple[Key, ...], dict[int, float]] = {}
    for key in keys:
        before, after = (results.measures(key, when, "cosine") for when in ("before", "after"))
        differences[(key,)] = {seed: after[seed] - before[seed] for seed in after if seed in before}
    yield from _found(study, claim, what, differences, unit="cosine")


def _found(
    study: str,
    claim: str,
    what: str,
    differences: Mapping[tuple[Key, ...], Mapping[int, float]],
    *,
    unit: str = "points",
    is_equality: bool = False,
) -> Iterator[Finding]:
    """A finding from differences by cells and seed; none where there is no difference."""
    behind = (key for compared, by_seed in differences.items() if by_seed for key in compared)
    values: dict[int, list[float]] = {}
    for by_seed in differences.values():
        for seed, value in by_seed.items():
            values.setdefault(seed, []).append(value)
    if values:
        means = {seed: statistics.fmean(found) for seed, found in sorted(values.items())}
        p = paired_p(means, dict.fromkeys(means, 0.0))
        difference = estimate(list(means.values()))
        keys = tuple(dict.fromkeys(behind))
        yield Finding(study, claim, what, difference, p, keys, unit, is_equality)


def _aligned(results: ResultSet, study: str) -> Iterator[tuple[str, str]]:
    """(aligner, method) of the paper's own kinds, in each method that has cells of them."""
    for method in ("langalign", "data-share", "rev-langalign"):
        kinds = dict.fromkeys(key.aligner for key in results.keys(study, method))
        yield from ((kind, method) for kind in kinds if kind in PAPER_KINDS)


def _key(study: str, method: str, rows: int) -> Key:
    return Key(study, method, "none", 0, rows)


def _replaced(key: Key, *, method: str | None = None, rows: int | None = None) -> Key:
    return Key(key.study, method or key.method, key.aligner, key.pairs, rows or key.rows)
