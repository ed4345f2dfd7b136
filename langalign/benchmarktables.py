"""The tables of a benchmark, in the paper's layout: methods go down, sizes across.

Scores are in points, 0 to 100: the mean over seeds and half the width of its 95 % interval. Nothing
here knows of HTML or Markdown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from langalign.benchmarkresult import CellResult, estimate, paired_p
from langalign.figures import MISSING
from langalign.published import COSINES, published_score

__all__ = [
    "Entry",
    "Key",
    "ResultSet",
    "TextTable",
    "alignment_table",
    "cell_index",
    "cosine_table",
    "failure_table",
    "row_label",
    "score_table",
]

# Below this p a difference is marked.
SIGNIFICANT = 0.05
_NAMES = {
    "english": "English",
    "native": "native",
    "translated": "translated",
    "translated-local": "translated, local model",
    "omission": "LangAlign omitted",
    "langalign": "LangAlign",
    "rev-langalign": "Rev-LangAlign",
    "data-share": "shared data",
    "lora": "LoRA-TA",
    "simcse": "unsup. SimCSE",
}
_METRICS = {"f1": "F1", "macro_f1": "Macro F1", "accuracy": "Accuracy"}
_TRAINED_ON = {"native": "target", "translated": "target", "lora": "target", "simcse": "target"}
_TRAINED_ON["translated-local"] = "target"


@dataclass(frozen=True, order=True)
class Key:
    """What the seeds of one figure have in common."""

    study: str
    method: str
    aligner: str
    pairs: int
    rows: int

    @property
    def anchor(self) -> str:
        """Of its line in the index of cells."""
        return f"{self.study}-{self.method}-{self.aligner}-{self.pairs}-{self.rows}"


@dataclass(frozen=True)
class Entry:
    """One field of a table; `key` names the cells behind its figure, `links` their manifests."""

    text: str
    key: Key | None = None
    is_bold: bool = False
    is_underlined: bool = False
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TextTable:
    """A table as text, with a note below."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Entry, ...]]
    note: str = ""


@dataclass
class ResultSet:
    """The results of a benchmark by key and seed."""

    found: dict[Key, dict[int, CellResult]] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Iterable[CellResult]) -> "ResultSet":
        """Group results."""
        made = cls()
        for result in results:
            cell = result.cell
            key = Key(cell.study, cell.method, cell.aligner, cell.pairs or 0, cell.rows)
            made.found.setdefault(key, {})[cell.seed] = result
        return made

    def scores(self, key: Key) -> dict[int, float]:
        """In points, by seed; empty where a seed is missing or failed: no mean hides a failure."""
        cells = self.found.get(key, {})
        if not all(result.is_done for result in cells.values()):
            return {}
        return {seed: 100 * result.score for seed, result in cells.items()}

    def keys(self, study: str, method: str) -> list[Key]:
        """Of one method."""
        return [key for key in self.found if (key.study, key.method) == (study, method)]

    def rows_of(self, study: str, method: str) -> list[tuple[str, str, int]]:
        """(method, aligner, pairs) of a method's lines, in the order of kind and size."""
        keys = self.keys(study, method)
        kinds = list(dict.fromkeys(key.aligner for key in keys))
        found = {(kinds.index(key.aligner), key.pairs) for key in keys}
        return [(method, kinds[kind], pairs) for kind, pairs in sorted(found)]

    def sizes(self, study: str, methods: Iterable[str]) -> list[int]:
        """All task rows of some methods, ascending."""
        return sorted({key.rows for method in methods for key in self.keys(study, method)})

    def metric(self, study: str) -> str:
        """What the scores of a study are, as people write it."""
        return next(
            _METRICS[result.metric]
            for key, cells in self.found.items()
            if key.study == study
            for result in cells.values()
        )


def row_label(method: str, aligner: str, pairs: int) -> str:
    """As in `LangAlign ae, 2,000 pairs`."""
    kind = "" if aligner == "none" else f" {aligner}"
    return f"{_NAMES[method]}{kind}" + (f", {pairs:,} pairs" if pairs else "")


def score_table(
    results: ResultSet, study: str, methods: Sequence[str], title: str, *, is_published: bool
) -> TextTable:
    """Table 3's layout; only methods with a cell have a line."""
    sizes = results.sizes(study, methods)
    lines = []
    for method in methods:
        for _, aligner, pairs in results.rows_of(study, method):
            keys = [Key(study, method, aligner, pairs, size) for size in sizes]
            label = row_label(method, aligner, pairs)
            trained = _TRAINED_ON.get(method, "English")
            lines.append(
                (
                    Entry(label),
                    Entry(trained),
                    *(_score(results, key, is_published=is_published) for key in keys),
                )
            )
    note = (
        f"{results.metric(study)} on test rows, in points; mean and 95 % interval over seeds. "
        "† differs from English-only on the same number of rows (paired t-test over seeds, "
        f"p < {SIGNIFICANT}). Bold: above the translated rows of the same size. Underlined: above "
        "the most translated rows there are, by more English rows."
    )
    if is_published:
        note += " In brackets: the paper's figure."
    header = ("method", "task rows", *(f"{size:,}" for size in sizes))
    return TextTable(title, header, lines, note)


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
    note = f"Mean cosine of held-out pairs; step 1 on {most:,} English rows."
    return TextTable(f"Table 9: cosine similarity, {study}", header, lines, note)


def alignment_table(results: ResultSet, study: str) -> TextTable:
    """All measures before and after each aligner, at the largest sizes."""
    keys = results.keys(study, "langalign") + results.keys(study, "rev-langalign")
    most = max((key.rows for key in keys), default=0)
    pairs = max((key.pairs for key in keys), default=0)
    names = ("cosine", "retrieval_forward", "retrieval_backward", "cka", "language_id")
    chosen = [key for key in keys if (key.rows, key.pairs) == (most, pairs)]
    wanted: list[tuple[str, Key, str]] = []
    for method in ("langalign", "rev-langalign"):
        mine = [key for key in chosen if key.method == method]
        wanted += [(f"{_NAMES[method]}: before", key, "before") for key in mine[:1]]
        wanted += [(f"{_NAMES[method]} {key.aligner}: after", key, "after") for key in mine]
    lines = [
        (Entry(label), *(_measure(results, key, when, name) for name in names))
        for label, key, when in wanted
    ]
    header = ("pairs", "cosine", "retrieval there", "retrieval back", "CKA", "language told")
    note = (
        f"Held-out pairs, {pairs:,} pairs trained on, step 1 on {most:,} rows. Retrieval: the "
        "translation is the nearest neighbour. Language told: accuracy of a linear probe that "
        "tells the languages apart, 0.5 is chance."
    )
    return TextTable(f"Alignment, {study}", header, lines, note)


def failure_table(results: ResultSet) -> TextTable:
    """Every failed cell with its reason."""
    lines = [
        (Entry(result.cell.label), Entry(result.reason, links=(("manifest", result.digest),)))
        for cells in results.found.values()
        for result in cells.values()
        if not result.is_done
    ]
    return TextTable("Failed cells", ("cell", "reason"), lines)


def cell_index(results: ResultSet) -> TextTable:
    """Every figure with its seeds, each of which names its manifest."""
    lines = []
    for key, cells in results.found.items():
        links = tuple(
            (
                f"seed {seed}: {100 * cell.score:.2f}" if cell.is_done else f"seed {seed}: failed",
                cell.digest,
            )
            for seed, cell in sorted(cells.items())
        )
        label = f"{row_label(key.method, key.aligner, key.pairs)}, {key.rows:,} rows"
        lines.append((Entry(key.study), Entry(label, key=key), Entry("", links=links)))
    return TextTable("All cells", ("study", "cell", "manifests"), lines, "Scores in points.")


def _score(results: ResultSet, key: Key, *, is_published: bool) -> Entry:
    cells = results.found.get(key)
    if not cells:
        return Entry(MISSING)
    scores = results.scores(key)
    if not scores:
        failed = sum(not cell.is_done for cell in cells.values())
        return Entry(f"failed ({failed} of {len(cells)})", key)
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
        key,
        is_bold=is_aligned and same is not None and mean > same,
        is_underlined=is_aligned and same is None and most is not None and mean > most,
    )


def _translated(results: ResultSet, key: Key) -> tuple[float | None, float | None]:
    """Means of the translated rows: of the same size, and of the largest one that is smaller."""
    keys = sorted(results.keys(key.study, "translated"), key=lambda found: found.rows)
    means = {k.rows: estimate(list(s.values())).mean for k in keys if (s := results.scores(k))}
    smaller = [size for size in means if size < key.rows]
    return means.get(key.rows), means[smaller[-1]] if smaller else None


def _cosine(results: ResultSet, key: Key, when: str, paper: float | None) -> Entry:
    found = _measure(results, key, when, "cosine")
    return found if paper is None else Entry(f"{found.text} ({paper:.3f})", found.key)


def _measure(results: ResultSet, key: Key, when: str, name: str) -> Entry:
    cells = results.found.get(key, {})
    values = [
        cell.alignment[when][name]
        for cell in cells.values()
        if cell.is_done and name in cell.alignment.get(when, {})
    ]
    if len(values) < len(cells) or not values:
        return Entry("failed" if cells else MISSING, key if cells else None)
    return Entry(_with_interval(values, 3), key)


def _with_interval(values: Sequence[float], digits: int) -> str:
    found = estimate(values)
    mean = f"{found.mean:.{digits}f}"
    return mean if found.half_width is None else f"{mean} ± {found.half_width:.{digits}f}"
