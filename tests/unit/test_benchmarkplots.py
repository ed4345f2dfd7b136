"""What the figures of a benchmark draw: lines, bars, values and labels, from made-up results."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
from benchmark_results import CONFIG, SEEDS, result, results
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from langalign.benchmarkcells import ResultSet
from langalign.benchmarkplots import benchmark_figures, benchmark_plots
from langalign.benchmarkresult import CellResult

Points = list[tuple[float, float]]

# Accuracies of `benchmark_results`: BASE, and a hundredth of a point for each letter of the method.
ENGLISH: Points = [(100, 50.07), (1000, 60.07)]
NATIVE: Points = [(100, 80.06), (1000, 90.06)]
TRANSLATED: Points = [(100, 75.10)]
OMISSION: Points = [(100, 45.08), (1000, 55.08)]
LANGALIGN: Points = [(100, 70.09), (1000, 82.09)]
SHARED: Points = [(100, 69.60), (1000, 82.10)]


def linear() -> list[CellResult]:
    """An aligner that the paper does not have."""
    return [result("langalign", "linear", 200, 100, seed, 60.0 + seed) for seed in SEEDS]


@pytest.fixture
def drawn() -> dict[str, Figure]:
    return benchmark_figures(ResultSet.of([*results(), *linear()]), ["one"], CONFIG.costs)


def lines(axes: Axes) -> dict[str, Points]:
    """Points by label, in the order of the legend."""
    found = {}
    for drawn in axes.containers:
        assert isinstance(drawn, ErrorbarContainer)
        line = drawn.lines[0]
        assert line is not None
        found[str(drawn.get_label())] = points_of(line)
    assert legend(axes) == list(found)
    return found


def points_of(line: Line2D) -> Points:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def legend(axes: Axes) -> list[str]:
    shown = axes.get_legend()
    assert shown is not None
    return [text.get_text() for text in shown.get_texts()]


def about(points: Points) -> list[object]:
    return [pytest.approx(point) for point in points]


def same(found: dict[str, Points], expected: dict[str, Points]) -> bool:
    return list(found) == list(expected) and all(
        found[label] == about(points) for label, points in expected.items()
    )


def test_figure_2_sets_langalign_beside_its_ablations(drawn: dict[str, Figure]) -> None:
    figure = drawn["figure2-one"]
    omitted, shared = figure.axes
    assert figure.get_suptitle() == "Figure 2: ablations, one"
    assert [axes.get_title() for axes in figure.axes] == [
        "(a) LangAlign omitted",
        "(b) data shared between steps",
    ]
    aligned = {"LangAlign ae, 200 pairs": LANGALIGN}
    assert same(lines(omitted), {**aligned, "LangAlign omitted": OMISSION})
    assert same(lines(shared), {**aligned, "shared data ae, 200 pairs": SHARED})


def test_the_bars_of_an_error_are_the_interval_over_seeds(drawn: dict[str, Figure]) -> None:
    (_, omission) = drawn["figure2-one"].axes[0].containers
    assert isinstance(omission, ErrorbarContainer)
    (bars,) = omission.lines[2]
    lower, upper = (float(y) for _, y in bars.get_segments()[0])
    # t(0.975, 2) = 4.302653, over the three seeds at 100 rows.
    half = 4.302653 * statistics.stdev([45.0, 49.08, 41.16]) / 3**0.5
    assert (lower, upper) == pytest.approx((45.08 - half, 45.08 + half), abs=1e-4)


def test_axes_of_lines_are_named_with_their_sizes(drawn: dict[str, Figure]) -> None:
    for name in ("figure2-one", "figure4"):
        for axes in drawn[name].axes:
            assert (axes.get_xlabel(), axes.get_ylabel()) == ("task rows", "Accuracy (points)")
            assert axes.get_xscale() == "log"
            assert list(axes.get_xticks()) == [100, 1000]
            labels = [axes.xaxis.get_major_formatter()(size) for size in (100, 1000)]
            assert labels == ["100", "1,000"]


def test_figure_3_has_the_cosine_of_every_pair_of_sides(drawn: dict[str, Figure]) -> None:
    (axes,) = drawn["figure3-one"].axes
    heights = {}
    for bars in axes.containers:
        assert isinstance(bars, BarContainer)
        heights[bars.get_label()] = [bar.get_height() for bar in bars.patches]
    # Before: 0.40, 0.41 and 0.42 by seed.
    assert heights == {
        "translated – English": [pytest.approx(0.41)],
        "English – ae": [pytest.approx(0.5)],
        "translated – ae": [pytest.approx(0.9)],
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["200"]
    assert axes.get_ylabel() == "mean cosine"
    assert axes.get_title() == "Figure 3: cosine of held-out pairs, one"


def test_figure_4_has_a_panel_for_each_study() -> None:
    found = results()
    other = [replace(each, cell=replace(each.cell, study="two")) for each in found[:12]]
    other += [
        replace(each, cell=replace(each.cell, study="two"))
        for each in found
        if each.cell.method == "langalign"
    ]
    figure = benchmark_figures(ResultSet.of([*found, *other]), ["one", "two"], CONFIG.costs)[
        "figure4"
    ]
    assert figure.get_suptitle() == "Figure 4: by task and language"
    one, two = figure.axes
    assert (one.get_title(), two.get_title()) == ("one", "two")
    aligned = {"LangAlign ae, 200 pairs": LANGALIGN}
    assert same(
        lines(one), {"English": ENGLISH, "native": NATIVE, "translated": TRANSLATED, **aligned}
    )
    assert same(lines(two), {"English": ENGLISH, "native": NATIVE, **aligned})


def test_a_failed_seed_leaves_no_point() -> None:
    found = results()
    broken = next(r for r in found if (r.cell.method, r.cell.rows) == ("langalign", 1000))
    failed = CellResult.failure(broken.cell, broken.digest, "accuracy", "why")
    found[found.index(broken)] = failed
    figure = benchmark_figures(ResultSet.of(found), ["one"], CONFIG.costs)["figure4"]
    assert same({"": lines(figure.axes[0])["LangAlign ae, 200 pairs"]}, {"": LANGALIGN[:1]})


def test_costs_are_drawn_by_money_and_by_hours(drawn: dict[str, Figure]) -> None:
    """72 s of training at 0.2 an hour; 0.1 and 30 s a native row, 0.002 and 0.3 s a translation."""
    figure = drawn["costs-one"]
    money, hours = figure.axes
    assert (money.get_xlabel(), hours.get_xlabel()) == ("money (USD)", "hours")
    assert money.get_ylabel() == "Accuracy (points)"
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    shown = [line.get_label() for line in money.get_lines()]
    assert sorted(map(str, shown)) == sorted(
        ["English", "LangAlign", "Rev-LangAlign", "native", "shared data", "translated"]
    )
    points = {
        str(label): [sorted(points_of(axes.get_lines()[place])) for axes in figure.axes]
        for place, label in enumerate(shown)
    }
    trained = 72 / 3600
    english = [(trained, score) for _, score in ENGLISH]
    assert points["English"] == [about([(0.2 * x, y) for x, y in english]), about(english)]
    native = [(rows, score) for rows, score in NATIVE]
    assert points["native"] == [
        about([(0.1 * rows + 0.2 * trained, score) for rows, score in native]),
        about([(30 * rows / 3600 + trained, score) for rows, score in native]),
    ]
    # Linear, at 61 points, is LangAlign too.
    aligned = sorted([61.0, *(score for _, score in LANGALIGN)])
    assert points["LangAlign"] == [
        about([(0.4 + 0.2 * trained, score) for score in aligned]),
        about([(60 / 3600 + trained, score) for score in aligned]),
    ]


def test_a_figure_without_cells_is_left_out() -> None:
    english = [each for each in results() if each.cell.method == "english"]
    assert set(benchmark_figures(ResultSet.of(english), ["one"], CONFIG.costs)) == {"costs-one"}


def test_figures_are_saved_as_png() -> None:
    saved = benchmark_plots(ResultSet.of(results()), ["one"], CONFIG.costs)
    assert set(saved) == {"figure2-one", "figure3-one", "costs-one", "figure4"}
    assert all(data.startswith(b"\x89PNG") for data in saved.values())
