"""The report of a benchmark: one HTML page and the same in Markdown, from tables and figures.

In both every figure of a table leads to its line in the index of cells, and from there to the
manifest of each seed, which lies beside the report in `cells/`. The configuration and the versions
of packages are files beside it too.
"""

from collections.abc import Mapping, Sequence

from langalign.benchmarkcells import ResultSet
from langalign.benchmarkgrid import BenchmarkConfig
from langalign.benchmarkindex import cell_index, failure_table, several_index
from langalign.benchmarkorigin import CONFIG_FILE, VERSIONS_FILE, origin_files
from langalign.benchmarkplots import benchmark_plots
from langalign.benchmarkresult import CellResult, CellStore
from langalign.benchmarktables import alignment_table, cosine_table, score_table
from langalign.correlation import correlation_table
from langalign.costs import cheapest_table, cost_table
from langalign.findings import findings_table
from langalign.page import html_image, whole_page
from langalign.texttables import Entry, TextTable, html_table, markdown_table

__all__ = [
    "benchmark_tables",
    "html_report",
    "main_tables",
    "markdown_report",
    "write_benchmark_report",
]

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
    tasks = {study.name: study.task.name for study in config.studies}
    tables = [findings_table(results, studies), correlation_table(results, tasks)]
    for study in studies:
        tables += _score_tables(config, results, study)
        tables.append(cosine_table(results, study, is_published=config.is_published))
        tables.append(alignment_table(results, study))
        tables.append(cost_table(results, study, config.costs))
        tables.append(cheapest_table(results, study, config.costs))
    return [table for table in (*tables, failure_table(results)) if table.rows]


def main_tables(config: BenchmarkConfig, results: ResultSet) -> list[TextTable]:
    """What a job ends with: the findings, each study's first table of scores, what failed."""
    studies = [study.name for study in config.studies]
    tables = [findings_table(results, studies)]
    for study in studies:
        tables += _score_tables(config, results, study)[:1]
    return [table for table in (*tables, failure_table(results)) if table.rows]


def html_report(
    config: BenchmarkConfig,
    results: ResultSet,
    images: Mapping[str, bytes],
    facts: Mapping[str, str],
) -> str:
    """The page; `facts` says what it takes to repeat the benchmark."""
    tables = benchmark_tables(config, results)
    parts = [html_table(table) for table in tables]
    parts += [html_image(name, data) for name, data in images.items()]
    parts += [html_table(table) for table in _ending(tables, results, facts)]
    return whole_page(config.title or config.name, parts, style=_STYLE)


def markdown_report(
    config: BenchmarkConfig,
    results: ResultSet,
    images: Sequence[str],
    facts: Mapping[str, str],
) -> str:
    """The same as Markdown; `images` are the names of PNG files beside it."""
    tables = benchmark_tables(config, results)
    parts = [f"# {config.title or config.name}"]
    parts += [markdown_table(table) for table in tables]
    parts += [f"![{name}]({name}.png)" for name in images]
    parts += [markdown_table(table) for table in _ending(tables, results, facts)]
    return "\n\n".join(parts) + "\n"


def write_benchmark_report(
    store: CellStore,
    config: BenchmarkConfig,
    cells: Sequence[CellResult],
    facts: Mapping[str, str],
) -> list[str]:
    """Write the report, its figures and what it was made with into the benchmark's folder.

    Returns the keys of the files.
    """
    results = ResultSet.of(cells)
    images = benchmark_plots(results, [study.name for study in config.studies], config.costs)
    files = {f"{name}.png": data for name, data in images.items()}
    files |= origin_files(config)
    files["report.md"] = markdown_report(config, results, list(images), facts).encode()
    files["report.html"] = html_report(config, results, images, facts).encode()
    for name, data in files.items():
        store.storage.write_bytes(f"{store.folder}/{name}", data)
    return [f"{store.folder}/{name}" for name in files]


def _score_tables(config: BenchmarkConfig, results: ResultSet, study: str) -> list[TextTable]:
    """Of one study, those that have a cell of their subject."""
    return [
        score_table(results, study, methods, f"{title}, {study}", is_published=config.is_published)
        for (title, methods), subjects in zip(_TABLES, _SUBJECTS, strict=True)
        if any(results.keys(study, method) for method in subjects)
    ]


def _ending(
    tables: Sequence[TextTable], results: ResultSet, facts: Mapping[str, str]
) -> list[TextTable]:
    """Where the figures of `tables` lead to, and how all of it was made."""
    rows = [(Entry(name), Entry(value)) for name, value in facts.items()]
    files = tuple((name, name) for name in (CONFIG_FILE, VERSIONS_FILE))
    rows.append((Entry("every key, and versions"), Entry("", links=files)))
    made = TextTable("How it was made", ("fact", "value"), rows)
    return [several_index(tables), cell_index(results), made]
