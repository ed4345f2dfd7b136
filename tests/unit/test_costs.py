"""The cost view: what a cell's data and training cost, and the cheapest way to a score, by hand."""

import pytest

from langalign.benchmarkcells import Key, ResultSet
from langalign.benchmarkconfig import CostsConfig
from langalign.benchmarkgrid import Cell
from langalign.benchmarkresult import CellResult
from langalign.costs import cheapest_table, cost_of, cost_table

PRICES = CostsConfig(
    english_row=0.01,
    native_row=1.0,
    native_row_s=36.0,
    translated_row=0.1,
    translated_row_s=3.6,
    machine_h=2.0,
)
TRAINED_S = 360.0  # a tenth of an hour, so 0.2 in money


def result(method: str, pairs: int | None, rows: int, points: float, seed: int = 0) -> CellResult:
    aligner = "ae" if pairs else "none"
    cell = Cell("one", "xc", method, aligner, rows, pairs, seed)
    seconds = {"translator": 40.0, "tune": 100.0, "embed": 20.0, "align": 150.0, "head": 50.0}
    assert sum(seconds.values()) == TRAINED_S
    scores = {"accuracy": points / 100}
    return CellResult(cell, "d", "done", "accuracy", scores, {}, {}, seconds, [])


@pytest.mark.parametrize(
    ("method", "pairs", "rows", "money", "hours"),
    [
        ("english", None, 100, 1.0, 0.0),
        ("native", None, 100, 100.0, 1.0),
        ("translated", None, 100, 1.0 + 10.0, 0.1),
        # 100 English rows, and 50 more of which there is a translation.
        ("langalign", 50, 100, 1.5 + 5.0, 0.05),
        # The 50 translated ones are among the 100.
        ("data-share", 50, 100, 1.0 + 5.0, 0.05),
        # Of 200 pairs the aligner takes all, and the head the English side of 100.
        ("data-share", 200, 100, 2.0 + 20.0, 0.2),
        # 100 English rows, and 50 others with their translations, to train the aligner on.
        ("rev-langalign", 50, 100, 1.5 + 5.0, 0.05),
        # The same to train the translator on; what it makes of the 100 costs the machine's time.
        ("translated-local", 50, 100, 1.5 + 5.0, 0.05),
        ("simcse", None, 100, 1.0 + 10.0, 0.1),
    ],
)
def test_a_cell_costs_its_data_and_its_training(
    method: str, pairs: int | None, rows: int, money: float, hours: float
) -> None:
    found = result(method, pairs, rows, 50)
    key = Key("one", method, found.cell.aligner, pairs or 0, rows)
    cost = cost_of(key, [found, found], PRICES)
    assert cost.money == pytest.approx(money + 0.2)
    assert cost.hours == pytest.approx(hours + 0.1)


def results() -> ResultSet:
    return ResultSet.of(
        [
            result("english", None, 100, 50),
            result("english", None, 200, 48),
            result("langalign", 50, 100, 80),
            result("translated", None, 100, 78),
            result("native", None, 100, 90),
        ]
    )


def test_the_table_holds_only_ways_that_no_cheaper_one_beats() -> None:
    table = cost_table(results(), "one", PRICES)
    assert [row[0].text for row in table.rows] == [
        "English, 100 rows",
        "LangAlign ae, 50 pairs, 100 rows",
        "native, 100 rows",
    ]
    assert [row[2].text for row in table.rows] == ["1.20", "6.70", "100.20"]
    assert "1 USD and 36 s for a native row" in table.note
    assert "a local translator and its translating of the cell's rows, step 1" in table.note


def test_the_cheapest_way_to_a_score_is_named() -> None:
    table = cheapest_table(results(), "one", PRICES)
    found = {row[0].text: (row[1].text, row[2].text) for row in table.rows}
    # From 48 to 90: half of the way is 69, three quarters 79.5, nine tenths 85.8.
    assert found["69.0"] == ("LangAlign ae, 50 pairs, 100 rows", "6.70")
    assert found["79.5"][0].startswith("LangAlign")
    assert found["85.8"] == ("native, 100 rows", "100.20")
    assert table.rows[-1][0].text == "90.0"
    # A wanted score lies between those of two ways; each way leads to its own cells.
    assert [key.rows for key in table.rows[0][0].keys] == [200, 100]
    assert table.rows[-1][2].keys == (Key("one", "native", "none", 0, 100),)


def test_a_failed_way_and_the_omission_are_no_ways() -> None:
    failed = CellResult.failure(
        Cell("one", "xc", "native", "none", 100, None, 0), "d", "accuracy", "x"
    )
    found = ResultSet.of(
        [failed, result("omission", None, 100, 99), result("english", None, 100, 5)]
    )
    assert [row[0].text for row in cost_table(found, "one", PRICES).rows] == ["English, 100 rows"]
