"""Which of the paper's findings a benchmark shows: paired differences over seeds, and a verdict.

A finding compares two sets of cells. Within a seed the difference is the mean over all sizes that
both have; the interval and the test are over seeds.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from langalign.benchmarkresult import Estimate, estimate, paired_p
from langalign.benchmarktables import Entry, Key, ResultSet, TextTable, row_label

__all__ = ["Finding", "findings", "findings_table"]

# Two ways are about equal where they are no further apart than this, in points.
EQUAL_POINTS = 2.0


@dataclass(frozen=True)
class Finding:
    """One comparison in one study: `difference` is in `unit`, and expected to be over 0.

    Where `is_equality`, it is expected to lie within `EQUAL_POINTS` of 0.
    """

    study: str
    claim: str
    what: str
    difference: Estimate
    p: float | None
    unit: str = "points"
    is_equality: bool = False

    @property
    def verdict(self) -> str:
        """Holds, does not hold, or open: the interval is on both sides of what was expected."""
        half = self.difference.half_width
        if half is None:
            return "one seed only"
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
    lines = []
    for study in studies:
        for finding in findings(results, study):
            mean, half = finding.difference.mean, finding.difference.half_width
            digits = 1 if finding.unit == "points" else 3
            interval = "" if half is None else f" ± {half:.{digits}f}"
            p = "" if finding.p is None else f"{finding.p:.3f}"
            lines.append(
                tuple(
                    Entry(text)
                    for text in (
                        study,
                        finding.claim,
                        finding.what,
                        f"{mean:+.{digits}f}{interval} {finding.unit}",
                        p,
                        finding.verdict,
                    )
                )
            )
    note = (
        "Difference: mean over the sizes that both sides have, then mean and 95 % interval over "
        "seeds; p of a paired t-test. Open: the interval does not decide. About equal: within "
        f"{EQUAL_POINTS:g} points."
    )
    header = ("study", "the paper's finding", "shown by", "difference", "p", "verdict")
    return TextTable("Which of the paper's findings hold", header, lines, note)


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
    def differences(seed: int) -> Iterator[float]:
        for one, other in pairs:
            scores = results.scores(one).get(seed), results.scores(other).get(seed)
            if scores[0] is not None and scores[1] is not None:
                yield scores[0] - scores[1]

    pairs = list(pairs)
    by_seed = _by_seed(results, differences)
    if by_seed:
        zeros = dict.fromkeys(by_seed, 0.0)
        difference, p = estimate(list(by_seed.values())), paired_p(by_seed, zeros)
        yield Finding(study, claim, what, difference, p, is_equality=is_equality)


def _closer(
    results: ResultSet, study: str, claim: str, what: str, keys: list[Key]
) -> Iterator[Finding]:
    def differences(seed: int) -> Iterator[float]:
        for key in keys:
            cell = results.found[key].get(seed)
            if cell is not None and cell.is_done and cell.alignment:
                yield cell.alignment["after"]["cosine"] - cell.alignment["before"]["cosine"]

    by_seed = _by_seed(results, differences)
    if by_seed:
        p = paired_p(by_seed, dict.fromkeys(by_seed, 0.0))
        yield Finding(study, claim, what, estimate(list(by_seed.values())), p, unit="cosine")


def _by_seed(results: ResultSet, differences: Callable[[int], Iterable[float]]) -> dict[int, float]:
    seeds = sorted({seed for cells in results.found.values() for seed in cells})
    found = {seed: list(differences(seed)) for seed in seeds}
    return {seed: statistics.fmean(values) for seed, values in found.items() if values}


def _aligned(results: ResultSet, study: str) -> Iterator[tuple[str, str]]:
    """(aligner, method) of the paper's own kinds, in each method that has cells of them."""
    for method in ("langalign", "data-share", "rev-langalign"):
        kinds = dict.fromkeys(key.aligner for key in results.keys(study, method))
        yield from ((kind, method) for kind in kinds if kind in ("fc", "ae"))


def _key(study: str, method: str, rows: int) -> Key:
    return Key(study, method, "none", 0, rows)


def _replaced(key: Key, *, method: str | None = None, rows: int | None = None) -> Key:
    return Key(key.study, method or key.method, key.aligner, key.pairs, rows or key.rows)
