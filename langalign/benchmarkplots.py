"""The paper's figures 2, 3 and 4 and the cost view, from the results of a benchmark, as PNG."""

import io
import math
import statistics
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from langalign.benchmarkcells import PAPER_KINDS, Key, ResultSet, row_label
from langalign.benchmarkconfig import CostsConfig
from langalign.benchmarkresult import estimate
from langalign.costs import priced
from langalign.figures import COLOURS, DPI, WIDTH_INCHES, tidy

__all__ = ["benchmark_figures", "benchmark_plots"]

_MARKERS = "os^Dv*PX"
_LINES = ("-", "--", "-.", ":")


def benchmark_plots(
    results: ResultSet, studies: Sequence[str], prices: CostsConfig
) -> dict[str, bytes]:
    """PNG bytes by name, as `figure2-demo`."""
    figures = benchmark_figures(results, studies, prices)
    return {name: _png(figure) for name, figure in figures.items()}


def benchmark_figures(
    results: ResultSet, studies: Sequence[str], prices: CostsConfig
) -> dict[str, Figure]:
    """What is drawn, by name; a figure without a cell is left out."""
    figures: dict[str, Figure | None] = {}
    for study in studies:
        figures[f"figure2-{study}"] = _ablations(results, study)
        figures[f"figure3-{study}"] = _cosines(results, study)
        figures[f"costs-{study}"] = _costs(results, study, prices)
    figures["figure4"] = _languages(results, studies)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _ablations(results: ResultSet, study: str) -> Figure | None:
    """Figure 2: without the aligner (a), and with the same data in steps 2 and 3 (b)."""
    aligned = _paper_kinds(results, study, "langalign")
    shared = _paper_kinds(results, study, "data-share")
    panels = [
        ("(a) LangAlign omitted", [*aligned, *results.rows_of(study, "omission")]),
        ("(b) data shared between steps", [*_of_pairs(aligned, shared), *shared] if shared else []),
    ]
    panels = [(title, rows) for title, rows in panels if len(rows) > 1]
    if not panels:
        return None
    figure, axes = _panels(len(panels))
    for ax, (title, rows) in zip(axes, panels, strict=True):
        _lines(ax, results, study, rows, title)
    figure.suptitle(f"Figure 2: ablations, {study}", fontsize=11)
    return figure


def _languages(results: ResultSet, studies: Sequence[str]) -> Figure | None:
    """Figure 4: the rows of the main table against task rows, a panel for each study."""
    wanted = [s for s in studies if results.keys(s, "langalign")]
    if not wanted:
        return None
    figure, axes = _panels(len(wanted))
    for ax, study in zip(axes, wanted, strict=True):
        rows = [
            row for m in ("english", "native", "translated") for row in results.rows_of(study, m)
        ]
        _lines(ax, results, study, [*rows, *_paper_kinds(results, study, "langalign")], study)
    figure.suptitle("Figure 4: by task and language", fontsize=11)
    return figure


def _cosines(results: ResultSet, study: str) -> Figure | None:
    """Figure 3: cosine of the held-out pairs, by parallel corpus size."""
    keys = [k for k in results.keys(study, "langalign") if k.aligner in PAPER_KINDS]
    if not keys:
        return None
    most = max(key.rows for key in keys)
    sizes = sorted({key.pairs for key in keys})
    kinds = list(dict.fromkeys(key.aligner for key in keys))
    bars = [("translated – English", "before", kinds[0])]
    bars += [(f"English – {kind}", "moved", kind) for kind in kinds]
    bars += [(f"translated – {kind}", "after", kind) for kind in kinds]
    figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(bars)
    for place, (label, when, kind) in enumerate(bars):
        heights = []
        for size in sizes:
            key = Key(study, "langalign", kind, size, most)
            found = results.measures(key, when, "cosine").values()
            heights.append(statistics.fmean(found) if found else math.nan)
        left = [x + place * width for x in range(len(sizes))]
        axes.bar(left, heights, width, label=label, color=COLOURS[place % len(COLOURS)])
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(sizes))], [f"{s:,}" for s in sizes])
    axes.set_xlabel("translated pairs", fontsize=9)
    axes.set_ylabel("mean cosine", fontsize=9)
    axes.set_title(f"Figure 3: cosine of held-out pairs, {study}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    tidy(axes)
    return figure


def _costs(results: ResultSet, study: str, prices: CostsConfig) -> Figure | None:
    """Score against money and against hours, a colour for each method."""
    found = priced(results, study, prices)
    if not found:
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
    axes = list(figure.subplots(1, 2, sharey=True))
    for place, method in enumerate(dict.fromkeys(key.method for key, *_ in found)):
        mine = [(cost, score) for key, score, cost in found if key.method == method]
        style = {"color": COLOURS[place % len(COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
        label = row_label(method, "none", 0)
        axes[0].plot([c.money for c, _ in mine], [s for _, s in mine], ls="", label=label, **style)
        axes[1].plot([c.hours for c, _ in mine], [s for _, s in mine], ls="", **style)
    for ax, name in zip(axes, (f"money ({prices.currency})", "hours"), strict=True):
        ax.set_xscale("log")
        ax.set_xlabel(name, fontsize=9)
        ax.grid(color="#dddddd", linewidth=0.6)
        tidy(ax)
    axes[0].set_ylabel(f"{results.metric(study)} (points)", fontsize=9)
    figure.suptitle(f"Score against cost, {study}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _lines(
    axes: Axes, results: ResultSet, study: str, rows: Iterable[tuple[str, str, int]], title: str
) -> None:
    sizes: set[int] = set()
    for place, (method, aligner, pairs) in enumerate(rows):
        points = [
            (key.rows, estimate(list(scores.values())))
            for key in sorted(results.keys(study, method))
            if (key.aligner, key.pairs) == (aligner, pairs) and (scores := results.scores(key))
        ]
        sizes.update(size for size, _ in points)
        axes.errorbar(
            [size for size, _ in points],
            [found.mean for _, found in points],
            yerr=[found.half_width or 0.0 for _, found in points],
            label=row_label(method, aligner, pairs),
            color=COLOURS[place % len(COLOURS)],
            linestyle=_LINES[place // len(COLOURS) % len(_LINES)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=4,
            linewidth=1.4,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.set_xticks(sorted(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("task rows", fontsize=9)
    axes.set_ylabel(f"{results.metric(study)} (points)", fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2))
    tidy(axes)


def _paper_kinds(results: ResultSet, study: str, method: str) -> list[tuple[str, str, int]]:
    """With all kinds the lines that the paper draws would be hidden."""
    return [row for row in results.rows_of(study, method) if row[1] in PAPER_KINDS]


def _of_pairs(
    rows: list[tuple[str, str, int]], others: list[tuple[str, str, int]]
) -> list[tuple[str, str, int]]:
    """Those rows that have as many pairs as one of the others."""
    sizes = {pairs for *_, pairs in others}
    return [row for row in rows if row[2] in sizes]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    down = math.ceil(count / 2)
    figure = Figure(figsize=(WIDTH_INCHES, 4.6 * down), layout="constrained")
    grid = list(figure.subplots(down, min(count, 2), squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, format="png")
    return file.getvalue()
