"""Tasks: presets, edits of a preset, tasks of a user's own, and labels as files give them."""

import pytest

from langalign.errors import ConfigError
from langalign.tasks import PRESETS, Task, build_task

STARS = Task("stars", ("text",), "label", ("1", "2", "3", "4", "5"), "macro_f1")


def test_presets_are_the_two_tasks_of_the_paper() -> None:
    sentiment, nli = PRESETS["sentiment"], PRESETS["nli"]
    assert (sentiment.text_columns, sentiment.label_column) == (("text",), "label")
    assert (sentiment.labels, sentiment.metric) == (("negative", "positive"), "f1")
    assert (nli.text_columns, nli.label_column) == (("premise", "hypothesis"), "label")
    assert nli.labels == ("entailment", "neutral", "contradiction")
    assert nli.metric == "accuracy"


def test_a_preset_is_edited_by_the_values_given() -> None:
    assert build_task("nli") == PRESETS["nli"]
    edited = build_task("sentiment", text="document", label="stars", metric="accuracy")
    assert edited == Task("sentiment", ("document",), "stars", ("negative", "positive"), "accuracy")
    pair = build_task("nli", text_pair="claim")
    assert pair.text_columns == ("premise", "claim")


def test_a_task_of_the_users_own_needs_only_labels() -> None:
    topic = build_task("topic", labels=["sport", "health", "travel"])
    assert topic == Task("topic", ("text",), "label", ("sport", "health", "travel"), "macro_f1")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("topic", {}, ["'topic'", "sentiment, nli", "task.labels"]),
        ("sentiment", {"labels": ["a", "b", "c"]}, ["'f1'", "3 labels", "macro_f1"]),
        ("topic", {"labels": ["one"]}, ["['one']", "at least two"]),
        ("topic", {"labels": ["Yes", "yes "]}, ["'yes '", "differ"]),
        ("nli", {"text": "hypothesis"}, ["one column twice", "hypothesis"]),
        ("sentiment", {"label": ""}, ["label column ''"]),
        ("sentiment", {"metric": "auc"}, ["'auc'", "f1, accuracy, macro_f1"]),
    ],
)
def test_a_task_that_cannot_work_is_one_clear_line(
    name: str, values: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_task(name, **values)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "value", "number"),
    [
        (PRESETS["sentiment"], 1, 1),
        (PRESETS["sentiment"], "0", 0),
        (PRESETS["sentiment"], " 1\n", 1),
        (PRESETS["nli"], "Contradiction ", 2),
        (PRESETS["nli"], "NEUTRAL", 1),
        (STARS, "5", 4),
        (STARS, 1, 0),
    ],
)
def test_a_label_is_a_number_digits_or_a_name(task: Task, value: object, number: int) -> None:
    assert task.encode_label(value) == number


@pytest.mark.parametrize(
    ("task", "value"),
    [
        (PRESETS["sentiment"], 2),
        (PRESETS["sentiment"], -1),
        (PRESETS["sentiment"], "-1"),
        (PRESETS["sentiment"], "1.0"),
        (PRESETS["sentiment"], 1.0),
        (PRESETS["sentiment"], True),
        (PRESETS["sentiment"], None),
        (PRESETS["sentiment"], ""),
        (PRESETS["nli"], "maybe"),
        (STARS, 0),  # would be the class number of "1", but here numbers are names
    ],
)
def test_any_other_label_is_refused_with_the_valid_ones(task: Task, value: object) -> None:
    with pytest.raises(ValueError, match=f"0 {task.labels[0]}, 1 {task.labels[1]}"):
        task.encode_label(value)


def test_a_long_wrong_label_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match="is not one of") as caught:
        PRESETS["nli"].encode_label("x" * 10_000)
    assert len(str(caught.value)) < 250
