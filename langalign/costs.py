"""What a way of getting training data costs: score against money and hours (section 4).

Prices are the reader's, not measured; the hours of training are what each cell takes alone.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from langalign.benchmarkcells import Key, ResultSet, key_label
from langalign.benchmarkconfig import CostsConfig
from langalign.benchmarkresult import CellResult, estimate
from langalign.texttables import Entry, TextTable, of_cells

__all__ = ["Cost", "cheapest_table", "cost_of", "cost_table", "priced"]

# Rows whose texts are the English side of translated pairs.
_OF_PAIRS = ("translated", "lora", "simcse")
_HOURS = (
    "Hours: those of people and of translating as assumed, and as measured what the cell's own "
    "training takes, one step after the other: a local translator and its translating of the "
    "cell's rows, step 1 and what comes before, embedding what is trained on, aligner and head (of "
    "those that were trained side by side, an equal share of the time)."
)
WANTED_SHARES = (0.5, 0.75, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Cost:
    """Of one figure: money for data and training together, hours likewise."""

    money: float
    hours: float


def cost_of(key: Key, cells: Sequence[CellResult], prices: CostsConfig) -> Cost:
    """The data of a cell, and its own training from a local translator to the head."""
    native = key.rows if key.method == "native" else 0
    english, translated = _rows_of(key)
    trained = statistics.fmean(sum(cell.seconds.values()) for cell in cells)
    money = english * prices.english_row + translated * prices.translated_row
    seconds = translated * prices.translated_row_s + native * prices.native_row_s
    return Cost(
        money=money + native * prices.native_row + trained / 3600 * prices.machine_h,
        hours=(seconds + trained) / 3600,
    )


def _rows_of(key: Key) -> tuple[int, int]:
    """English rows, and those of them that are translated, of a person's or a service's work."""
    if key.method == "native":
        return 0, 0
    if key.method in _OF_PAIRS:
        return key.rows, key.rows
    if key.method == "data-share":
        # The rows are the English side of the pairs, then others.
        return max(key.rows, key.pairs), key.pairs
    # Pairs are others than the rows; a local translator's own output has no price but its hours.
    return key.rows + key.pairs, key.pairs


def priced(results: ResultSet, study: str, prices: CostsConfig) -> list[tuple[Key, float, Cost]]:
    """(key, mean score in points, cost) of every figure of a study, the cheapest first."""
    found = []
    for key, cells in results.found.items():
        scores = results.scores(key)
        # A plain head on English rows is not a way of getting data.
        if key.study == study and scores and key.method != "omission":
            cost = cost_of(key, list(cells.values()), prices)
            found.append((key, estimate(list(scores.values())).mean, cost))
    return sorted(found, key=lambda each: (each[2].money, -each[1]))


def cost_table(results: ResultSet, study: str, prices: CostsConfig) -> TextTable:
    """The figures that nothing beats for less money: each scores more than all cheaper ones."""
    lines, best = [], float("-inf")
    for key, score, cost in priced(results, study, prices):
        if score > best:
            best = score
            lines.append(_line(key, score, cost))
    note = (
        f"Assumed: {prices.native_row:g} {prices.currency} and {prices.native_row_s:g} s for a "
        f"native row, {prices.translated_row:g} and {prices.translated_row_s:g} s for a "
        f"translation, {prices.english_row:g} for an English row, {prices.machine_h:g} an hour of "
        f"training. Change them with costs.*. {_HOURS}"
    )
    title = f"Cost: the best score for each sum of money, {study}"
    return TextTable(title, ("way", "score", f"money ({prices.currency})", "hours"), lines, note)


def cheapest_table(results: ResultSet, study: str, prices: CostsConfig) -> TextTable:
    """The cheapest way to a wanted score, by money and by hours."""
    found = priced(results, study, prices)
    by_score = sorted(found, key=lambda each: each[1])
    lines = []
    for share in WANTED_SHARES if found else ():
        (lowest, low, _), (highest, high, _) = by_score[0], by_score[-1]
        wanted = low + share * (high - low)
        enough = [each for each in found if each[1] >= wanted - 1e-9]
        by_money = min(enough, key=lambda each: each[2].money)
        by_hours = min(enough, key=lambda each: each[2].hours)
        lines.append(
            (
                *of_cells([f"{wanted:.1f}"], [lowest, highest]),
                *(_line(*by_money)[place] for place in (0, 2)),
                *(_line(*by_hours)[place] for place in (0, 3)),
            )
        )
    header = ("wanted score", "cheapest way", f"money ({prices.currency})", "quickest way", "hours")
    note = (
        "Between the lowest and the highest score of any way; a mean over seeds has to reach it. "
        f"{_HOURS}"
    )
    return TextTable(f"Cheapest way to a wanted score, {study}", header, lines, note)


def _line(key: Key, score: float, cost: Cost) -> tuple[Entry, ...]:
    figures = (f"{score:.1f}", f"{cost.money:,.2f}", f"{cost.hours:.2f}")
    return of_cells([key_label(key), *figures], [key])
