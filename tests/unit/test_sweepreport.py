"""What is said at the end of a sweep, on real studies: tables, plots, page."""

import base64
import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest
from matplotlib.image import imread
from optuna.trial import TrialState
from sweep_studies import (
    add_failed,
    all_failed,
    all_pruned,
    interrupted,
    mixed_choices,
    new_study,
    printed,
    scored,
    searched,
)

from langalign.storage import Storage
from langalign.sweepplots import plots
from langalign.sweepreport import html_page, write_sweep_report
from langalign.sweepresult import (
    Gain,
    read_sweep,
)

ALL_PLOTS = ["history", "importance", "slice", "parallel"]
FACTS = {
    "metric": "f1 on held-out translated rows",
    "data digest": "0f3a9c",
    "seed": "7",
    "command": "python jobs/sweep.py --config my.yaml seed=7",
}
GAIN = Gain((0.86, 0.87, 0.85), (0.84, 0.83, 0.84))
HOSTILE = '<img src="https://evil.example/x.png" onerror=alert(1)>[red]&$x_{$\x1b[31m\n한'

STUDIES: dict[str, tuple[Callable[[], optuna.Study], list[str]]] = {
    "empty": (new_study, []),
    "one": (lambda: searched(1), ["history", "slice", "parallel"]),
    "two": (lambda: searched(2), ["history", "slice", "parallel"]),
    "without parameters": (lambda: scored(0.5, 0.6), ["history"]),
    "all pruned": (all_pruned, ["history", "slice", "parallel"]),
    "all failed": (all_failed, []),
    "constant": (
        lambda: scored(*(0.1 * i for i in range(9)), kind=["ae"]),
        ["history", "slice", "parallel"],
    ),
    "mixed": (mixed_choices, ALL_PLOTS),
    "interrupted": (interrupted, ALL_PLOTS),
}


class Page(HTMLParser):
    """Tags, attributes and texts of a page, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.is_in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.is_in_cell:
            self.rows[-1][-1] += data


# --- tables ------------------------------------------------------------------------------------


def test_the_tables_say_what_was_found() -> None:
    study = interrupted()
    text = printed(read_sweep(study, GAIN))
    best = study.best_trial
    assert f"Best: trial {best.number}, {100 * study.best_value:.2f} points: " in text
    assert f"aligner.learning_rate={best.params['aligner.learning_rate']!r}" in text
    first = next(line for line in text.splitlines() if "complete" in line)
    assert [cell.strip() for cell in first.split("│")[1:5]] == [
        *(str(best.number), f"{100 * study.best_value:.2f}", "2", "complete")
    ]
    counts = {"complete": "12", "fail": "1", "pruned": "2", "running": "1", "waiting": "1"}
    for state, count in counts.items():
        assert any(
            line.split()[1:4:2] == [state, count] for line in text.splitlines() if "│" in line
        )
    assert "loss is NaN (trial 14)" in text


def test_equal_reasons_share_a_line_and_a_missing_one_is_said() -> None:
    study = all_failed()
    study.tell(study.ask(), state=TrialState.FAIL)
    text = printed(read_sweep(study))
    assert "out of memory (trial 0, 1, 2)" in text
    assert "not recorded (trial 3)" in text
    assert "Best: no trial was completed" in text


def test_epochs_and_seconds_are_those_of_training() -> None:
    study = new_study()
    for attributes in ({"epochs": 3, "seconds": 1.5}, {}):
        trial = study.ask()
        trial.report(0.4, 1)
        trial.report(0.5, 2)
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        study.tell(trial, 0.6)
    rows = Page(html_page(read_sweep(study), {"run": "demo"}, {})).rows
    numbered = {row[0]: row for row in rows if row[0].isdigit()}
    assert numbered["0"][2::2] == ["3", "1.5"]
    assert numbered["1"][2] == "2"


def test_a_narrow_console_loses_no_value() -> None:
    study = searched(3)
    joined = "".join(printed(read_sweep(study), width=60).split())
    rates = [trial.params["aligner.learning_rate"] for trial in study.trials]
    assert all(f"{rate:.3g}" in joined.replace("│", "") for rate in rates)


def test_a_long_reason_is_cut() -> None:
    study = new_study()
    add_failed(study, "word " * 1000)
    assert len(printed(read_sweep(study))) < 2000
    assert "…" in printed(read_sweep(study))


def test_markup_and_terminal_codes_in_a_reason_are_plain_text() -> None:
    study = new_study()
    add_failed(study, HOSTILE)
    text = printed(read_sweep(study), width=200)
    assert "[red]&$x_{$ [31m 한" in text
    assert "\x1b" not in text


# --- plots -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("study", "names"), STUDIES.values(), ids=STUDIES)
def test_every_study_is_drawn_printed_and_written(
    study: Callable[[], optuna.Study], names: list[str]
) -> None:
    sweep = read_sweep(study(), GAIN)
    images = plots(sweep)
    assert list(images) == names
    for image in images.values():
        height, width, _ = imread(io.BytesIO(image), format="png").shape
        assert width >= 1200
        assert height >= 200
    assert printed(sweep)
    page = Page(html_page(sweep, {"run": "demo", **FACTS}, images))
    assert page.tags.count("img") == len(names)
    assert sum(row[0].isdigit() for row in page.rows) >= len(sweep.trials)


def test_names_that_a_font_or_a_formula_cannot_take_are_drawn() -> None:
    values = [0.1 * i for i in range(9)]
    sweep = read_sweep(scored(*values, **{HOSTILE: [HOSTILE, "$a^{$", "한국어"]}))
    assert list(plots(sweep)) == ALL_PLOTS


# --- the page ----------------------------------------------------------------------------------


def test_the_page_holds_everything_and_reaches_for_nothing() -> None:
    sweep = read_sweep(interrupted(), GAIN)
    images = plots(sweep)
    source = html_page(sweep, {"run": "demo", **FACTS}, images)
    page = Page(source)
    assert "http://" not in source
    assert "https://" not in source
    assert "script" not in page.tags
    assert "link" not in page.tags
    references = [v for name, v in page.attributes if name in ("src", "href", "srcset", "action")]
    heads = [reference.partition(",") for reference in references]
    assert [head for head, _, _ in heads] == ["data:image/png;base64"] * len(images)
    assert [base64.b64decode(data) for _, _, data in heads] == list(images.values())
    assert "url(" not in source
    assert all([name, value] in page.rows for name, value in FACTS.items())
    assert ["gain", "+2.33"] in page.rows
    assert "prefers-color-scheme: dark" in source
    assert ("name", "viewport") in page.attributes


def test_every_trial_is_in_the_page_with_its_parameters() -> None:
    study = searched(12)
    rows = Page(html_page(read_sweep(study), {"run": "demo"}, {})).rows
    header = next(row for row in rows if row[0] == "trial")
    for trial in study.trials:
        row = dict(
            zip(header, next(r for r in reversed(rows) if r[0] == str(trial.number)), strict=True)
        )
        assert row["score"] == f"{100 * (trial.value or 0):.2f}"
        assert row["epochs"] == "2"
        assert row["aligner.kind"] == trial.params["aligner.kind"]
        assert row["aligner.depth"] == str(trial.params["aligner.depth"])
        assert (row["aligner.dropout"] == "–") == ("aligner.dropout" not in trial.params)


def test_the_users_text_cannot_become_markup() -> None:
    study = scored(0.5, 0.6, **{HOSTILE: [HOSTILE, "b"]})
    add_failed(study, HOSTILE)
    facts = {"run": HOSTILE, "command": HOSTILE}
    page = Page(html_page(read_sweep(study), facts, {}))
    assert "img" not in page.tags
    assert not any(name.startswith("on") or "evil" in value for name, value in page.attributes)
    assert page.text.count("<img src=") >= 5  # in title, heading, facts, header, cells, reason


def test_the_report_is_written_below_the_run(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    sweep = read_sweep(searched(10), GAIN)
    keys = write_sweep_report(storage, "sweep-1", sweep, FACTS)
    assert keys == [
        f"runs/sweep-1/{name}" for name in (*(f"{p}.png" for p in ALL_PLOTS), "report.html")
    ]
    page = storage.read_bytes(keys[-1]).decode()
    assert all(base64.b64encode(storage.read_bytes(key)).decode() in page for key in keys[:-1])
    assert "<h1>Sweep sweep-1</h1>" in page


def test_a_sweep_without_a_score_writes_the_page_alone(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert write_sweep_report(storage, "r", read_sweep(all_failed()), {}) == ["runs/r/report.html"]
    assert "out of memory" in storage.read_bytes("runs/r/report.html").decode()
