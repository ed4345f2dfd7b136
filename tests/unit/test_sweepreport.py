"""What is said at the end of a sweep, on real studies: gain, importance, tables, plots, page."""

import base64
import io
import math
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from matplotlib.image import imread
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from rich.console import Console
from scipy.stats import ttest_rel  # type: ignore[import-untyped]

from langalign.storage import Storage
from langalign.sweepplots import plots
from langalign.sweepreport import html_page, sweep_tables, write_sweep_report
from langalign.sweepresult import (
    MIN_TRIALS,
    Gain,
    SweepResult,
    importance_gap,
    importances,
    read_sweep,
    score_of,
    top_trials,
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


def new_study() -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))


def searched(n: int) -> optuna.Study:
    """Trials of the aligner: the learning rate decides, then the kind; fc alone has a dropout."""
    study = new_study()
    noise = random.Random(0)
    for _ in range(n):
        trial = study.ask()
        kind = trial.suggest_categorical("aligner.kind", ["fc", "ae"])
        rate = trial.suggest_float("aligner.learning_rate", 1e-5, 1e-2, log=True)
        trial.suggest_int("aligner.depth", 2, 8 if kind == "fc" else 6)
        score = 0.85 - 0.1 * abs(math.log10(rate) + 3.5) - (0.02 if kind == "fc" else 0.0)
        if kind == "fc":
            score -= 0.1 * trial.suggest_float("aligner.dropout", 0.0, 0.6)
        trial.report(score - 0.1, 0)
        trial.report(score, 1)
        study.tell(trial, score + noise.gauss(0, 0.001))
    return study


def scored(*scores: float, **params: list[Any]) -> optuna.Study:
    """Completed trials with these scores, and a random choice for every parameter."""
    study = new_study()
    for score in scores:
        trial = study.ask()
        for name, choices in params.items():
            trial.suggest_categorical(name, choices)
        study.tell(trial, score)
    return study


def add_pruned(study: optuna.Study, *reported: float) -> None:
    trial = study.ask()
    trial.suggest_float("head.learning_rate", 1e-5, 1e-2, log=True)
    for epoch, score in enumerate(reported):
        trial.report(score, epoch)
    study.tell(trial, state=TrialState.PRUNED)


def add_failed(study: optuna.Study, reason: str) -> None:
    trial = study.ask()
    trial.suggest_categorical("head.kind", [reason, "mlp"])
    trial.report(0.99, 0)
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.FAIL)


def all_pruned() -> optuna.Study:
    study = new_study()
    add_pruned(study, 0.4, 0.5)
    add_pruned(study, 0.6)
    return study


def all_failed() -> optuna.Study:
    study = new_study()
    for _ in range(3):
        add_failed(study, "out of memory")
    return study


def mixed_choices() -> optuna.Study:
    return scored(
        *(0.5 + 0.01 * i for i in range(12)), **{"head.dropout": [None, 0.5, "auto", True]}
    )


def interrupted() -> optuna.Study:
    study = searched(12)
    add_pruned(study, 0.4, math.nan)
    add_pruned(study)
    add_failed(study, "loss is NaN")
    study.ask().report(0.3, 0)
    study.enqueue_trial({"head.learning_rate": 1e-3})
    return study


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


def printed(sweep: SweepResult, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        sweep_tables(sweep, console)
    return capture.get()


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


# --- gain --------------------------------------------------------------------------------------


def test_the_interval_of_the_gain_is_that_of_the_paired_t_test() -> None:
    expected = ttest_rel(GAIN.best, GAIN.defaults).confidence_interval(0.95)
    assert GAIN.difference == pytest.approx(0.07 / 3)
    assert GAIN.interval == pytest.approx((expected.low, expected.high))


def test_one_seed_gives_a_gain_without_an_interval() -> None:
    gain = Gain((0.9,), (0.8,))
    assert gain.difference == pytest.approx(0.1)
    assert gain.interval is None
    assert "needs 2 seeds" in printed(read_sweep(new_study(), gain))


@pytest.mark.parametrize(("best", "defaults"), [((), ()), ((0.1,), (0.1, 0.2))])
def test_scores_that_do_not_pair_are_refused(
    best: tuple[float, ...], defaults: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="score both alike"):
        Gain(best, defaults)


def test_a_gain_that_may_be_chance_is_said_to_be() -> None:
    sure = read_sweep(new_study(), Gain((0.86, 0.87, 0.85), (0.84, 0.85, 0.82)))
    unsure = read_sweep(new_study(), Gain((0.8, 0.9), (0.9, 0.8)))
    assert "+2.33" in printed(sure)
    assert "86.00 ± 1.00" in printed(sure)
    assert "chance" not in printed(sure)
    assert "this may be chance" in printed(unsure)


# --- scores and order --------------------------------------------------------------------------


def test_completed_trials_come_before_better_ones_that_were_cut_short() -> None:
    study = scored(0.5, 0.7, 0.7)
    add_pruned(study, 0.2, 0.9)
    add_failed(study, "late")
    study.ask().report(0.95, 0)
    trials = read_sweep(study).trials
    assert [score_of(trial) for trial in trials] == [0.5, 0.7, 0.7, 0.9, None, 0.95]
    assert [trial.number for trial in top_trials(trials)] == [1, 2, 0, 5, 3]
    assert [trial.number for trial in top_trials(trials, 2)] == [1, 2]


def test_a_score_that_is_no_number_is_none() -> None:
    study = scored(math.inf)
    add_pruned(study, 0.4, math.nan)
    add_pruned(study)
    assert [score_of(trial) for trial in study.trials] == [None, None, None]


# --- importance --------------------------------------------------------------------------------


def test_importance_finds_what_decides_and_is_the_same_each_time() -> None:
    study = searched(60)
    shares = importances(study.trials)
    assert next(iter(shares)) == "aligner.learning_rate"
    assert shares["aligner.kind"] > shares["aligner.depth"]
    assert sum(v for k, v in shares.items() if k != "aligner.dropout") == pytest.approx(1)
    assert importances(study.trials) == shares


def test_a_logarithmic_range_is_judged_on_its_exponent() -> None:
    study = new_study()
    for _ in range(60):
        trial = study.ask()
        rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
        score = 0.1 * math.log10(rate) + 0.4 * trial.suggest_float("other", 0.0, 0.4) + 0.5
        study.tell(trial, score)
    # Variances over the space: 0.1² · 16 / 12 and 0.4² · 0.16 / 12, that is 86 % and 14 %.
    shares = importances(study.trials)
    assert shares["rate"] == pytest.approx(0.86, abs=0.1)
    by_width = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    assert by_width["rate"] < 0.7


def test_a_conditional_parameter_is_judged_among_the_trials_that_have_it() -> None:
    study = searched(40)
    having = [trial for trial in study.trials if "aligner.dropout" in trial.params]
    sweep = read_sweep(study)
    assert MIN_TRIALS <= len(having) < 40
    alone = importances(having)["aligner.dropout"]
    assert sweep.importance["aligner.dropout"] == alone > 0
    assert sweep.is_conditional("aligner.dropout")
    assert not sweep.is_conditional("aligner.kind")
    assert "aligner.dropout * " in printed(sweep)


def test_a_conditional_parameter_of_too_few_trials_is_left_out() -> None:
    shares = importances(searched(MIN_TRIALS).trials)
    assert "aligner.kind" in shares
    assert "aligner.dropout" not in shares


@pytest.mark.parametrize(
    ("study", "reason"),
    [
        (new_study, "needs 8 completed trials, there are 0"),
        (lambda: searched(2), "needs 8 completed trials, there are 2"),
        (lambda: scored(*[0.5] * 9, kind=["a", "b"]), "all completed trials have the same score"),
        (lambda: scored(*(0.1 * i for i in range(9)), kind=["a"]), "no parameter took two values"),
        (lambda: scored(*(0.1 * i for i in range(9))), "no parameter took two values"),
    ],
)
def test_without_enough_to_go_by_importance_is_empty_and_says_why(
    study: Callable[[], optuna.Study], reason: str
) -> None:
    sweep = read_sweep(study())
    assert sweep.importance == {}
    assert importance_gap(sweep.trials) == reason
    assert f"Importance: {reason}" in printed(sweep)


def test_a_constant_parameter_has_no_importance() -> None:
    study = new_study()
    for i in range(10):
        trial = study.ask()
        trial.suggest_categorical("kind", ["ae"])
        study.tell(trial, 0.5 + trial.suggest_float("rate", 0.0, 0.4) + 1e-4 * i)
    assert importances(study.trials) == {"rate": 1.0, "kind": 0.0}


def test_importance_leaves_optuna_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    study = searched(10)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    capfd.readouterr()
    importances(study.trials)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capfd.readouterr().err == ""


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
