"""A task: which columns hold its text, what its labels are called, how it is scored.

The paper's two tasks are presets: sentiment, scored by F1 of the second label, and natural language
inference, scored by accuracy (Table 1, section 3.4.2). Any other classification task is a `Task` of
its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from langalign.errors import ConfigError

__all__ = ["PRESETS", "Metric", "Task", "build_task"]

Metric = Literal["f1", "accuracy", "macro_f1"]

_INTEGER = re.compile(r"[+-]?[0-9]+")


def _folded(name: str) -> str:
    return name.strip().casefold()


@dataclass(frozen=True)
class Task:
    """One classification task over a text or a pair of texts.

    `labels[i]` is the name of class i; the metric `f1` takes `labels[1]` as the positive class.
    Raises `ConfigError` on a value that cannot work.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    labels: tuple[str, ...]
    metric: Metric

    def __post_init__(self) -> None:
        columns = (*self.text_columns, self.label_column)
        if len(self.text_columns) not in (1, 2) or not all(columns):
            raise ConfigError(
                f"task {self.name!r} has text columns {list(self.text_columns)!r} and label column "
                f"{self.label_column!r}; name one text column (two for a task on pairs) and "
                "one label column"
            )
        if len(set(columns)) != len(columns):
            raise ConfigError(
                f"task {self.name!r} names one column twice ({', '.join(columns)}); "
                "give text, text_pair and label a column each"
            )
        if len(self.labels) < 2 or len(set(map(_folded, self.labels))) != len(self.labels):
            raise ConfigError(
                f"task {self.name!r} has the labels {list(self.labels)!r}; "
                "give at least two names that differ in more than case and outer spaces"
            )
        if self.metric not in get_args(Metric):
            raise ConfigError(
                f"metric {self.metric!r} is unknown; use one of {', '.join(get_args(Metric))}"
            )
        if self.metric == "f1" and len(self.labels) != 2:
            raise ConfigError(
                f"metric 'f1' scores one positive class of two, and task {self.name!r} has "
                f"{len(self.labels)} labels; use macro_f1 or accuracy"
            )

    def encode_label(self, value: object) -> int:
        """The class number of a label as a file gives it: an int, the digits of one, or a name.

        Names are compared without case and outer spaces. Where the labels themselves are numbers
        (stars "1" to "5"), a number is read as the name it spells, never as a class number.
        Raises `ValueError`, with the valid labels, on anything else.
        """
        if isinstance(value, str | int) and not isinstance(value, bool):
            spelled = str(value)
            names = [_folded(label) for label in self.labels]
            if _folded(spelled) in names:
                return names.index(_folded(spelled))
            numbered = any(_INTEGER.fullmatch(name) for name in names)
            if not numbered and _INTEGER.fullmatch(spelled.strip()):
                number = int(spelled)
                if 0 <= number < len(self.labels):
                    return number
        shown = value if isinstance(value, str) else repr(value)
        valid = ", ".join(f"{number} {name}" for number, name in enumerate(self.labels))
        raise ValueError(f"label {shown[:80]!r} is not one of task {self.name!r} ({valid})")


PRESETS: dict[str, Task] = {
    "sentiment": Task("sentiment", ("text",), "label", ("negative", "positive"), "f1"),
    "nli": Task(
        "nli",
        ("premise", "hypothesis"),
        "label",
        ("entailment", "neutral", "contradiction"),
        "accuracy",
    ),
}


def build_task(
    name: str,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    metric: Metric | None = None,
) -> Task:
    """The preset `name` with the given values in place of its own, or a task of the user's.

    A task that is no preset needs `labels`; its columns default to `text` and `label`, its metric
    to `macro_f1`, which suits any number of classes. Raises `ConfigError`.
    """
    base = PRESETS.get(name)
    if base is None:
        if labels is None:
            raise ConfigError(
                f"task {name!r} is not a preset ({', '.join(PRESETS)}); a task of your own needs "
                "its label names, task.labels, and task.text, task.text_pair, task.label where its "
                "columns are not 'text' and 'label'"
            )
        base = Task(name, ("text",), "label", tuple(labels), "macro_f1")
    second = text_pair if text_pair is not None else "".join(base.text_columns[1:])
    first = text if text is not None else base.text_columns[0]
    return Task(
        name=name,
        text_columns=(first, second) if second else (first,),
        label_column=label if label is not None else base.label_column,
        labels=tuple(labels) if labels is not None else base.labels,
        metric=metric if metric is not None else base.metric,
    )
