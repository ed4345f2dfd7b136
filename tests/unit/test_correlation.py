"""Rank correlations of alignment and transfer on results whose order is known."""

import pytest

from langalign.benchmarkgrid import Cell
from langalign.benchmarkresult import CellResult
from langalign.benchmarktables import ResultSet
from langalign.correlation import correlation_table, correlations


def results(english: list[float], cosines: list[float], words: list[float]) -> ResultSet:
    found = []
    for seed, values in enumerate(zip(english, cosines, words, strict=True)):
        score, cosine, word = values
        cell = Cell("one", "xc", "english", "none", 100, None, seed)
        plain = CellResult(cell, f"e{seed}", "done", "f1", {"f1": score}, {}, {}, {}, [])
        cell = Cell("one", "xc", "langalign", "ae", 100, 80, seed)
        alignment = {"before": {"cosine": cosine}, "after": {"cosine": 0.9}}
        alignment["words"] = {"cosine": word}
        aligned = CellResult(cell, f"a{seed}", "done", "f1", {"f1": 0.5}, alignment, {}, {}, [])
        found += [plain, aligned]
    return ResultSet.of(found)


SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_the_same_order_is_one_and_the_reverse_minus_one() -> None:
    made = results(SCORES, [x**3 for x in SCORES], SCORES[::-1])
    found = {each.measure: each for each in correlations(made, ["one"])}
    assert found["sentences: cosine"].rho == pytest.approx(1)
    assert found["word embeddings: cosine"].rho == pytest.approx(-1)
    assert found["sentences: cosine"].points == 6
    # What is the same everywhere has no order.
    assert not any("after A" in measure for measure in found)


def test_spearman_by_hand() -> None:
    made = results(SCORES, [0.2, 0.1, 0.3, 0.4, 0.6, 0.5], SCORES)
    # Two swaps of neighbours: 1 - 6 * 4 / (6 * 35).
    found = {each.measure: each.rho for each in correlations(made, ["one"])}
    assert found["sentences: cosine"] == pytest.approx(1 - 24 / 210)


def test_few_points_give_no_line() -> None:
    made = results(SCORES[:5], SCORES[:5], SCORES[:5])
    assert correlations(made, ["one"]) == []
    assert correlation_table(made, ["one"]).rows == []
