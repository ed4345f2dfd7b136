"""Which requests make the next batch, and how long a newcomer waits."""

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from langalign.model import TextModel
from langalign.tokens import TokenizedText
from serve.engine import Rows
from serve.lanes import Job, Lanes

BATCH = 100
MakeJob = Callable[..., Job]


@pytest.fixture
def job() -> Iterator[MakeJob]:
    """Makes requests of sentences of so many tokens."""
    loop = asyncio.new_event_loop()

    def make(*lengths: int) -> Job:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.zeros(int(offsets[-1]), dtype=np.int32)
        rows = Rows(cast(TextModel, None), True, TokenizedText(ids, offsets))
        return Job(rows, loop.create_future())

    yield make
    loop.close()


def lanes_with(*jobs: Job) -> Lanes:
    lanes = Lanes(BATCH)
    for each in jobs:
        lanes.append(each)
    return lanes


def batches(lanes: Lanes) -> list[list[int]]:
    """Tokens of each piece of each batch until nothing waits."""
    taken = []
    while batch := lanes.take():
        taken.append([rows.token_count for _, rows in batch])
    return taken


def test_a_long_request_is_done_before_the_next_long_one_begins(job: MakeJob) -> None:
    first, second = job(*[50] * 5), job(*[40] * 5)
    lanes, owners = lanes_with(first, second), []
    while batch := lanes.take():
        owners.append(
            [("second" if owner is second else "first", len(rows)) for owner, rows in batch]
        )
    assert owners == [
        [("first", 2)],
        [("first", 2)],
        [("first", 1), ("second", 1)],
        [("second", 2)],
        [("second", 2)],
    ]


def test_each_batch_of_short_ones_waits_for_a_piece_of_a_long_one(job: MakeJob) -> None:
    lanes = lanes_with(job(*[50] * 6), job(60), job(60), job(60))
    assert batches(lanes) == [[100], [60], [100], [60], [100], [60]]


def test_what_fits_is_never_split_and_what_is_left_of_a_batch_is_filled(job: MakeJob) -> None:
    lanes = lanes_with(job(*[40] * 5), job(10, 10), job(30, 30))
    assert batches(lanes) == [[80, 20], [60, 40], [80]]


def test_what_is_forgotten_is_neither_taken_nor_counted(job: MakeJob) -> None:
    begun, waiting, short = job(*[50] * 4), job(*[50] * 4), job(30)
    lanes = lanes_with(begun, waiting, job(20), short)
    lanes.take()
    for gone in (begun, waiting, short, short):
        lanes.forget(gone)
    assert (len(lanes), lanes.tokens, lanes.age_s(500)) == (1, 20, 0.0)
    assert batches(lanes) == [[20]]


def test_a_request_does_not_wait_while_it_is_worked_on(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([1.0, 2.0, 10.0, 11.0])  # taken, answered, taken, answered
    monkeypatch.setattr("serve.lanes.time", SimpleNamespace(perf_counter=lambda: next(moments)))
    long = job(60, 60)
    lanes = lanes_with(long)
    long.waits_since = 0.0
    lanes.take()
    long.add(np.zeros((1, 2), np.float32), 0.75)
    lanes.take()
    long.add(np.zeros((1, 2), np.float32), 0.5)
    answer = long.future.result()
    assert answer.probabilities.shape == (2, 2)
    assert (answer.queue_s, answer.compute_s) == (1.0 + 8.0, 1.25)


def test_the_age_is_that_of_the_first_like_it_that_has_not_begun(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.lanes.time", SimpleNamespace(perf_counter=lambda: 10.0))
    begun, waiting, short = job(*[50] * 4), job(*[50] * 4), job(30)
    begun.waits_since, waiting.waits_since, short.waits_since = 1.0, 4.0, 7.0
    lanes = lanes_with(begun, waiting, short)
    lanes.take()
    assert (lanes.age_s(BATCH + 1), lanes.age_s(BATCH)) == (6.0, 3.0)


@pytest.mark.parametrize(
    ("waiting", "tokens", "ahead"),
    [
        ([], 10, 0),
        ([[60], [60]], 10, 120),
        # One piece of the long one comes first, and no more than as much as of its own kind.
        ([[50] * 20], 10, 100),
        ([[60], [60], [50] * 20], 10, 120 + 220),
        ([[60], [60], [50] * 20], 150, 1000 + 120),
        ([[50] * 20, [50] * 20], 150, 2000),
    ],
)
def test_how_much_is_ahead_of_a_newcomer(
    job: MakeJob, waiting: list[list[int]], tokens: int, ahead: int
) -> None:
    assert lanes_with(*[job(*lengths) for lengths in waiting]).ahead_of(tokens) == ahead
