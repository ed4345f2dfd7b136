"""Plots of a sweep as PNG: history, importance, one panel a parameter, parallel coordinates.

Drawn here and not by `optuna.visualization.matplotlib`, which changes matplotlib's style for the
whole process and gives up log axes where a parameter is missing in some trials.
"""

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from langalign.figures import COLOURS, DPI, WIDTH_INCHES, tidy
from langalign.sweepresult import SweepResult, completed, coordinate, is_log, score_of, top_trials

__all__ = ["plots"]

_BLUE, _ORANGE, _GREY = *COLOURS[:2], "#999999"
_SCORE = "score (points, 0 to 100)"
_PANELS = 3  # in a row of the slice plot
_UNUSED = -0.14  # height of a parameter that a trial does not have: below its axis


def plots(sweep: SweepResult) -> dict[str, bytes]:
    """PNG bytes by name: history, importance, slice, parallel; no empty ones."""
    scored = [trial for trial in sweep.trials if score_of(trial) is not None]
    names = sorted({name for trial in scored for name in trial.params})
    figures: dict[str, Figure] = {}
    if scored:
        figures["history"] = _history(sweep, scored)
    if sweep.importance:
        figures["importance"] = _importance(sweep)
    if names:
        figures["slice"] = _slices(scored, names)
        figures["parallel"] = _parallel(scored, names)
    return {name: _png(figure) for name, figure in figures.items()}


def _history(sweep: SweepResult, scored: Sequence[FrozenTrial]) -> Figure:
    figure = Figure(figsize=(WIDTH_INCHES, 3.8), layout="constrained")
    axes = figure.subplots()
    _dots(axes, scored, [float(trial.number) for trial in scored], top_trials(scored, 1)[0])
    if done := completed(scored):
        best = list(accumulate(map(_points, done), max))
        # On to the last trial, or the line would end where the last completed one does.
        numbers = [*(trial.number for trial in done), scored[-1].number]
        axes.step(numbers, [*best, best[-1]], where="post", color=_ORANGE, label="best so far")
    if sweep.gain:
        line = 100 * statistics.fmean(sweep.gain.defaults)
        name = "config's own values"
        axes.axhline(line, color="black", linestyle="--", linewidth=1.2, label=name)
    axes.set_title("Score of each trial on held-out rows", fontsize=11)
    axes.set_xlabel("trial", fontsize=9)
    axes.set_ylabel(_SCORE, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _importance(sweep: SweepResult) -> Figure:
    names = [
        f"{_plain(name)}{' *' if sweep.is_conditional(name) else ''}" for name in sweep.importance
    ]
    figure = Figure(figsize=(WIDTH_INCHES, 0.36 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, share in enumerate(sweep.importance.values()):
        axes.barh(place, 100 * share, 0.7, color=COLOURS[4], edgecolor="black", linewidth=0.6)
        axes.text(100 * share + 1, place, f"{100 * share:.0f}", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_title("Importance of each parameter (*: among the trials that have it)", fontsize=11)
    axes.set_xlabel("share of the score's variance (%)", fontsize=9)
    tidy(axes)
    return figure


def _slices(scored: Sequence[FrozenTrial], names: Sequence[str]) -> Figure:
    rows = math.ceil(len(names) / _PANELS)
    figure = Figure(figsize=(WIDTH_INCHES, 2.5 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, _PANELS, sharey=True, squeeze=False)
    legend: dict[str, Any] = {}
    for axes, name in zip(grid.flat, names, strict=False):
        having = [trial for trial in scored if name in trial.params]
        _dots(axes, having, _slice_places(axes, having, name), top_trials(scored, 1)[0])
        axes.set_title(_plain(name), fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(_SCORE, fontsize=9)
    style: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False}
    figure.legend(list(legend.values()), list(legend), fontsize=9, **style)
    return figure


def _slice_places(axes: Axes, having: Sequence[FrozenTrial], name: str) -> list[float]:
    """Set up the parameter's axis; returns where on it the trials lie."""
    domain = having[0].distributions[name]
    if isinstance(domain, Choice):
        axes.set_xticks(range(len(domain.choices)), [_plain(choice) for choice in domain.choices])
        axes.set_xlim(-0.5, len(domain.choices) - 0.5)
        # Spread by the golden ratio, so that dots of one choice do not hide one another.
        return [coordinate(t, name) + 0.5 * (0.618034 * t.number % 1) - 0.25 for t in having]
    if is_log(having[0], name):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(domain, IntDistribution)))
    return [float(trial.params[name]) for trial in having]


def _dots(
    axes: Axes, trials: Sequence[FrozenTrial], places: Sequence[float], best: FrozenTrial
) -> None:
    groups: dict[str, list[tuple[float, float]]] = {}
    for trial, place in zip(trials, places, strict=True):
        cut = trial.state != TrialState.COMPLETE
        label = "stopped or unfinished" if cut else "completed"
        groups.setdefault("best" if trial is best else label, []).append((place, _points(trial)))
    styles = {"stopped or unfinished": ("x", _GREY, 5), "completed": ("o", _BLUE, 4)}
    for label, (marker, colour, size) in {**styles, "best": ("o", _ORANGE, 8)}.items():
        if label in groups:
            x, y = zip(*groups[label], strict=True)
            axes.plot(x, y, marker, color=colour, markersize=size, label=label)
    axes.grid(color="#dddddd", linewidth=0.6)
    tidy(axes)


def _parallel(scored: Sequence[FrozenTrial], names: Sequence[str]) -> Figure:
    width = max(WIDTH_INCHES, 1.15 * (len(names) + 1))
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    axes = figure.subplots()
    columns = []
    for place, name in enumerate(names):
        having = [trial for trial in scored if name in trial.params]
        values = {trial.number: coordinate(trial, name) for trial in having}
        columns.append(_axis(axes, place, values, _ticks(having, name)))
    points = {trial.number: _points(trial) for trial in scored}
    ends = {score: f"{score:.1f}" for score in (min(points.values()), max(points.values()))}
    columns.append(_axis(axes, len(names), points, ends))
    top = [trial.number for trial in top_trials(scored)]
    for number in points:
        colour, thickness = (_BLUE, 1.3) if number in top else (_GREY, 0.5)
        colour, thickness = (_ORANGE, 2.6) if number == top[0] else (colour, thickness)
        line = [column.get(number, _UNUSED) for column in columns]
        axes.plot(line, color=colour, linewidth=thickness, zorder=1 + thickness)
    labels = [*(_plain(name).replace(".", ".\n", 1) for name in names), "score\n(points)"]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.1, len(names) + 0.5)
    axes.set_yticks([])
    if any(len(column) < len(points) for column in columns):
        axes.set_yticks([_UNUSED], ["unused"])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.set_title("Orange: the best trial; blue: the top ten; grey: the others", fontsize=11)
    return figure


def _ticks(having: Sequence[FrozenTrial], name: str) -> dict[float, str]:
    domain = having[0].distributions[name]
    if isinstance(domain, Choice):
        return {float(i): _plain(choice) for i, choice in enumerate(domain.choices)}
    places = [coordinate(trial, name) for trial in having]
    low, high = min(places), max(places)
    ticks = (low, (low + high) / 2, high)
    return {tick: f"{10**tick if is_log(having[0], name) else tick:.3g}" for tick in ticks}


def _axis(
    axes: Axes, place: int, values: Mapping[int, float], ticks: Mapping[float, str]
) -> dict[int, float]:
    """One vertical axis at x = `place`; returns the height, 0 to 1, of each trial by number."""
    low, high = min(ticks), max(ticks)
    heights = {v: (v - low) / (high - low or 1) for v in (*values.values(), *ticks)}
    axes.plot([place, place], [0, 1], color="black", linewidth=1.0, zorder=4)
    style: dict[str, Any] = {"fontsize": 8, "va": "center", "zorder": 5}
    style["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    for value, label in ticks.items():
        axes.text(place + 0.04, heights[value], label, **style)
    return {number: heights[value] for number, value in values.items()}


def _points(trial: FrozenTrial) -> float:
    return 100 * (score_of(trial) or 0.0)


def _plain(value: object) -> str:
    """Short text that any font draws and that is no formula."""
    text = str(value).encode("ascii", "backslashreplace").decode()
    return (text if len(text) <= 28 else f"{text[:27]}...").replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, format="png")
    return file.getvalue()
