"""What a way of getting training data costs: score against money and hours (section 4).

Prices are the reader's, not measured; the hours of training are those that the cells took.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from langalign.benchmarkconfig import CostsConfig
from langalign.benchmarkresult import CellResult, estimate
from langalign.benchmarktables import Entry, Key, ResultSet, TextTable, row_label

__all__ = ["Cost", "cheapest_table", "cost_of", "cost_table", "priced"]

# Rows of the target language that people wrote and labelled, and rows that were translated.
_NATIVE = ("native",)
_TRANSLATED = ("translated", "lora", "simcse")
WANTED_SHARES = (0.5, 0.75, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Cost:
    """Of one figure: money for data and training together, hours likewise."""

    money: float
    hours: float


def cost_of(key: Key, cells: Sequence[CellResult], prices: CostsConfig) -> Cost:
    """The data of a cell, and its own training: step 1, embedding, aligner and head."""
    money, seconds = 0.0, 0.0
    translated = key.pairs
    if key.method in _NATIVE:
        money += key.rows * prices.native_row
        seconds += key.rows * prices.native_row_s
    else:
        # The English side of shared pairs is among the rows already.
        extra = key.pairs if key.method in ("langalign", "rev-langalign") else 0
        money += (key.rows + extra) * prices.english_row
    if key.method in _TRANSLATED:
        translated = key.rows
    money += translated * prices.translated_row
    seconds += translated * prices.translated_row_s
    trained = sum(sum(cell.seconds.values()) for cell in cells) / max(1, len(cells))
    return Cost(
        money=money + trained / 3600 * prices.machine_h,
        hours=(seconds + trained) / 3600,
    )


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
        "training. Change them with costs.*; the time of training is measured."
    )
    title = f"Cost: the best score for each sum of money, {study}"
    return TextTable(title, ("way", "score", f"money ({prices.currency})", "hours"), lines, note)


def cheapest_table(results: ResultSet, study: str, prices: CostsConfig) -> TextTable:
    """The cheapest way to a wanted score, by money and by hours."""
    found = priced(results, study, prices)
    scores = [score for _, score, _ in found]
    lines = []
    for share in WANTED_SHARES if found else ():
        wanted = min(scores) + share * (max(scores) - min(scores))
        enough = [each for each in found if each[1] >= wanted - 1e-9]
        by_money = min(enough, key=lambda each: each[2].money)
        by_hours = min(enough, key=lambda each: each[2].hours)
        lines.append(
            (
                Entry(f"{wanted:.1f}"),
                *(_line(*by_money)[place] for place in (0, 2)),
                *(_line(*by_hours)[place] for place in (0, 3)),
            )
        )
    header = ("wanted score", "cheapest way", f"money ({prices.currency})", "quickest way", "hours")
    note = "Between the lowest and the highest score of any way; a mean over seeds has to reach it."
    return TextTable(f"Cheapest way to a wanted score, {study}", header, lines, note)


def _line(key: Key, score: float, cost: Cost) -> tuple[Entry, ...]:
    label = f"{row_label(key.method, key.aligner, key.pairs)}, {key.rows:,} rows"
    return (
        Entry(label),
        Entry(f"{score:.1f}", key),
        Entry(f"{cost.money:,.2f}"),
        Entry(f"{cost.hours:.2f}"),
    )
