"""The tables of a benchmark, in the paper's layout: methods go down, sizes across.

Scores are in points, 0 to 100: the mean over seeds and half the width of its 95 % interval. Nothing
here knows of HTML or Markdown.
"""

from collections.abc import Sequence

from langalign.benchmarkcells import MEASURES, NAMES, PAPER_KINDS, Key, ResultSet, row_label
from langalign.benchmarkresult import estimate, paired_p
from langalign.figures import MISSING
from langalign.published import COSINES, published_score
from langalign.texttables import Entry, TextTable

__all__ = ["OVER_SEEDS", "alignment_table", "cosine_table", "score_table"]

# Below this p a difference is marked.
SIGNIFICANT = 0.05
# What an interval of scores says, and what it leaves out.
OVER_SEEDS = (
    "Intervals are over seeds, which draw the training rows and pairs; test rows are the same for "
    "every seed, and their sampling error is not in the interval."
)
_ALIGNMENT_SEEDS = "Mean and 95 % interval over seeds, which draw the rows and the pairs."
_PUBLISHED = "In brackets: the paper's figure."
_TRAINED_ON = {"native": "target", "translated": "target", "lora": "target", "simcse": "target"}
_TRAINED_ON["translated-local"] = "target"


def score_table(
    results: ResultSet, study: str, methods: Sequence[str], title: str, *, is_published: bool
) -> TextTable:
    """Table 3's layout; only methods with a cell have a line.

    Aligners that the paper does not have stand below all lines of its own.
    """
    sizes = results.sizes(study, methods)
    rows = [row for method in methods for row in results.rows_of(study, method)]
    lines = []
    for method, aligner, pairs in sorted(rows, key=_is_extra):
        scores = (
            _score(results, Key(study, method, aligner, pairs, size), is_published=is_published)
            for size in sizes
        )
        label = Entry(row_label(method, aligner, pairs))
        lines.append((label, Entry(_TRAINED_ON.get(method, "English")), *scores))
    note = (
        f"{results.metric(study)} on test rows, in points; mean and 95 % interval over seeds. "
        f"{OVER_SEEDS} † differs from English-only on the same number of rows (paired t-test over "
        f"seeds, p < {SIGNIFICANT}). Bold: above the translated rows of the same size. Underlined: "
        "above the most translated rows there are, by more English rows."
    )
    if any(map(_is_extra, rows)):
        note += " Last: the aligners that the paper does not have."
    note += f" {_PUBLISHED}" if is_published else ""
    header = ("method", "task rows", *(f"{size:,}" for size in sizes))
    return TextTable(title, header, lines, note)


def _is_extra(row: tuple[str, str, int]) -> bool:
    """Whether a row (method, aligner, pairs) is this project's and not the paper's."""
    return row[1] not in ("none", *PAPER_KINDS)


def cosine_table(results: ResultSet, study: str, *, is_published: bool) -> TextTable:
    """Table 9's layout: mean cosine of held-out pairs by parallel corpus size."""
    keys = results.keys(study, "langalign")
    sizes = sorted({key.pairs for key in keys})
    most = max((key.rows for key in keys), default=0)
    kinds = list(dict.fromkeys(key.aligner for key in keys))
    wanted = [("translated – English", "before", kinds[0])] if kinds else []
    wanted += [(f"English – {kind}", "moved", kind) for kind in kinds]
    wanted += [(f"translated – {kind}", "after", kind) for kind in kinds]
    published = COSINES.get(study, {}) if is_published else {}
    lines = []
    for label, when, kind in wanted:
        paper = published.get((when, "none" if when == "before" else kind), {})
        fields = [
            _cosine(results, Key(study, "langalign", kind, size, most), when, paper.get(size))
            for size in sizes
        ]
        lines.append((Entry(label), *fields))
    header = ("between", *(f"{size:,} pairs" for size in sizes))
    note = (
        f"Mean cosine of {_held_out(results, keys)}; step 1 on {most:,} English rows. "
        f"{_ALIGNMENT_SEEDS}"
    )
    note += f" {_PUBLISHED}" if published else ""
    return TextTable(f"Table 9: cosine similarity, {study}", header, lines, note)


def alignment_table(results: ResultSet, study: str) -> TextTable:
    """All measures before and after each aligner, at the largest sizes."""
    keys = results.keys(study, "langalign") + results.keys(study, "rev-langalign")
    most = max((key.rows for key in keys), default=0)
    pairs = max((key.pairs for key in keys), default=0)
    chosen = [key for key in keys if (key.rows, key.pairs) == (most, pairs)]
    wanted: list[tuple[str, Key, str]] = []
    for method in ("langalign", "rev-langalign"):
        mine = [key for key in chosen if key.method == method]
        wanted += [(f"{NAMES[method]}: before", key, "before") for key in mine[:1]]
        wanted += [(f"{NAMES[method]} {key.aligner}: after", key, "after") for key in mine]
    lines = [
        (Entry(label), *(_measure(results, key, when, name) for name in MEASURES))
        for label, key, when in wanted
    ]
    header = ("pairs", "cosine", "retrieval there", "retrieval back", "CKA", "language told")
    note = (
        f"On {_held_out(results, chosen)}; {pairs:,} pairs trained on, step 1 on {most:,} rows. "
        f"{_ALIGNMENT_SEEDS} Retrieval: the translation is the nearest neighbour. Language told: "
        "accuracy of a linear probe that tells the languages apart, 0.5 is chance."
    )
    return TextTable(f"Alignment, {study}", header, lines, note)


def _score(results: ResultSet, key: Key, *, is_published: bool) -> Entry:
    if key not in results.found:
        return Entry(MISSING)
    scores = results.scores(key)
    if not scores:
        return _failed(results, key)
    text = _with_interval(list(scores.values()), 1)
    english = results.scores(Key(key.study, "english", "none", 0, key.rows))
    p = paired_p(scores, english) if key.method != "english" else None
    paper = published_score(key.study, key.method, key.aligner, key.pairs or None, key.rows)
    text += "†" if p is not None and p < SIGNIFICANT else ""
    text += f" ({paper:.1f})" if is_published and paper is not None else ""
    is_aligned = key.method in ("langalign", "rev-langalign", "data-share")
    same, most = _translated(results, key)
    mean = estimate(list(scores.values())).mean
    return Entry(
        text,
        (key,),
        is_bold=is_aligned and same is not None and mean > same,
        is_underlined=is_aligned and same is None and most is not None and mean > most,
    )


def _translated(results: ResultSet, key: Key) -> tuple[float | None, float | None]:
    """Means of the translated rows: of the same size, and of the most, where they are fewer.

    None too where a cell of them has failed.
    """
    keys = results.keys(key.study, "translated")
    means = {k.rows: estimate(list(s.values())).mean for k in keys if (s := results.scores(k))}
    most = max((each.rows for each in keys), default=0)
    return means.get(key.rows), means.get(most) if most < key.rows else None


def _cosine(results: ResultSet, key: Key, when: str, paper: float | None) -> Entry:
    found = _measure(results, key, when, "cosine")
    if paper is None or not results.measures(key, when, "cosine"):
        return found
    return Entry(f"{found.text} ({paper:.3f})", found.keys)


def _measure(results: ResultSet, key: Key, when: str, name: str) -> Entry:
    if key not in results.found:
        return Entry(MISSING)
    values = results.measures(key, when, name)
    if not values:
        return _failed(results, key)
    return Entry(_with_interval(list(values.values()), 3), (key,))


def _failed(results: ResultSet, key: Key) -> Entry:
    cells = results.found[key]
    failed = sum(not cell.is_done for cell in cells.values())
    return Entry(f"failed ({failed} of {len(cells)})" if failed else MISSING, (key,))


def _held_out(results: ResultSet, keys: Sequence[Key]) -> str:
    count = results.measured_pairs(keys)
    return f"{count} held out" if count else "held-out pairs"


def _with_interval(values: Sequence[float], digits: int) -> str:
    found = estimate(values)
    mean = f"{found.mean:.{digits}f}"
    return mean if found.half_width is None else f"{mean} ± {found.half_width:.{digits}f}"
