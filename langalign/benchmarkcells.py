"""The results of a benchmark by figure: the seeds that a mean is taken over, and what they gave."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from langalign.benchmarkresult import CellResult

__all__ = [
    "MEASURES",
    "METRICS",
    "NAMES",
    "PAPER_KINDS",
    "Key",
    "ResultSet",
    "key_label",
    "row_label",
]

# Of alignment, in the order of the tables; a manifest has counts beside them.
MEASURES = ("cosine", "retrieval_forward", "retrieval_backward", "cka", "language_id")
# The paper's own aligners; the other kinds are this project's.
PAPER_KINDS = ("fc", "ae")
METRICS = {"f1": "F1", "macro_f1": "Macro F1", "accuracy": "Accuracy"}
NAMES = {
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
        """In points, by seed; empty where a seed has failed: no mean hides a failure."""
        cells = self.found.get(key, {})
        if not all(result.is_done for result in cells.values()):
            return {}
        return {seed: 100 * result.score for seed, result in cells.items()}

    def measures(self, key: Key, when: str, name: str) -> dict[int, float]:
        """A measure of alignment by seed; empty where a seed has failed or was not measured."""
        cells = self.found.get(key, {})
        known = {
            seed: result.alignment[when][name]
            for seed, result in cells.items()
            if result.is_done and name in result.alignment.get(when, {})
        }
        return known if len(known) == len(cells) else {}

    def measured_pairs(self, keys: Iterable[Key]) -> str:
        """Over how many pairs alignment was measured, as `300 pairs`; empty if no cell says so."""
        counts = {
            int(result.alignment["before"]["pairs"])
            for key in keys
            for result in self.found[key].values()
            if "pairs" in result.alignment.get("before", {})
        }
        if not counts:
            return ""
        least, most = min(counts), max(counts)
        return f"{most:,} pairs" if least == most else f"{least:,} to {most:,} pairs"

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
            METRICS[result.metric]
            for key, cells in self.found.items()
            if key.study == study
            for result in cells.values()
        )


def row_label(method: str, aligner: str, pairs: int) -> str:
    """As in `LangAlign ae, 2,000 pairs`."""
    kind = "" if aligner == "none" else f" {aligner}"
    return f"{NAMES[method]}{kind}" + (f", {pairs:,} pairs" if pairs else "")


def key_label(key: Key) -> str:
    """As in `LangAlign ae, 2,000 pairs, 5,000 rows`."""
    return f"{row_label(key.method, key.aligner, key.pairs)}, {key.rows:,} rows"
