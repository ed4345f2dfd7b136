"""Scores against scikit-learn, and sums over shards against the whole."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from langalign import metrics


@st.composite
def outcomes(draw: st.DrawFn, least: int = 1) -> tuple[int, Tensor, Tensor]:
    """(C, labels (N,), predictions (N,)), with classes that may be absent from both."""
    classes = draw(st.integers(2, 5))
    rows = draw(st.integers(least, 40))
    column = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)
    return classes, torch.tensor(draw(column)).long(), torch.tensor(draw(column)).long()


@given(outcomes())
def test_scores_are_those_of_scikit_learn(drawn: tuple[int, Tensor, Tensor]) -> None:
    classes, labels, predictions = drawn
    every = list(range(classes))
    counts = metrics.confusion(labels, predictions, classes)
    np.testing.assert_array_equal(
        counts.numpy(), sk.confusion_matrix(labels, predictions, labels=every)
    )
    assert metrics.accuracy(counts) == pytest.approx(sk.accuracy_score(labels, predictions))
    per_class = sk.f1_score(labels, predictions, labels=every, average=None, zero_division=0)
    assert [metrics.f1(counts, c) for c in every] == pytest.approx(list(per_class))
    macro = sk.f1_score(labels, predictions, labels=every, average="macro", zero_division=0)
    assert metrics.macro_f1(counts) == pytest.approx(macro)


@given(outcomes())
def test_the_class_table_is_that_of_scikit_learn(drawn: tuple[int, Tensor, Tensor]) -> None:
    classes, labels, predictions = drawn
    names = tuple(f"label {c}" for c in range(classes))
    table = metrics.class_table(metrics.confusion(labels, predictions, classes), names)
    expected = sk.precision_recall_fscore_support(
        labels, predictions, labels=list(range(classes)), zero_division=0
    )
    for key, column in zip(("precision", "recall", "f1", "rows"), expected, strict=True):
        assert [row[key] for row in table] == pytest.approx(list(column)), key
    assert tuple(row["label"] for row in table) == names


@given(outcomes(least=0), st.lists(st.integers(0, 40), max_size=4))
def test_confusion_counts_of_shards_add_up_to_the_whole(
    drawn: tuple[int, Tensor, Tensor], cuts: list[int]
) -> None:
    classes, labels, predictions = drawn
    edges = sorted(min(cut, len(labels)) for cut in cuts)
    parts = zip(
        labels.tensor_split(edges), predictions.tensor_split(edges), strict=True
    )  # some of them empty
    total = sum(metrics.confusion(*part, classes) for part in parts)
    assert isinstance(total, Tensor)
    assert torch.equal(total, metrics.confusion(labels, predictions, classes))


def test_a_mean_of_shard_scores_is_another_number() -> None:
    """Why counts are added up: this is what a mean over workers would have said."""
    labels, predictions = torch.tensor([1, 1, 1, 0]), torch.tensor([1, 1, 1, 1])
    whole = metrics.confusion(labels, predictions, 2)
    shards = [metrics.confusion(labels[i], predictions[i], 2) for i in (slice(3), slice(3, 4))]
    assert metrics.accuracy(whole) == 0.75
    assert sum(metrics.accuracy(shard) for shard in shards) / 2 == 0.5


@pytest.mark.parametrize(
    ("metric", "function"),
    [("accuracy", metrics.accuracy), ("f1", metrics.f1), ("macro_f1", metrics.macro_f1)],
)
def test_a_score_is_named(metric: str, function: Callable[[Tensor], float]) -> None:
    counts = torch.tensor([[5, 2], [1, 9]])
    assert metrics.score(metric, counts) == function(counts)
    scores = {metrics.score(name, counts) for name in ("accuracy", "f1", "macro_f1")}
    assert len(scores) == 3, "counts that tell the metrics apart"


def test_no_rows_score_nothing_and_divide_by_nothing() -> None:
    empty = torch.zeros(3, 3, dtype=torch.int64)
    assert [metrics.score(name, empty) for name in ("accuracy", "f1", "macro_f1")] == [0, 0, 0]
    assert {row["recall"] for row in metrics.class_table(empty, ("a", "b", "c"))} == {0.0}


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.integers(0, 2**31))
def test_cosine_totals_of_shards_give_the_mean_over_all_pairs(
    rows: int, cut: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows, width)).astype(np.float32)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    total = metrics.cosine_total(x[:cut], y[:cut]) + metrics.cosine_total(x[cut:], y[cut:])
    norms = np.linalg.norm(a.astype(float), axis=1) * np.linalg.norm(b.astype(float), axis=1)
    expected = ((a.astype(float) * b).sum(1) / norms).sum()
    assert total.tolist() == pytest.approx([expected, rows], abs=1e-9)


def test_cosine_does_not_lose_half_precision_embeddings() -> None:
    x = torch.full((1, 512), 200.0, dtype=torch.float16)  # its squared norm overflows float16
    assert metrics.cosine_total(x, x).tolist() == pytest.approx([1.0, 1.0])
