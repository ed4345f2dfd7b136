"""Held-out rows for choosing between models, the same on every run with one seed."""

import numpy as np
import numpy.typing as npt

from langalign.errors import ConfigError, DataError

__all__ = ["Ids", "split_by_label", "split_rows"]

Ids = npt.NDArray[np.int64]


def split_rows(rows: int, *, validation_fraction: float, seed: int) -> tuple[Ids, Ids]:
    """(training ids, validation ids), each ascending, of the ids 0 to `rows` - 1.

    The validation part is `validation_fraction` of the rows, rounded, but neither part is empty.
    Raises `DataError` on fewer than 2 rows, `ConfigError` on a fraction outside (0, 1).
    """
    _check_fraction(validation_fraction)
    if rows < 2:
        raise DataError(f"{rows} rows cannot be split in two; give at least 2")
    held_out = min(max(1, round(rows * validation_fraction)), rows - 1)
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def split_by_label(
    labels: npt.NDArray[np.integer], *, validation_fraction: float, seed: int
) -> tuple[Ids, Ids]:
    """As `split_rows`, taking the fraction from the rows of each label; `labels` is (rows,).

    A label on one row alone stays in training; any other has a row in both parts. Raises
    `DataError` where no label has 2 rows.
    """
    _check_fraction(validation_fraction)
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        ids = generator.permutation(np.flatnonzero(labels == label))
        if len(ids) > 1:
            wanted = max(1, round(len(ids) * validation_fraction))
            held_out[ids[: min(wanted, len(ids) - 1)]] = True
    if not held_out.any():
        raise DataError(
            f"{len(labels)} rows cannot be split by label: no label has 2 rows; add rows"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ConfigError(f"validation_fraction is {fraction}; give a share between 0 and 1")
