"""What a sweep gave, for a person to read: tables on a console, and one page that holds all.

Scores are shown in points, 0 to 100. Parameter names, choices and reasons of failed trials are
the user's text: Rich reads no markup in them, and the page escapes them.
"""

import json
import shlex
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langalign.figures import MISSING
from langalign.page import html_image, whole_page
from langalign.storage import Storage
from langalign.sweepplots import plots
from langalign.sweepresult import (
    CONFIDENCE,
    MIN_TRIALS,
    Gain,
    SweepResult,
    completed,
    importance_gap,
    score_of,
    top_trials,
)

__all__ = ["html_page", "print_gain", "sweep_tables", "trials_table", "write_sweep_report"]

_BAR = 20
_LONGEST_REASON = 500  # characters; a whole traceback would bury the rest


@dataclass(frozen=True)
class _Section:
    """A table as text, and a note below; either may be left out."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""

    def is_number(self, column: int) -> bool:
        """Whether a column reads better set right."""
        cells = [row[column] for row in self.rows]
        return all(cell == MISSING or cell.lstrip("+-")[:1].isdigit() for cell in cells)


def sweep_tables(sweep: SweepResult, console: Console) -> None:
    """Print the top ten, importance, counts by state with reasons, and the best trial."""
    best = top_trials(sweep.trials)
    for section in (_trials("Top ten", best, ()), *_sections(sweep)):
        _print(section, console)


def print_gain(gain: Gain | None, console: Console) -> None:
    """Print what `sweep_tables` leaves out: it is measured later."""
    _print(_gain(gain), console)


def trials_table(title: str, trials: Sequence[FrozenTrial]) -> Table:
    """A row for each of `trials`, running ones among them."""
    return _table(_trials(title, trials, ()))


def html_page(sweep: SweepResult, facts: Mapping[str, str], images: Mapping[str, bytes]) -> str:
    """The report as one HTML page that needs no other file.

    `facts` says what it takes to repeat the sweep: run, metric, data digest, seed, command;
    `images` are those of `plots`.
    """
    *others, best = _sections(sweep)
    top = _trials("Top ten", top_trials(sweep.trials), sweep.parameters)
    everything = _trials("All trials", sweep.trials, sweep.parameters)
    parts = [
        *map(_html, (best, top, _gain(sweep.gain), *others)),
        *(html_image(name, data) for name, data in images.items()),
        _html(everything),
        _html(_Section("How it was made", ("fact", "value"), list(facts.items()))),
    ]
    return whole_page(f"Sweep {facts['run']}", parts)


def write_sweep_report(
    storage: Storage, run: str, sweep: SweepResult, facts: Mapping[str, str]
) -> list[str]:
    """Write report.html and the plots under `runs/<run>/`; returns their keys.

    A plot with nothing to show is not written. `facts` are those of `html_page`, without the run.
    """
    images = plots(sweep)
    files = {f"runs/{run}/{name}.png": data for name, data in images.items()}
    files[f"runs/{run}/report.html"] = html_page(sweep, {"run": run, **facts}, images).encode()
    for key, data in files.items():
        storage.write_bytes(key, data)
    return list(files)


# --- what is said, once for the console and the page ------------------------------------------


def _sections(sweep: SweepResult) -> list[_Section]:
    return [_importance(sweep), _states(sweep.trials), _best(sweep)]


def _trials(title: str, trials: Sequence[FrozenTrial], columns: Sequence[str]) -> _Section:
    """One row a trial. Parameters without a column of their own share one: a terminal is narrow."""
    rows = []
    for trial in trials:
        score, state = _points(score_of(trial)), trial.state.name.lower()
        row = [str(trial.number), score, _epochs(trial), state, _seconds(trial)]
        row += [_short(trial.params.get(name, MISSING)) for name in columns]
        # The aligner's keys are nearly all of them.
        pairs = {name.removeprefix("aligner."): v for name, v in sorted(trial.params.items())}
        rest = " ".join(f"{name}={_short(value)}" for name, value in pairs.items())
        rows.append(row if columns else [*row, rest])
    header = ("trial", "score", "epochs", "state", "seconds", *(columns or ["parameters"]))
    return _Section(title, header, rows, "Scores in points, 0 to 100." if rows else "none")


def _print(section: _Section, console: Console) -> None:
    if section.rows:
        console.print(_table(section))
    # Text, because brackets in a name are not markup; soft_wrap keeps the best line whole.
    text = section.note if section.rows else f"{section.title}: {section.note}"
    console.print(Text(_line(text)), soft_wrap=not section.rows)


def _table(section: _Section) -> Table:
    table = Table(title=section.title)
    for column, name in enumerate(section.header):
        is_number = section.is_number(column)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*(Text(_line(cell)) for cell in row))
    return table


def _importance(sweep: SweepResult) -> _Section:
    if not sweep.importance:
        return _Section("Importance", note=importance_gap(sweep.trials))
    rows = [
        (
            f"{name} *" if sweep.is_conditional(name) else name,
            f"{100 * share:.0f}",
            "█" * round(_BAR * share),
        )
        for name, share in sweep.importance.items()
    ]
    note = (
        "Share of the score's variance that single parameters explain, by fANOVA over the "
        f"{len(completed(sweep.trials))} completed trials; *: over those that have it, if at "
        f"least {MIN_TRIALS}."
    )
    return _Section("Importance", ("parameter", "share, %", ""), rows, note)


def _gain(gain: Gain | None) -> _Section:
    title = "Gain over the config's own values"
    if gain is None:
        return _Section(title, note="not measured")
    interval = " to ".join(f"{100 * end:+.2f}" for end in gain.interval or ())
    rows = [
        ("best parameters", _mean(gain.best)),
        ("config's own values", _mean(gain.defaults)),
        ("gain", f"{100 * gain.difference:+.2f}"),
        (f"{CONFIDENCE:.0%} interval", interval or "needs 2 seeds"),
    ]
    note = "Where the config sets no value, its own is the paper's. "
    note += f"Paired over {len(gain.best)} seed(s). "
    if gain.interval and gain.interval[0] <= 0 <= gain.interval[1]:
        note += "The interval holds 0: this may be chance. "
    note += "The same held-out rows chose the best parameters, which flatters them."
    return _Section(title, ("", "points"), rows, note)


def _states(trials: Sequence[FrozenTrial]) -> _Section:
    """Trials by state, the failed ones by reason too."""
    groups: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        reason = trial.state == TrialState.FAIL and trial.user_attrs.get("reason", "not recorded")
        shown = textwrap.shorten(str(reason or ""), _LONGEST_REASON, placeholder="…")
        groups.setdefault((trial.state.name.lower(), shown), []).append(str(trial.number))
    rows = [
        (state, str(len(numbers)), f"{reason} (trial {', '.join(numbers)})" if reason else "")
        for (state, reason), numbers in sorted(groups.items())
    ]
    return _Section("Trials", ("state", "trials", "reason"), rows, f"{len(trials)} in all.")


def _best(sweep: SweepResult) -> _Section:
    done = top_trials(completed(sweep.trials), 1)
    if not done:
        return _Section("Best", note="no trial was completed")
    pairs = (f"{name}={_exact(value)}" for name, value in sorted(done[0].params.items()))
    score = _points(score_of(done[0]))
    return _Section("Best", note=f"trial {done[0].number}, {score} points: {shlex.join(pairs)}")


def _epochs(trial: FrozenTrial) -> str:
    """Epochs trained; of a trial that has not ended those it has reported."""
    return str(trial.user_attrs.get("epochs", len(trial.intermediate_values)) or MISSING)


def _seconds(trial: FrozenTrial) -> str:
    """Its share of its stack's training, else the time since it was drawn."""
    seconds = trial.user_attrs.get("seconds")
    if seconds is None and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    return MISSING if seconds is None else f"{seconds:.1f}"


def _points(score: float | None) -> str:
    return MISSING if score is None else f"{100 * score:.2f}"


def _mean(scores: Sequence[float]) -> str:
    mean = _points(statistics.fmean(scores))
    return f"{mean} ± {_points(statistics.stdev(scores))}" if len(scores) > 1 else mean


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _exact(value: object) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _line(text: str) -> str:
    """One line, without the codes that steer a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


# --- the page ---------------------------------------------------------------------------------


def _html(section: _Section) -> str:
    kinds = [' class="number"' * section.is_number(i) for i in range(len(section.header))]
    # A long key may break after its dots, which keeps columns narrow.
    rows = [_html_row("th", section.header, kinds).replace(".", ".<wbr>")]
    rows += [_html_row("td", row, kinds) for row in section.rows]
    table = f'<div class="scroll"><table>{"".join(rows)}</table></div>' if section.rows else ""
    kind = ' class="note"' if table else ""
    return f"<h2>{escape(section.title)}</h2>{table}<p{kind}>{escape(_line(section.note))}</p>"


def _html_row(tag: str, cells: Sequence[str], kinds: Sequence[str]) -> str:
    shown = (f"<{tag}{k}>{escape(_line(c))}</{tag}>" for c, k in zip(cells, kinds, strict=True))
    return f"<tr>{''.join(shown)}</tr>\n"
