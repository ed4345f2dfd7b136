"""Tables and plots of a run: what they say, in which order, and that the PNGs hold it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console
from rich.table import Table

from langalign import metrics
from langalign.report import (
    confusion_table,
    plot_comparison,
    plot_curves,
    print_report,
    result_table,
    score_table,
)


def score_row(method: str, aligner: str, value: float, **other: Any) -> dict[str, Any]:
    base = {"method": method, "aligner": aligner, "language": "ko", "split": "test"}
    return {**base, "metric": "f1", "value": value, "seed": 0, **other}


def summary_of(*results: dict[str, Any], **other: Any) -> dict[str, Any]:
    run = {"job": "train", "run": "demo", "status": "finished", "seconds": 61.25, "seed": 0}
    return {**run, "results": list(results), "models": [], "notes": [], **other}


SHUFFLED = summary_of(
    score_row("native", "none", 0.871),
    score_row("rev-langalign", "fc", 0.805),
    score_row("langalign", "ae", 0.841),
    score_row("langalign", "ae", 0.853, metric="accuracy"),
    score_row("langalign", "ae", 0.31, metric="cosine_before", split="held_out"),
    score_row("langalign", "ae", 0.934, metric="cosine_after", split="held_out"),
    score_row("langalign", "ae", 0.99, split="held_out"),
    score_row("translated", "none", 0.865),
    score_row("omission", "none", 0.5),
    score_row("langalign", "fc", 0.85),
    score_row("english", "none", 0.51),
    chosen={"method": "langalign", "aligner": "ae"},
)


def columns(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def cells(table: Table) -> list[list[str]]:
    by_column = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*by_column, strict=True)]


def printed(summary: dict[str, Any], paths: Sequence[str] = ()) -> str:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        print_report(summary, console, paths)
    return capture.get()


def test_the_result_table_orders_labels_and_compares() -> None:
    table = result_table(SHUFFLED)
    assert columns(table) == ["method", "F1", "accuracy", "gain", "cosine before", "cosine after"]
    assert cells(table) == [
        ["English only", "51.0", "–", "–", "–", "–"],
        ["LangAlign omitted", "50.0", "–", "-1.0", "–", "–"],
        ["LangAlign fc", "85.0", "–", "+34.0", "–", "–"],
        ["LangAlign ae *", "84.1", "85.3", "+33.1", "0.310", "0.934"],
        ["Rev-LangAlign fc", "80.5", "–", "+29.5", "–", "–"],
        ["translated rows", "86.5", "–", "+35.5", "–", "–"],
        ["native rows", "87.1", "–", "+36.1", "–", "–"],
    ]
    assert [row.style for row in table.rows] == [None, None, None, "bold", None, None, None]


def test_without_a_chosen_model_no_row_is_starred() -> None:
    table = result_table({**SHUFFLED, "chosen": None})
    assert table.caption is None
    assert not any("*" in row[0] for row in cells(table))


def test_several_seeds_are_a_mean_and_a_sample_deviation() -> None:
    rows = [score_row("english", "none", 0.50, seed=seed) for seed in range(2)]
    rows += [score_row("langalign", "fc", v, seed=i) for i, v in enumerate((0.80, 0.82, 0.84))]
    assert [row[1] for row in cells(result_table(summary_of(*rows)))] == [
        "50.0 ± 0.0",
        "82.0 ± 2.0",
    ]
    assert cells(result_table(summary_of(*rows)))[1][2] == "+32.0"


def test_a_task_scored_by_accuracy_has_one_score_column() -> None:
    rows = [
        score_row("english", "none", 0.6, metric="accuracy"),
        score_row("omission", "none", 0.7, metric="accuracy"),
    ]
    table = result_table(summary_of(*rows))
    assert columns(table)[:3] == ["method", "accuracy", "gain"]
    assert cells(table)[1][:3] == ["LangAlign omitted", "70.0", "+10.0"]


def test_languages_are_never_averaged_together() -> None:
    rows = [
        score_row(*method, value, language=language)
        for language, value in (("ko", 0.6), ("ja", 0.8))
        for method in (("english", "none"), ("langalign", "ae"))
    ]
    table = result_table(summary_of(*rows))
    assert [row[1:4] for row in cells(table)] == [
        ["ja", "80.0", "–"],
        ["ja", "80.0", "+0.0"],
        ["ko", "60.0", "–"],
        ["ko", "60.0", "+0.0"],
    ]


def test_a_method_unknown_here_keeps_its_name_and_comes_last() -> None:
    rows = [score_row("lora", "none", 0.7), score_row("native", "none", 0.8)]
    table = result_table(summary_of(*rows))
    assert [row[0] for row in cells(table)] == ["native rows", "lora"]
    assert cells(table)[0][2] == "–", "no gain without an English-only score"


def test_the_report_says_what_was_published_and_keeps_brackets_and_long_paths() -> None:
    uri = "s3://bucket/" + "long-prefix/" * 12 + "models/demo/v-1"
    text = printed(
        {
            **SHUFFLED,
            "models": [{"name": "demo", "version": "v-1", "uri": uri}],
            "notes": ["native left out; head.train=[head] [bold]"],
        },
        paths=["runs/demo/summary.json"],
    )
    assert "LangAlign ae *" in text
    assert "note: native left out; head.train=[head] [bold]\n" in text
    assert f'published demo v-1\n  langalign.load("{uri}")\n' in text
    assert "wrote runs/demo/summary.json\n" in text
    assert text.endswith("train demo: finished in 61.2 s, seed 0\n")


def test_a_run_that_ended_before_any_score_prints_no_table() -> None:
    assert printed(summary_of(notes=["ended after embed"])) == (
        "note: ended after embed\ntrain demo: finished in 61.2 s, seed 0\n"
    )


def test_score_tables_show_what_metrics_gives() -> None:
    counts = torch.tensor([[8, 2], [5, 5]])
    labels = ("[neg]", "pos")
    assert cells(score_table(metrics.class_table(counts, labels))) == [
        ["[neg]", "61.5", "80.0", "69.6", "10"],
        ["pos", "71.4", "50.0", "58.8", "10"],
    ]
    table = confusion_table(labels, counts.tolist())
    assert columns(table)[1:] == ["[neg]", "pos"]
    assert cells(table) == [["[neg]", "8", "2"], ["pos", "5", "5"]]


def test_a_confusion_matrix_of_another_size_than_the_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        confusion_table(("a", "b"), [[1, 2]])


# --- plots ------------------------------------------------------------------------------------


def history(*scores: float) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "train_loss": 1 / (i + 1), "score": score, "best": False, "seconds": 0.1}
        for i, score in enumerate(scores)
    ]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, so that a test can read what was drawn."""
    saved: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def test_curves_are_a_row_of_panels_per_step(tmp_path: Path, figures: list[Figure]) -> None:
    path = tmp_path / "curves.png"
    units = {
        "tune": history(0.6, 0.8, 0.7),
        "align fc": history(-0.9, -0.4),
        "align ae": history(-0.8),
        "align linear": [],
        "head langalign ae": history(0.5, 0.7, 0.7),
    }
    assert plot_curves(units, path) == path
    assert imread(path).shape[1] == 1200
    axes = figures[0].axes
    assert [panel.get_title() for panel in axes] == [
        "tune: training rows",
        "tune: held-out rows",
        "align: training rows",
        "align: held-out rows",
        "head: training rows",
        "head: held-out rows",
    ]
    legends = [[text.get_text() for text in axes[i].get_legend().get_texts()] for i in (1, 3, 5)]  # type: ignore[union-attr]
    assert legends == [["tune"], ["fc", "ae"], ["LangAlign ae"]]
    # The error of step 2, not its negative; the ring is on the first best epoch.
    assert [list(map(float, line.get_ydata())) for line in axes[3].lines] == [  # type: ignore[arg-type]
        [0.9, 0.4],
        [0.4],
        [0.8],
        [0.8],
    ]
    assert [list(map(float, line.get_xdata())) for line in axes[5].lines] == [[0, 1, 2], [1]]  # type: ignore[arg-type]


@pytest.mark.parametrize("units", [{}, {"align linear": []}])
def test_no_epoch_no_curves(tmp_path: Path, units: dict[str, list[dict[str, Any]]]) -> None:
    assert plot_curves(units, tmp_path / "curves.png") is None
    assert not list(tmp_path.iterdir())


def test_comparison_has_a_bar_per_method_and_the_english_line(
    tmp_path: Path, figures: list[Figure]
) -> None:
    path = tmp_path / "bars.png"
    assert plot_comparison(SHUFFLED, path) == path
    assert imread(path).shape[1] == 1200
    (axes,) = figures[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "English only",
        "LangAlign omitted",
        "LangAlign fc",
        "LangAlign ae (chosen)",
        "Rev-LangAlign fc",
        "translated rows",
        "native rows",
    ]
    widths = [round(bar.get_width(), 1) for bar in axes.patches]  # type: ignore[attr-defined]
    assert widths == [51.0, 50.0, 85.0, 84.1, 80.5, 86.5, 87.1]
    assert [text.get_text() for text in axes.texts] == [f"{width:.1f}" for width in widths]
    assert [list(line.get_xdata()) for line in axes.lines] == [[51.0, 51.0]]  # type: ignore[arg-type]
    assert axes.get_xlim()[0] == 0, "bars that do not start at zero mislead"


def test_comparison_draws_a_panel_per_language_without_overlaps(
    tmp_path: Path, figures: list[Figure]
) -> None:
    rows = [
        score_row(method, "none", 0.5, language=language)
        for language in ("ja", "ko")
        for method in ("english", "native")
    ]
    plot_comparison(summary_of(*rows), tmp_path / "bars.png")
    figure = figures[0]
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])  # type: ignore[union-attr, arg-type]


def test_no_test_scores_no_comparison(tmp_path: Path) -> None:
    rows = [score_row("english", "none", 0.5, split="held_out")]
    assert plot_comparison(summary_of(*rows), tmp_path / "bars.png") is None
    assert not list(tmp_path.iterdir())
