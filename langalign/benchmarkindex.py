"""Where the figures of a benchmark's report lead to: the cells behind each, and their manifests."""

from collections.abc import Iterable

from langalign.benchmarkcells import ResultSet, key_label
from langalign.texttables import Entry, TextTable, anchor_of

__all__ = ["INDEX_TITLES", "cell_index", "failure_table", "several_index"]

INDEX_TITLES = ("Figures of several cells", "All cells")


def several_index(tables: Iterable[TextTable]) -> TextTable:
    """The lines that figures of several cells lead to; each lists those of the cells."""
    lines: dict[str, tuple[Entry, ...]] = {}
    for table in tables:
        for row in table.rows:
            for entry in row:
                anchor = anchor_of(entry.keys) if len(entry.keys) > 1 else ""
                if anchor and anchor not in lines:
                    name = ", ".join([table.title, *(e.text for e in row if not e.keys)])
                    links = tuple(
                        (f"{k.study}: {key_label(k)}", f"#{k.anchor}") for k in entry.keys
                    )
                    lines[anchor] = Entry(name, anchor=anchor), Entry("", links=links)
    return TextTable(INDEX_TITLES[0], ("figure", "cells"), list(lines.values()))


def cell_index(results: ResultSet) -> TextTable:
    """Every key with its seeds, each of which leads to its manifest."""
    lines = []
    for key, cells in results.found.items():
        links = tuple(
            (
                f"seed {seed}: {100 * cell.score:.2f}" if cell.is_done else f"seed {seed}: failed",
                _manifest(cell.digest),
            )
            for seed, cell in sorted(cells.items())
        )
        place = Entry(key_label(key), anchor=key.anchor)
        lines.append((Entry(key.study), place, Entry("", links=links)))
    return TextTable(INDEX_TITLES[1], ("study", "cell", "manifests"), lines, "Scores in points.")


def failure_table(results: ResultSet) -> TextTable:
    """Every failed cell with its reason."""
    lines = [
        (
            Entry(result.cell.label),
            Entry(result.reason, links=(("manifest", _manifest(result.digest)),)),
        )
        for cells in results.found.values()
        for result in cells.values()
        if not result.is_done
    ]
    return TextTable("Failed cells", ("cell", "reason"), lines)


def _manifest(digest: str) -> str:
    return f"cells/{digest}.json"
