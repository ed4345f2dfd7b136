"""Tables of a benchmark as text, and how they look: HTML, Markdown, a console, plain values.

A figure leads to the cells behind it: one key to its line in the index of cells, several to a line
that lists them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.table import Table
from rich.text import Text

from langalign.benchmarkcells import Key
from langalign.outputs import digest_of

__all__ = [
    "Entry",
    "TextTable",
    "anchor_of",
    "console_table",
    "html_table",
    "markdown_table",
    "of_cells",
]


@dataclass(frozen=True)
class Entry:
    """One field of a table.

    `keys` name the cells behind its figure; `anchor` makes it the place that such figures lead to;
    `links` are what it lists, as (text, address).
    """

    text: str
    keys: tuple[Key, ...] = ()
    is_bold: bool = False
    is_underlined: bool = False
    anchor: str = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TextTable:
    """A table as text, with a note below."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Entry, ...]]
    note: str = ""

    def values(self) -> dict[str, Any]:
        """As plain values, without links and marks."""
        rows = [[entry.text for entry in row] for row in self.rows]
        return {"title": self.title, "header": list(self.header), "rows": rows, "note": self.note}


def of_cells(texts: Iterable[str], keys: Iterable[Key]) -> tuple[Entry, ...]:
    """Fields that the same cells are behind."""
    behind = tuple(dict.fromkeys(keys))
    return tuple(Entry(text, behind) for text in texts)


def anchor_of(keys: Sequence[Key]) -> str:
    """Where a figure of these cells leads to."""
    anchors = [key.anchor for key in keys]
    return anchors[0] if len(anchors) == 1 else f"of-{digest_of(*anchors)[:12]}"


def console_table(table: TextTable) -> Table:
    """For a rich console; the note stands below."""
    made = Table(title=table.title, caption=table.note or None, caption_justify="left")
    for name in table.header:
        made.add_column(name, overflow="fold")
    for row in table.rows:
        # Text, because brackets in a name are not markup.
        made.add_row(*(Text(entry.text, style=_console_style(entry)) for entry in row))
    return made


def _console_style(entry: Entry) -> str:
    marks = {"bold": entry.is_bold, "underline": entry.is_underlined}
    return " ".join(name for name, is_set in marks.items() if is_set)


def html_table(table: TextTable) -> str:
    """With a heading."""
    lines = ["".join(f"<th>{escape(name)}</th>" for name in table.header)]
    lines += ["".join(f"<td{_class(e)}>{_html(e)}</td>" for e in row) for row in table.rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<h2>{escape(table.title)}</h2><div class="scroll"><table>{body}</table></div>{note}'


def _class(entry: Entry) -> str:
    return ' class="number"' if entry.text.lstrip("+-")[:1].isdigit() else ""


def _html(entry: Entry) -> str:
    text = escape(entry.text)
    text = f"<b>{text}</b>" if entry.is_bold else text
    text = f"<u>{text}</u>" if entry.is_underlined else text
    if entry.anchor:
        text = f'<span id="{escape(entry.anchor)}">{text}</span>'
    if entry.keys:
        text = f'<a href="#{escape(anchor_of(entry.keys))}">{text}</a>'
    links = (f'<a href="{escape(address)}">{escape(label)}</a>' for label, address in entry.links)
    return " ".join(filter(None, [text, *links]))


def markdown_table(table: TextTable) -> str:
    """With a heading."""
    lines = [f"## {table.title}", "", _row(table.header), _row(["---"] * len(table.header))]
    lines += [_row([_markdown(entry) for entry in row]) for row in table.rows]
    return "\n".join([*lines, "", table.note] if table.note else lines)


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _markdown(entry: Entry) -> str:
    text = entry.text.replace("|", r"\|")
    text = f"**{text}**" if entry.is_bold else text
    text = f"<u>{text}</u>" if entry.is_underlined else text
    text = f"[{text}](#{anchor_of(entry.keys)})" if entry.keys else text
    text = f'<a id="{entry.anchor}"></a>{text}' if entry.anchor else text
    links = (f"[{label}]({address})" for label, address in entry.links)
    return " ".join(filter(None, [text, *links]))
