"""Does alignment go with transfer? Rank correlations over the cells of a benchmark.

ALIGN-MLM reports 0.727 between the alignment of word embeddings and zero-shot transfer over its
counterpart languages (Tang, Deshpande and Narasimhan, 2022).
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats  # type: ignore[import-untyped]

from langalign.benchmarkcells import MEASURES, Key, ResultSet
from langalign.texttables import Entry, TextTable, of_cells

__all__ = ["Correlation", "correlation_table", "correlations"]

# With fewer points a rank correlation says nothing.
FEWEST_POINTS = 6
WORDS = "words"


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of a measure of alignment with a score, over `points` of one task."""

    task: str
    measure: str
    score: str
    rho: float
    p: float
    points: int
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class _Point:
    value: float
    score: float
    keys: tuple[Key, ...]


def correlations(results: ResultSet, tasks: Mapping[str, str]) -> list[Correlation]:
    """Of alignment before any aligner with English-only scores, and after it with LangAlign's.

    `tasks` holds the task's name by study; scores of different tasks or metrics are no one scale,
    so each has its own correlations. A measure that does not vary, or has fewer than six points,
    is left out.
    """
    alike: dict[str, list[str]] = {}
    for study, task in tasks.items():
        if any(key.study == study for key in results.found):
            alike.setdefault(f"{task}, {results.metric(study)}", []).append(study)
    found: list[Correlation] = []
    for task, studies in alike.items():
        for name in MEASURES:
            points = _word_points(results, studies, name)
            found += _correlation(task, f"word embeddings: {name}", "English-only", points)
        for name in MEASURES:
            points = _zero_shot_points(results, studies, name)
            found += _correlation(task, f"sentences: {name}", "English-only", points)
        for name in MEASURES:
            points = _aligned_points(results, studies, name)
            found += _correlation(task, f"sentences after A: {name}", "LangAlign", points)
    return found


def correlation_table(results: ResultSet, tasks: Mapping[str, str]) -> TextTable:
    """A line for each measure."""
    lines = [
        (
            *(Entry(text) for text in (each.task, each.measure, each.score)),
            *of_cells((f"{each.rho:+.3f}", f"{each.p:.3f}", str(each.points)), each.keys),
        )
        for each in correlations(results, tasks)
    ]
    count = results.measured_pairs(key for s in tasks for key in results.keys(s, "langalign"))
    over = f" Sentences: of {count} held out." if count else ""
    note = (
        "Spearman's rho within a task and metric, over studies, seeds and sizes; that of word "
        "embeddings over encoders, with the mean score over seeds and sizes. ALIGN-MLM gives 0.727 "
        f"for word embeddings over its counterpart languages.{over} Points that share an encoder "
        "are not independent, so p of sentences is too small."
    )
    header = ("task", "measure of alignment", "score of", "rho", "p", "points")
    return TextTable("Alignment and transfer", header, lines, note)


def _word_points(results: ResultSet, studies: Sequence[str], name: str) -> Iterator[_Point]:
    """One for each base encoder, which all seeds and sizes of a study share.

    An encoder with a failed cell has none: the mean over the others would be one of other sizes.
    """
    alike: dict[tuple[tuple[str, float], ...], list[Key]] = {}
    for study in studies:
        words = _words(results, study)
        if name in words:
            keys = results.keys(study, "english")
            # Studies with one encoder measure the same on it.
            alike.setdefault(tuple(sorted(words.items())), []).extend(keys)
    for encoder, keys in alike.items():
        scores = [results.scores(key) for key in keys]
        if keys and all(scores):
            mean = statistics.fmean(statistics.fmean(found.values()) for found in scores)
            yield _Point(dict(encoder)[name], mean, tuple(keys))


def _words(results: ResultSet, study: str) -> Mapping[str, float]:
    """What was measured on the word embeddings of a study's encoder; empty if nothing was."""
    for key in results.keys(study, "langalign"):
        for cell in results.found[key].values():
            if WORDS in cell.alignment:
                return cell.alignment[WORDS]
    return {}


def _zero_shot_points(results: ResultSet, studies: Sequence[str], name: str) -> Iterator[_Point]:
    """The plain encoder's measure, which any LangAlign cell has, with the English-only score."""
    for study in studies:
        keys = results.keys(study, "langalign")
        most = max((key.pairs for key in keys), default=0)
        for key in keys:
            if (key.aligner, key.pairs) != (keys[0].aligner, most):
                continue
            english = Key(study, "english", "none", 0, key.rows)
            yield from _points(results, key, "before", name, results.scores(english), english)


def _aligned_points(results: ResultSet, studies: Sequence[str], name: str) -> Iterator[_Point]:
    for study in studies:
        for key in results.keys(study, "langalign"):
            yield from _points(results, key, "after", name, results.scores(key), key)


def _points(
    results: ResultSet, key: Key, when: str, name: str, scores: Mapping[int, float], scored: Key
) -> Iterator[_Point]:
    """One for each seed that has both."""
    for seed, value in results.measures(key, when, name).items():
        if seed in scores:
            yield _Point(value, scores[seed], (key, scored))


def _correlation(
    task: str, measure: str, score: str, points: Iterator[_Point]
) -> Iterator[Correlation]:
    known = list(points)
    values, scores = [point.value for point in known], [point.score for point in known]
    if len(known) < FEWEST_POINTS or len(set(values)) < 2 or len(set(scores)) < 2:
        return
    rho, p = stats.spearmanr(values, scores)
    keys = tuple(dict.fromkeys(key for point in known for key in point.keys))
    yield Correlation(task, measure, score, float(rho), float(p), len(known), keys)
