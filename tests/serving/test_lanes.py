"""Which requests make the next batch, and how long a newcomer waits."""

import asyncio
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langalign.model import TextModel
from langalign.tokens import TokenizedText
from serve.engine import Rows
from serve.lanes import Answer, Job, Lanes

BATCH = 100


def job(*lengths: int) -> Job:
    """A request of sentences of so many tokens."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.zeros(int(offsets[-1]), dtype=np.int32)
    future: asyncio.Future[Answer] = asyncio.Future(loop=asyncio.new_event_loop())
    return Job(Rows(cast(TextModel, None), True, TokenizedText(ids, offsets)), future)


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


def test_a_long_request_is_done_before_the_next_long_one_begins() -> None:
    first, second = job(*[50] * 5), job(*[40] * 5)
    lanes, owners = lanes_with(first, second), []
    while batch := lanes.take():
        owners.append([(owner is second, rows.token_count) for owner, rows in batch])
    assert owners == [[(False, 100)], [(False, 100)], [(False, 50), (True, 40)], [(True, 80)],
                      [(True, 80)]]  # fmt: skip


def test_short_ones_wait_for_a_piece_of_a_long_one_at_most() -> None:
    lanes = lanes_with(job(*[50] * 6), job(60), job(60), job(60))
    # In turn, and each fills up what the other has left.
    assert batches(lanes) == [[100], [60], [100], [60], [100], [60]]


def test_what_fits_is_never_split_and_what_is_left_of_a_batch_is_filled() -> None:
    assert batches(lanes_with(job(*[40] * 5), job(10, 10), job(30, 30))) == [
        [80, 20],
        [60, 40],
        [80],
    ]


def test_what_nobody_waits_for_is_forgotten() -> None:
    gone = job(*[50] * 4)
    lanes = lanes_with(gone, job(20), job(30))
    lanes.take()
    gone.future.cancel()
    assert batches(lanes) == [[20, 30]]
    assert (len(lanes), lanes.tokens) == (0, 0)


def test_a_request_does_not_wait_while_it_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
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


requests = st.lists(st.integers(1, 60), min_size=1, max_size=20)


@given(st.lists(requests, max_size=12), requests)
def test_how_much_is_ahead_of_a_newcomer(waiting: list[list[int]], lengths: list[int]) -> None:
    lanes, newcomer = lanes_with(*[job(*each) for each in waiting]), job(*lengths)
    tokens = sum(lengths)
    ahead = lanes.ahead_of(tokens)
    lanes.append(newcomer)
    before = 0
    while len(newcomer.rest):
        before += sum(rows.token_count for owner, rows in lanes.take() if owner is not newcomer)
    # Twice as many where short ones fill just more than half of a batch, and long ones the rest.
    assert ahead / 2 - 2 * BATCH <= before <= 2 * ahead + BATCH
