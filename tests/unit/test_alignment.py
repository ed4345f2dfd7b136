"""Each measure of alignment on pairs whose answer is known."""

import numpy as np
import pytest

from langalign import alignment
from langalign.errors import DataError

PAIRS, WIDTH = 120, 8
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(PAIRS, WIDTH))
ROTATION = np.linalg.qr(RANDOM.normal(size=(WIDTH, WIDTH)))[0]


def test_cosine_is_the_mean_over_pairs_and_ignores_length() -> None:
    assert alignment.cosine(ROWS, 3 * ROWS) == pytest.approx(1)
    assert alignment.cosine(ROWS, -ROWS) == pytest.approx(-1)
    source = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert alignment.cosine(source, np.array([[0.0, 2.0], [5.0, 0.0]])) == pytest.approx(0.5)


def test_retrieval_counts_nearest_neighbours_in_each_direction() -> None:
    assert alignment.retrieval(ROWS, ROWS) == (1, 1)
    assert alignment.retrieval(ROWS, np.roll(ROWS, 1, axis=0)) == (0, 0)
    # Both sources are nearest to the first target; each target finds its own source.
    source, target = np.array([[1.0, 0.1], [1.0, 0.4]]), np.array([[1.0, 0.2], [0.0, 1.0]])
    assert alignment.retrieval(source, target) == (0.5, 1.0)
    assert alignment.retrieval(target, source) == (1.0, 0.5)


def test_cka_does_not_see_a_rotation_or_a_scale_and_sees_independence() -> None:
    assert alignment.linear_cka(ROWS, 2 * ROWS @ ROTATION + 7) == pytest.approx(1)
    many = np.random.default_rng(1)
    one, other = many.normal(size=(20_000, 4)), many.normal(size=(20_000, 4))
    assert alignment.linear_cka(one, other) < 0.01
    assert alignment.linear_cka(np.ones((5, 2)), ROWS[:5]) == 0
    # One shared dimension of two: by hand, |x'y|^2 / (|x'x| |y'y|) is 1/2 for orthonormal columns.
    basis = np.linalg.qr(ROWS - ROWS.mean(0))[0]
    shared = alignment.linear_cka(basis[:, [0, 1]], basis[:, [0, 2]])
    assert shared == pytest.approx(0.5)


def test_a_probe_tells_languages_apart_only_where_they_differ() -> None:
    assert alignment.language_identifiability(ROWS, ROWS + 5) == pytest.approx(1)
    # The same rows on both sides: nothing to tell, though each sentence is known by heart.
    assert alignment.language_identifiability(ROWS, ROWS) == pytest.approx(0.5)


def test_all_measures_come_together() -> None:
    found = alignment.measure_alignment(ROWS, ROWS + 5).values()
    assert set(found) == {"cosine", "retrieval_forward", "retrieval_backward", "cka", "language_id"}
    assert found["cka"] == pytest.approx(1)
    assert found["language_id"] == pytest.approx(1)


def test_too_few_pairs_or_uneven_sides_are_refused() -> None:
    with pytest.raises(DataError, match="8 pairs or more"):
        alignment.measure_alignment(ROWS[:7], ROWS[:7])
    with pytest.raises(DataError, match="20 source and 10 target"):
        alignment.measure_alignment(ROWS[:20], ROWS[:10])
