"""Does alignment go with transfer? Rank correlations over the cells of a benchmark.

ALIGN-MLM reports 0.727 between the alignment of word embeddings and zero-shot transfer over its
counterpart languages (Tang, Deshpande and Narasimhan, 2022).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy import stats  # type: ignore[import-untyped]

from langalign.benchmarkresult import CellResult
from langalign.benchmarktables import Entry, Key, ResultSet, TextTable

__all__ = ["Correlation", "correlation_table", "correlations"]

# With fewer points a rank correlation says nothing.
FEWEST_POINTS = 6
_WHEN = ("words", "before")


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of a measure of alignment with a score, over `points` of cells."""

    measure: str
    score: str
    rho: float
    p: float
    points: int


def correlations(results: ResultSet, studies: Sequence[str]) -> list[Correlation]:
    """Of alignment before any aligner with English-only scores, and after it with LangAlign's.

    A measure that does not vary, or has fewer than six points, is left out.
    """
    found: list[Correlation] = []
    zero_shot = list(_zero_shot(results, studies))
    for when in _WHEN:
        names = dict.fromkeys(
            name for cell, _ in zero_shot for name in cell.alignment.get(when, {})
        )
        for name in names:
            points = [(c.alignment[when].get(name), s) for c, s in zero_shot if when in c.alignment]
            label = f"{'word embeddings' if when == 'words' else 'sentences'}: {name}"
            found += _correlation(label, "English-only", points)
    aligned = [
        (cell, 100 * cell.score)
        for study in studies
        for key in results.keys(study, "langalign")
        for cell in results.found[key].values()
        if cell.is_done and cell.alignment
    ]
    for name in dict.fromkeys(name for cell, _ in aligned for name in cell.alignment["after"]):
        points = [(cell.alignment["after"].get(name), score) for cell, score in aligned]
        found += _correlation(f"sentences after A: {name}", "LangAlign", points)
    return found


def correlation_table(results: ResultSet, studies: Sequence[str]) -> TextTable:
    """A line for each measure."""
    lines = [
        tuple(
            Entry(text)
            for text in (
                each.measure,
                each.score,
                f"{each.rho:+.3f}",
                f"{each.p:.3f}",
                str(each.points),
            )
        )
        for each in correlations(results, studies)
    ]
    note = (
        "Spearman's rho over studies, seeds and sizes. ALIGN-MLM gives 0.727 for word embeddings "
        "over its counterpart languages. Points that share an encoder are not independent, so p "
        "is too small."
    )
    header = ("measure of alignment", "score of", "rho", "p", "points")
    return TextTable("Alignment and transfer", header, lines, note)


def _zero_shot(results: ResultSet, studies: Sequence[str]) -> Iterator[tuple[CellResult, float]]:
    """A LangAlign cell, whose `before` is the plain encoder's, with the English-only score."""
    for study in studies:
        keys = results.keys(study, "langalign")
        if not keys:
            continue
        kind, pairs = keys[0].aligner, max(key.pairs for key in keys)
        for key in keys:
            if (key.aligner, key.pairs) != (kind, pairs):
                continue
            english = results.scores(Key(study, "english", "none", 0, key.rows))
            for seed, cell in results.found[key].items():
                if cell.is_done and cell.alignment and seed in english:
                    yield cell, english[seed]


def _correlation(
    measure: str, score: str, points: Sequence[tuple[float | None, float]]
) -> Iterator[Correlation]:
    known = [(value, figure) for value, figure in points if value is not None]
    values, figures = [value for value, _ in known], [figure for _, figure in known]
    if len(known) < FEWEST_POINTS or len(set(values)) < 2 or len(set(figures)) < 2:
        return
    rho, p = stats.spearmanr(values, figures)
    yield Correlation(measure, score, float(rho), float(p), len(known))
