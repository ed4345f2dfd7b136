"""What a run gave, for a person to read: tables on a console, curves and bars as PNG files.

A summary is the plain dict of RUN/summary.json: {job, run, status, seconds, seed, results:
[{method, aligner, language, split, metric, value, seed}], models: [{name, version, uri}],
notes, chosen: {method, aligner}}. Scores are stored in 0 to 1 and shown in points, 0 to 100. Where
one row of a table stands for several seeds it is their mean ± sample standard deviation.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langalign.figures import COLOURS, DPI, MISSING, WIDTH_INCHES, tidy

__all__ = [
    "confusion_table",
    "method_label",
    "plot_comparison",
    "plot_curves",
    "print_report",
    "result_table",
    "score_table",
]

Summary = Mapping[str, Any]

_LABELS = {
    "english": "English only",
    "omission": "LangAlign omitted",
    "langalign": "LangAlign {aligner}",
    "rev-langalign": "Rev-LangAlign {aligner}",
    "translated": "translated rows",
    "native": "native rows",
}
_METHODS = tuple(_LABELS)
_ALIGNERS = ("fc", "ae", "residual", "linear", "procrustes", "procrustes-uncentred", "none")
# In this order the first one present is the task's metric; accuracy then stands beside it.
_METRICS = {"f1": "F1", "macro_f1": "macro F1", "accuracy": "accuracy"}
# They tell the units apart in greyscale.
_LINES = ("-", "--", "-.", ":")


def method_label(method: str, aligner: str) -> str:
    """What people call a method with its aligner kind; a method unknown here keeps its name."""
    return _LABELS.get(method, method).format(aligner=aligner)


@dataclass(frozen=True)
class _Line:
    """All scores of one method and aligner in one language: metric to values over seeds."""

    method: str
    aligner: str
    language: str
    scores: Mapping[str, Sequence[float]]
    is_chosen: bool

    @property
    def label(self) -> str:
        return method_label(self.method, self.aligner)


def result_table(summary: Summary) -> Table:
    """One row per method and aligner: test scores in points, gain over English only, cosines.

    The chosen model's row is bold and starred. Cosines are those of source and target held-out
    pairs before and after the aligner.
    """
    lines = _test_lines(summary)
    metrics = _metrics_of(lines)
    languages = _languages(lines)
    title = f"Test scores in points, 0 to 100: {', '.join(languages) or 'none'}"
    caption = "* the model of this run (aligner.kind)" if any(x.is_chosen for x in lines) else None
    table = Table(title=title, caption=caption)
    table.add_column("method", no_wrap=True)
    if len(languages) > 1:
        table.add_column("language")
    for metric in metrics:
        table.add_column(_METRICS[metric], justify="right")
    for name in ("gain", "cosine before", "cosine after"):
        table.add_column(name, justify="right")
    for line in lines:
        cells = [Text(f"{line.label} *" if line.is_chosen else line.label)]
        cells += [Text(line.language)] if len(languages) > 1 else []
        cells += [Text(_points(line.scores.get(metric, ()))) for metric in metrics]
        cells.append(Text(_gain(line, lines, metrics[0])))
        cells += [Text(_cosine(summary, line, when)) for when in ("before", "after")]
        table.add_row(*cells, style="bold" if line.is_chosen else None)
    return table


def print_report(summary: Summary, console: Console, paths: Iterable[Path | str] = ()) -> None:
    """Print the table, the notes, every published model with how to load it, and `paths`."""
    if _test_lines(summary):
        console.print(result_table(summary))
    # Text, because brackets in a note or a path are not markup; soft_wrap keeps paths whole.
    for note in summary.get("notes", ()):
        console.print(Text(f"note: {note}"), soft_wrap=True)
    for model in summary.get("models", ()):
        name, version, uri = model["name"], model["version"], model["uri"]
        console.print(Text(f"published {name} {version}"), soft_wrap=True)
        console.print(Text(f'  langalign.load("{uri}")'), soft_wrap=True)
    for path in paths:
        console.print(Text(f"wrote {path}"), soft_wrap=True)
    run = f"{summary['job']} {summary['run']}: {summary['status']}"
    console.print(Text(f"{run} in {summary['seconds']:.1f} s, seed {summary['seed']}"))


def score_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Precision, recall and F1 in points, and row counts, from `metrics.class_table`."""
    table = Table(title="Scores by class, in points")
    table.add_column("label")
    for name in ("precision", "recall", "F1", "rows"):
        table.add_column(name, justify="right")
    for row in rows:
        points = [_points([row[name]]) for name in ("precision", "recall", "f1")]
        table.add_row(Text(str(row["label"])), *points, str(row["rows"]))
    return table


def confusion_table(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Row counts (C, C): the label goes down, the prediction across; hits are bold."""
    table = Table(title="Confusion, in rows")
    table.add_column("label \\ prediction")
    for label in labels:
        table.add_column(Text(label), justify="right")
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        cells = [Text(str(n), style="bold" if i == j else "") for j, n in enumerate(row)]
        table.add_row(Text(label), *cells)
    return table


def plot_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> Path | None:
    """Draw training curves to a PNG: a row of panels per step, loss left, held-out score right.

    `histories` maps a unit, which is a step and what it trains ("tune", "align ae", "head
    langalign ae"), to its epochs {epoch, train_loss, score}. A ring marks the epoch that was
    kept. Returns `path`, or None, and writes nothing, where no unit has an epoch.
    """
    steps: dict[str, dict[str, Sequence[Mapping[str, Any]]]] = {}
    for unit, history in histories.items():
        step, _, rest = unit.partition(" ")
        if history:
            steps.setdefault(step, {})[rest or step] = history
    if not steps:
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 2.7 * len(steps) + 0.3), layout="constrained")
    grid = figure.subplots(len(steps), 2, squeeze=False)
    for axes, (step, units) in zip(grid, steps.items(), strict=True):
        _draw_step(axes[0], axes[1], step, units)
    figure.suptitle("Training curves; a ring marks the epoch that was kept", fontsize=11)
    return _save(figure, path)


def plot_comparison(summary: Summary, path: Path) -> Path | None:
    """Draw the task metric on test as bars to a PNG; English only is also the dashed line.

    One panel per language. Returns `path`, or None, and writes nothing, without test scores.
    """
    lines = _test_lines(summary)
    if not lines:
        return None
    metric = _metrics_of(lines)[0]
    languages = _languages(lines)
    bars = {name: [x for x in lines if x.language == name] for name in languages}
    heights = [len(bars[name]) + 2 for name in languages]
    figure = Figure(figsize=(WIDTH_INCHES, 0.36 * sum(heights) + 0.6), layout="constrained")
    grid = figure.subplots(len(languages), 1, squeeze=False, height_ratios=heights)
    for row, (language, drawn) in zip(grid, bars.items(), strict=True):
        _draw_bars(row[0], drawn, metric)
        title = f"{_METRICS[metric]} on the test rows, {language} (dashed: English only)"
        row[0].set_title(title, fontsize=11)
    grid[-1][0].set_xlabel(f"{_METRICS[metric]} (points, 0 to 100)")
    return _save(figure, path)


# --- lines of the table -----------------------------------------------------------------------


def _test_lines(summary: Summary) -> list[_Line]:
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in summary["results"]:
        if row["split"] == "test" and row["metric"] in _METRICS:
            key = (row["method"], row["aligner"], row["language"])
            found.setdefault(key, {}).setdefault(row["metric"], []).append(row["value"])
    chosen = summary.get("chosen") or {}
    wanted = (chosen.get("method"), chosen.get("aligner"))
    lines = [_Line(*key, scores, key[:2] == wanted) for key, scores in found.items()]
    return sorted(lines, key=_place)


def _place(line: _Line) -> tuple[str, int, int]:
    # A method or aligner unknown here comes after those that are known.
    methods, aligners = (*_METHODS, line.method), (*_ALIGNERS, line.aligner)
    return line.language, methods.index(line.method), aligners.index(line.aligner)


def _metrics_of(lines: Sequence[_Line]) -> list[str]:
    return [metric for metric in _METRICS if any(metric in line.scores for line in lines)]


def _languages(lines: Sequence[_Line]) -> list[str]:
    return sorted({line.language for line in lines})


def _points(values: Sequence[float]) -> str:
    if not values:
        return MISSING
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _gain(line: _Line, lines: Sequence[_Line], metric: str) -> str:
    base = _english(lines, line.language, metric)
    if base is None or line.method == "english" or metric not in line.scores:
        return MISSING
    return f"{100 * (statistics.fmean(line.scores[metric]) - base):+.1f}"


def _english(lines: Sequence[_Line], language: str, metric: str) -> float | None:
    for line in lines:
        if (line.method, line.language) == ("english", language) and metric in line.scores:
            return statistics.fmean(line.scores[metric])
    return None


def _cosine(summary: Summary, line: _Line, when: str) -> str:
    key = (line.method, line.aligner, "held_out", f"cosine_{when}")
    values = [
        row["value"]
        for row in summary["results"]
        if (row["method"], row["aligner"], row["split"], row["metric"]) == key
        and row["language"] == line.language
    ]
    return f"{statistics.fmean(values):.3f}" if values else MISSING


# --- drawing ----------------------------------------------------------------------------------


def _draw_step(
    left: Axes, right: Axes, step: str, units: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    # Step 2 is scored by -MSE, so that higher is better; a reader expects the error itself.
    sign = -1.0 if step == "align" else 1.0
    for (unit, history), (line, colour) in zip(units.items(), _styles(), strict=False):
        epochs = [entry["epoch"] for entry in history]
        losses = [entry["train_loss"] for entry in history]
        scores = [entry["score"] for entry in history]
        kept = scores.index(max(scores))  # the first of equals, as the training loop keeps it
        scores = [sign * score for score in scores]
        style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 1.6}
        style["marker"] = "." if len(history) == 1 else ""
        left.plot(epochs, losses, **style)
        right.plot(epochs, scores, label=_unit_label(unit), **style)
        right.plot(epochs[kept], scores[kept], "o", color=colour, markersize=8, fillstyle="none")
    loss, score = ("MSE", "MSE") if step == "align" else ("cross-entropy (nats)", "score (0 to 1)")
    longest = max(len(history) for history in units.values())
    for axes, rows, name in ((left, "training", loss), (right, "held-out", score)):
        axes.set_title(f"{step}: {rows} rows", fontsize=10)
        axes.set_ylabel(name, fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        axes.set_xlim(-0.5, longest - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#dddddd", linewidth=0.6)
        tidy(axes)
    right.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8, handlelength=3.2
    )


def _unit_label(unit: str) -> str:
    method, _, aligner = unit.partition(" ")
    return method_label(method, aligner) if method in _LABELS else unit


def _styles() -> Iterator[tuple[str, str]]:
    return zip(cycle(_LINES), cycle(COLOURS), strict=False)


def _draw_bars(axes: Axes, lines: Sequence[_Line], metric: str) -> None:
    shown = [line for line in lines if metric in line.scores]
    for place, line in enumerate(shown):
        values = line.scores[metric]
        points = 100 * statistics.fmean(values)
        spread = 100 * statistics.stdev(values) if len(values) > 1 else 0.0
        is_aligned = line.method in ("langalign", "rev-langalign")
        axes.barh(
            place,
            points,
            height=0.7,
            color="#56B4E9" if is_aligned else "#d9d9d9",
            hatch="//" if line.method == "rev-langalign" else None,
            edgecolor="black",
            linewidth=1.8 if line.is_chosen else 0.6,
            xerr=spread or None,
            capsize=3,
        )
        weight = "bold" if line.is_chosen else "normal"
        # A white ground keeps the number legible where the dashed line passes behind it.
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        axes.text(
            points + spread + 1, place, _points(values), va="center", weight=weight, bbox=ground
        )
    base = _english(shown, shown[0].language, metric)
    if base is not None:
        axes.axvline(100 * base, color="black", linestyle="--", linewidth=1.2, zorder=3)
    names = [f"{line.label} (chosen)" if line.is_chosen else line.label for line in shown]
    axes.set_yticks(range(len(shown)), names)
    for tick, line in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_fontweight("bold" if line.is_chosen else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    tidy(axes)


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, format="png")
    return path
