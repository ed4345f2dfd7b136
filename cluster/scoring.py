"""From finished units to the rows of summary.json: scores, cosines, and what goes into plots."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cluster.work import Unit
from langalign import metrics
from langalign.storage import Storage

__all__ = ["curves", "score_rows", "unit_rows"]


def score_rows(
    counts: list[list[int]], metric: str, where: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The task's metric, and accuracy where it is another, of confusion counts (C, C)."""
    table = torch.tensor(counts)
    for name in dict.fromkeys((metric, "accuracy")):
        yield {**where, "metric": name, "value": metrics.score(name, table)}


def unit_rows(
    units: Sequence[Unit],
    storage: Storage,
    *,
    metric: str,
    seed: int,
    languages: tuple[str, str],
    align_method: str,
) -> list[dict[str, Any]]:
    """Result rows of finished units: heads by test part, aligners by closeness.

    `languages` are (source, target); `align_method` is what the run calls its aligned rows.
    """
    rows: list[dict[str, Any]] = []
    for unit in units:
        info = unit.output(storage).info()
        if unit.step == "align":
            where = {
                "method": align_method,
                "aligner": info["kind"],
                "language": languages[1],
                "split": "held_out",
                "seed": seed,
            }
            for name in ("cosine_before", "cosine_after", "mse_before", "mse_after"):
                rows.append({**where, "metric": name, "value": info[name]})
            continue
        for part, counts in info.get("counts", {}).items():
            of_target = part == "test"
            where = {
                "method": info["method"],
                "aligner": info["aligner"]["kind"],
                "language": languages[of_target],
                "split": "test" if of_target else "held_out",
                "seed": seed,
            }
            rows += score_rows(counts, metric, where)
    return rows


def curves(units: Sequence[Unit], storage: Storage) -> dict[str, list[dict[str, Any]]]:
    """Training history of every unit that has one, by its label."""
    histories = {unit.label: unit.output(storage).info()["history"] for unit in units}
    return {label: history for label, history in histories.items() if history}
