"""Rank correlations of alignment and transfer on results whose order is known."""

import pytest

from langalign.benchmarkcells import ResultSet
from langalign.benchmarkgrid import Cell
from langalign.benchmarkresult import CellResult
from langalign.correlation import Correlation, correlation_table, correlations

SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def point(
    study: str, seed: int, english: float, cosine: float, word: float, metric: str = "f1"
) -> list[CellResult]:
    """The English-only cell of a study and seed, and one of LangAlign that was measured."""
    cell = Cell(study, "xc", "english", "none", 100, None, seed)
    plain = CellResult(cell, f"{study}-e{seed}", "done", metric, {metric: english}, {}, {}, {}, [])
    cell = Cell(study, "xc", "langalign", "ae", 100, 80, seed)
    alignment = {"before": {"cosine": cosine, "pairs": 10 + seed}, "after": {"cosine": 0.9}}
    alignment["words"] = {"cosine": word}
    aligned = CellResult(
        cell, f"{study}-a{seed}", "done", metric, {metric: 0.5}, alignment, {}, {}, []
    )
    return [plain, aligned]


def of_one_study(english: list[float], cosines: list[float]) -> ResultSet:
    each = zip(english, cosines, strict=True)
    return ResultSet.of(
        [r for seed, values in enumerate(each) for r in point("one", seed, *values, 0.5)]
    )


def by_measure(results: ResultSet, tasks: dict[str, str]) -> dict[str, Correlation]:
    return {each.measure: each for each in correlations(results, tasks)}


def test_the_same_order_is_one_and_the_reverse_minus_one() -> None:
    found = by_measure(of_one_study(SCORES, [x**3 for x in SCORES]), {"one": "sentiment"})
    assert found["sentences: cosine"].rho == pytest.approx(1)
    assert found["sentences: cosine"].points == 6
    assert found["sentences: cosine"].task == "sentiment, F1"
    reverse = by_measure(of_one_study(SCORES, SCORES[::-1]), {"one": "sentiment"})
    assert reverse["sentences: cosine"].rho == pytest.approx(-1)
    # What is the same everywhere has no order; one encoder is one point; a count is no measure.
    assert set(found) == {"sentences: cosine"}


def test_spearman_by_hand() -> None:
    found = by_measure(of_one_study(SCORES, [0.2, 0.1, 0.3, 0.4, 0.6, 0.5]), {"one": "sentiment"})
    # Two swaps of neighbours: 1 - 6 * 4 / (6 * 35).
    assert found["sentences: cosine"].rho == pytest.approx(1 - 24 / 210)


def test_few_points_give_no_line() -> None:
    made = of_one_study(SCORES[:5], SCORES[:5])
    assert correlations(made, {"one": "sentiment"}) == []
    assert correlation_table(made, {"one": "sentiment"}).rows == []


def test_tasks_and_metrics_are_never_pooled() -> None:
    """Within each the order is reversed; together one task's higher scores would make it rise."""
    found, tasks = [], {}
    for place, (task, metric) in enumerate(
        [("sentiment", "f1"), ("topic", "macro_f1"), ("topic", "f1")]
    ):
        tasks[f"study-{place}"] = task
        for seed in range(6):
            score, cosine = place / 4 + seed / 100, place / 4 + (5 - seed) / 100
            found += point(f"study-{place}", seed, score, cosine, 0.5, metric)
    made = [
        each
        for each in correlations(ResultSet.of(found), tasks)
        if each.measure == "sentences: cosine"
    ]
    assert [each.task for each in made] == ["sentiment, F1", "topic, Macro F1", "topic, F1"]
    assert [each.rho for each in made] == [pytest.approx(-1)] * 3
    assert [{key.study for key in each.keys} for each in made] == [{name} for name in tasks]


def words(*, shared: bool = False) -> tuple[ResultSet, dict[str, str]]:
    """Six studies with three seeds, whose mean scores rise with the alignment of words."""
    found, tasks = [], {}
    for place, word in enumerate(SCORES):
        names = [f"s{place}", f"t{place}"] if shared else [f"s{place}"]
        for name in names:
            tasks[name] = "sentiment"
            for seed in range(3):
                # By one seed alone the order would be another.
                wobble = 0.3 * (seed - 1) * (-1) ** place
                found += point(name, seed, word + wobble, 0.5, word)
    return ResultSet.of(found), tasks


@pytest.mark.parametrize("shared", [False, True])
def test_words_have_a_point_for_each_encoder(shared: bool) -> None:
    found = by_measure(*words(shared=shared))["word embeddings: cosine"]
    assert found.points == 6
    assert found.rho == pytest.approx(1)
    assert len(found.keys) == (12 if shared else 6)


def test_an_encoder_with_a_failed_cell_is_no_point() -> None:
    made, tasks = words()
    key = next(key for key in made.found if key.method == "english")
    cell = made.found[key][0]
    made.found[key][0] = CellResult.failure(cell.cell, cell.digest, "f1", "why")
    assert "word embeddings: cosine" not in by_measure(made, tasks), "five points are too few"


def test_the_note_says_how_many_pairs_were_measured() -> None:
    made = of_one_study(SCORES, SCORES)
    table = correlation_table(made, {"one": "sentiment"})
    assert "Sentences: of 10 to 15 pairs held out." in table.note
    assert [entry.text for entry in table.rows[0]] == [
        "sentiment, F1",
        "sentences: cosine",
        "English-only",
        "+1.000",
        "0.000",
        "6",
    ]
