"""The report of a benchmark: one HTML page and the same in Markdown, from tables and figures.

In both every figure leads to its line in the index of cells, and from there to the manifest of
each seed, which lies beside the report in `cells/`.
"""

from collections.abc import Mapping, Sequence
from html import escape

from langalign.benchmarkgrid import BenchmarkConfig
from langalign.benchmarkplots import benchmark_plots
from langalign.benchmarkresult import CellResult, CellStore
from langalign.benchmarktables import (
    Entry,
    ResultSet,
    TextTable,
    alignment_table,
    cell_index,
    cosine_table,
    failure_table,
    score_table,
)
from langalign.correlation import correlation_table
from langalign.costs import cheapest_table, cost_table
from langalign.findings import findings_table
from langalign.page import html_image, whole_page

__all__ = ["benchmark_tables", "html_report", "markdown_report", "write_benchmark_report"]

_STYLE = "td a { color: inherit; text-decoration-style: dotted } td a + a { margin-left: .8rem }"
# The paper's tables: title, and the methods that go down.
_TABLES = (
    (
        "Tables 3, 7 and 8: task fine-tuning",
        ("english", "native", "translated", "translated-local", "langalign"),
    ),
    ("Tables 4 and 10: Rev-LangAlign", ("english", "translated", "rev-langalign")),
    ("Figure 2 in figures: ablations", ("english", "langalign", "omission", "data-share")),
    ("Tables 5 and 11: other architectures", ("translated", "lora", "simcse", "langalign")),
)
# A table is there where one of these has a cell: the others of a table are for comparison.
_SUBJECTS = (
    {"english", "langalign"},
    {"rev-langalign"},
    {"omission", "data-share"},
    {"lora", "simcse"},
)


def benchmark_tables(config: BenchmarkConfig, results: ResultSet) -> list[TextTable]:
    """All tables in their order; those without a line are left out."""
    studies = [study.name for study in config.studies]
    tables = [findings_table(results, studies), correlation_table(results, studies)]
    for study in studies:
        for (title, methods), subjects in zip(_TABLES, _SUBJECTS, strict=True):
            if any(results.keys(study, method) for method in subjects):
                tables.append(
                    score_table(
                        results,
                        study,
                        methods,
                        f"{title}, {study}",
                        is_published=config.is_published,
                    )
                )
        tables.append(cosine_table(results, study, is_published=config.is_published))
        tables.append(alignment_table(results, study))
        tables.append(cost_table(results, study, config.costs))
        tables.append(cheapest_table(results, study, config.costs))
    return [table for table in (*tables, failure_table(results)) if table.rows]


def html_report(
    config: BenchmarkConfig,
    results: ResultSet,
    images: Mapping[str, bytes],
    facts: Mapping[str, str],
) -> str:
    """The page; `facts` says what it takes to repeat the benchmark."""
    parts = [_html(table) for table in benchmark_tables(config, results)]
    parts += [html_image(name, data) for name, data in images.items()]
    parts += [_html(cell_index(results)), _html(_facts(facts))]
    return whole_page(config.title or config.name, parts, style=_STYLE)


def markdown_report(
    config: BenchmarkConfig,
    results: ResultSet,
    images: Sequence[str],
    facts: Mapping[str, str],
) -> str:
    """The same as Markdown; `images` are the names of PNG files beside it."""
    parts = [f"# {config.title or config.name}"]
    parts += [_markdown(table) for table in benchmark_tables(config, results)]
    parts += [f"![{name}]({name}.png)" for name in images]
    parts += [_markdown(cell_index(results)), _markdown(_facts(facts))]
    return "\n\n".join(parts) + "\n"


def write_benchmark_report(
    store: CellStore,
    config: BenchmarkConfig,
    cells: Sequence[CellResult],
    facts: Mapping[str, str],
) -> list[str]:
    """Write report.html, report.md and the figures into the benchmark's folder; their keys."""
    results = ResultSet.of(cells)
    images = benchmark_plots(results, [study.name for study in config.studies], config.costs)
    files = {f"{name}.png": data for name, data in images.items()}
    files["report.md"] = markdown_report(config, results, list(images), facts).encode()
    files["report.html"] = html_report(config, results, images, facts).encode()
    for name, data in files.items():
        store.storage.write_bytes(f"{store.folder}/{name}", data)
    return [f"{store.folder}/{name}" for name in files]


def _facts(facts: Mapping[str, str]) -> TextTable:
    rows = [(Entry(name), Entry(value)) for name, value in facts.items()]
    return TextTable("How it was made", ("fact", "value"), rows)


def _html(table: TextTable) -> str:
    is_index = table.title == "All cells"
    lines = ["".join(f"<th>{escape(name)}</th>" for name in table.header)]
    for row in table.rows:
        fields = (_html_field(entry, is_index=is_index) for entry in row)
        lines.append("".join(f"<td{_class(e)}>{f}</td>" for e, f in zip(row, fields, strict=True)))
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<h2>{escape(table.title)}</h2><div class="scroll"><table>{body}</table></div>{note}'


def _class(entry: Entry) -> str:
    return ' class="number"' if entry.text.lstrip("+-")[:1].isdigit() else ""


def _html_field(entry: Entry, *, is_index: bool) -> str:
    text = escape(entry.text)
    text = f"<b>{text}</b>" if entry.is_bold else text
    text = f"<u>{text}</u>" if entry.is_underlined else text
    if entry.key and is_index:
        text = f'<span id="{escape(entry.key.anchor)}">{text}</span>'
    elif entry.key:
        text = f'<a href="#{escape(entry.key.anchor)}">{text}</a>'
    links = (
        f'<a href="cells/{escape(digest)}.json">{escape(label)}</a>'
        for label, digest in entry.links
    )
    return " ".join(filter(None, [text, *links]))


def _markdown(table: TextTable) -> str:
    lines = [f"## {table.title}", "", _row(table.header), _row(["---"] * len(table.header))]
    lines += [_row([_markdown_field(entry) for entry in row]) for row in table.rows]
    return "\n".join([*lines, "", table.note] if table.note else lines)


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _markdown_field(entry: Entry) -> str:
    text = entry.text.replace("|", r"\|")
    text = f"**{text}**" if entry.is_bold else text
    text = f"<u>{text}</u>" if entry.is_underlined else text
    links = (f"[{label}](cells/{digest}.json)" for label, digest in entry.links)
    return " ".join(filter(None, [text, *links]))
