"""The queue: whose answer is whose, batches by tokens, refusals, and faults of the model."""

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from langalign.model import TextModel
from langalign.tokens import TokenizedText
from serve.batching import PACES, TokenBatcher
from serve.engine import FloatArray, Rows
from serve.problems import ProblemError
from serve.telemetry import Observer

NO_MODEL = cast(TextModel, None)


def rows_of(*lengths: int, mark: int = 0) -> Rows:
    """Sentences whose tokens all are `mark`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.full(int(offsets[-1]), mark, dtype=np.int32)
    return Rows(NO_MODEL, True, TokenizedText(ids, offsets))


class Echo:
    """Answers each row with its first token; waits for `gate` where there is one."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self.gate: threading.Event | None = None
        self.fault: Exception | None = None

    def __call__(self, requests: Sequence[Rows]) -> list[FloatArray]:
        self.batches.append([rows.token_count for rows in requests])
        self.threads.append(threading.get_ident())
        if self.gate is not None:
            self.gate.wait(10)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return [
            rows.tokens.ids[rows.tokens.offsets[:-1]].astype(np.float32)[:, None]
            for rows in requests
        ]


def batcher_of(run: Echo, **options: Any) -> TokenBatcher:
    bounds = {"batch_tokens": 100, "queue_tokens": 10_000, "queue_s": 10.0, **options}
    bounds.setdefault("is_small", lambda requests: False)
    bounds.setdefault("observer", Observer())
    return TokenBatcher(run, **bounds)


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition never held")


async def batches_behind_another(*requests: Rows) -> list[list[int]]:
    """Tokens of each batch, of requests that all come while the model works on another one."""
    run = Echo()
    run.gate = threading.Event()
    batcher = batcher_of(run)
    first = asyncio.create_task(batcher.submit(rows_of(5)))
    await until(lambda: run.batches)
    asked = [asyncio.create_task(batcher.submit(rows)) for rows in requests]
    await asyncio.sleep(0)
    run.gate.set()
    await asyncio.gather(first, *asked)
    return run.batches[1:]


def test_every_request_gets_its_own_answer() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Echo(), batch_tokens=37)
        asked = [rows_of(*[1 + mark % 7] * (1 + mark % 5), mark=mark) for mark in range(200)]
        answers = await asyncio.gather(*[batcher.submit(rows) for rows in asked])
        for mark, (rows, answer) in enumerate(zip(asked, answers, strict=True)):
            assert answer.probabilities.tolist() == [[float(mark)]] * len(rows)

    asyncio.run(scenario())


def test_only_what_is_small_is_run_where_requests_are_read() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run, is_small=lambda requests: requests[0].token_count < 10)
        for length in (5, 50, 5):
            answer = await batcher.submit(rows_of(length, mark=length))
            assert answer.probabilities.tolist() == [[float(length)]]
        run.fault = RuntimeError("broken")
        with pytest.raises(ProblemError, match="a fault of the service"):
            await batcher.submit(rows_of(5))
        await batcher.submit(rows_of(5))
        here = threading.get_ident()
        assert [thread == here for thread in run.threads] == [True, False, True, True, True]

    asyncio.run(scenario())


def test_others_have_their_turn_between_small_batches() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run, batch_tokens=5, is_small=lambda requests: True)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while len(run.batches) < 50:
                turns += 1
                await asyncio.sleep(0)

        asked = [batcher.submit(rows_of(5)) for _ in range(50)]
        await asyncio.gather(other(), *asked)
        assert turns >= 50

    asyncio.run(scenario())


def test_a_batch_takes_what_the_loop_has_yet_to_read() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run)

        async def ask(turns: int) -> None:
            for _ in range(turns):  # as from a socket, through what is around the queue
                await asyncio.sleep(0)
            await batcher.submit(rows_of(5))

        await asyncio.gather(*[ask(turns) for turns in (0, 4, 8)])
        assert run.batches == [[5, 5, 5]]

    asyncio.run(scenario())


def test_a_batch_does_not_wait_for_a_stream_that_never_ends() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run, batch_tokens=10**9, queue_tokens=10**9)
        asked = []
        while not run.batches:
            asked.append(asyncio.create_task(batcher.submit(rows_of(1))))
            await asyncio.sleep(0)
            assert len(asked) < 100_000
        await asyncio.gather(*asked)

    asyncio.run(scenario())


def test_a_fault_while_answers_are_handed_out_ends_no_worker() -> None:
    class Faulty(Observer):
        def batch(self, *, rows: int, tokens: int) -> None:
            if rows == 2:
                raise RuntimeError("cannot count")

    async def scenario() -> None:
        batcher = batcher_of(Echo(), observer=Faulty())
        with pytest.raises(ProblemError, match="a fault of the service"):
            await batcher.submit(rows_of(5, 5))
        assert (await batcher.submit(rows_of(5, mark=3))).probabilities.tolist() == [[3.0]]

    asyncio.run(scenario())


def test_batches_are_cut_by_tokens_and_a_long_request_holds_up_nobody() -> None:
    async def scenario() -> None:
        batches = await batches_behind_another(rows_of(*[40] * 5), rows_of(10, 10))
        # Two rows of 40 fit in 100 tokens, and the short request fills up what they leave.
        assert batches == [[80, 20], [80], [40]]

    asyncio.run(scenario())


def test_a_newcomer_who_would_wait_too_long_is_refused_unless_it_is_short() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run, queue_s=5.0)
        batcher._pace = 0.02  # two seconds a batch
        run.gate = threading.Event()
        asked = [asyncio.create_task(batcher.submit(rows_of(100)))]
        await until(lambda: run.batches)
        asked.append(asyncio.create_task(batcher.submit(rows_of(*[50] * 20))))
        await asyncio.sleep(0)
        # Behind 1,000 tokens: 20 s for a request as long as those, 2 for one that takes turns.
        with pytest.raises(ProblemError) as refused:
            await batcher.submit(rows_of(*[50] * 20))
        assert (refused.value.problem.status, refused.value.headers) == (503, {"Retry-After": "20"})
        asked.append(asyncio.create_task(batcher.submit(rows_of(10))))
        await asyncio.sleep(0)
        run.gate.set()
        answers = await asyncio.gather(*asked)
        assert [len(answer.probabilities) for answer in answers] == [1, 20, 1]
        assert len(batcher._paces) > 1

    asyncio.run(scenario())


def test_time_without_work_is_no_pace_of_batches() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Echo())
        await batcher.submit(rows_of(100))
        # A full batch was to follow at once, and all that waited left, ten minutes ago.
        ended = batcher._last.ended - 600
        batcher._last = dataclasses.replace(batcher._last, ended=ended, is_followed=True)
        batcher._arrived.set()
        await until(lambda: not batcher._arrived.is_set())
        await batcher.submit(rows_of(100))
        assert batcher._pace * 100 < 60

    asyncio.run(scenario())


def test_a_pace_that_is_too_slow_is_corrected_by_batches_of_any_size() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Echo())
        batcher._pace = 60.0
        batcher._paces.extend([60.0] * PACES)
        for _ in range(PACES):
            await batcher.submit(rows_of(1))
        assert batcher._pace < 60.0 / 2

    asyncio.run(scenario())


def test_a_request_that_fits_into_a_batch_is_not_split() -> None:
    async def scenario() -> None:
        assert await batches_behind_another(*[rows_of(30, 30)] * 3) == [[60], [60], [60]]

    asyncio.run(scenario())


def test_a_row_over_the_budget_is_a_batch_of_its_own() -> None:
    async def scenario() -> None:
        run = Echo()
        await batcher_of(run).submit(rows_of(500))
        assert run.batches == [[500]]

    asyncio.run(scenario())


def test_waiting_fills_a_batch() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run, wait_s=0.2)
        await asyncio.gather(*[batcher.submit(rows_of(5)) for _ in range(4)])
        assert run.batches == [[5, 5, 5, 5]]

    asyncio.run(scenario())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for those who were answered as long as it takes."""
    monkeypatch.setattr("serve.batching.GATHER_S", 60.0)
    monkeypatch.setattr("serve.batching.GATHER_SHARE", 1e9)


@pytest.mark.usefixtures("patient")
def test_those_who_were_answered_are_waited_for_and_share_the_next_batch() -> None:
    async def scenario() -> None:
        run = Echo()
        run.gate = threading.Event()
        batcher = batcher_of(run)
        first = asyncio.create_task(batcher.submit(rows_of(5)))
        await until(lambda: run.batches)
        others = [asyncio.create_task(batcher.submit(rows_of(5))) for _ in range(2)]
        await asyncio.sleep(0)
        run.gate.set()
        await asyncio.gather(first, *others)
        again = [asyncio.create_task(batcher.submit(rows_of(6)))]
        await asyncio.sleep(0.05)
        assert run.batches == [[5], [5, 5]]
        again.append(asyncio.create_task(batcher.submit(rows_of(6))))
        await asyncio.gather(*again)
        assert run.batches == [[5], [5, 5], [6, 6]]

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.usefixtures("patient")
def test_a_lone_client_never_waits_and_a_full_batch_neither() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run)
        for _ in range(3):
            await batcher.submit(rows_of(5))
        await asyncio.gather(*[batcher.submit(rows_of(30)) for _ in range(3)])
        await batcher.submit(rows_of(200))
        assert run.batches == [[5], [5], [5], [30, 30, 30], [200]]

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_client_that_does_not_come_back_is_not_waited_for_long() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run)
        await asyncio.gather(*[batcher.submit(rows_of(5)) for _ in range(3)])
        await batcher.submit(rows_of(5))
        assert [len(batch) for batch in run.batches][-1] == 1

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize("options", [{"queue_s": 0.05}, {"queue_tokens": 30}])
def test_a_full_queue_refuses_and_then_serves_again(options: dict[str, Any]) -> None:
    async def scenario() -> None:
        run = Echo()
        run.gate = threading.Event()
        batcher = batcher_of(run, **options)
        accepted = [asyncio.create_task(batcher.submit(rows_of(20)))]
        await until(lambda: run.batches)
        accepted.append(asyncio.create_task(batcher.submit(rows_of(20))))
        await asyncio.sleep(0.1)
        with pytest.raises(ProblemError) as refused:
            await batcher.submit(rows_of(20))
        assert refused.value.problem.status == 503
        assert int(refused.value.headers["Retry-After"]) >= 1
        run.gate.set()
        await asyncio.gather(*accepted)
        await batcher.submit(rows_of(20))

    asyncio.run(scenario())


def test_a_fault_of_the_model_fails_its_batch_only() -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run)
        run.fault = RuntimeError("out of memory")
        with pytest.raises(ProblemError, match="a fault of the service"):
            await batcher.submit(rows_of(60, 60))
        answer = await batcher.submit(rows_of(3, mark=9))
        assert answer.probabilities.tolist() == [[9.0]]
        # The second half of the failed request was not run.
        assert run.batches == [[60], [3]]
        batcher.check()

    asyncio.run(scenario())


def test_a_fault_is_logged_once_for_all_requests_of_its_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        run = Echo()
        batcher = batcher_of(run)
        run.fault = RuntimeError("out of memory")
        asked = [batcher.submit(rows_of(5)) for _ in range(4)]
        problems = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(problem) for problem in problems] == [ProblemError] * 4
        assert run.batches == [[5, 5, 5, 5]]

    logging.getLogger("ray.serve").addHandler(caplog.handler)
    try:
        asyncio.run(scenario())
    finally:
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
    (record,) = caplog.records
    assert "RuntimeError" in record.message


def test_what_nobody_waits_for_is_not_run() -> None:
    async def scenario() -> None:
        run = Echo()
        run.gate = threading.Event()
        batcher = batcher_of(run)
        first = asyncio.create_task(batcher.submit(rows_of(5)))
        await until(lambda: run.batches)
        gone = asyncio.create_task(batcher.submit(rows_of(7)))
        kept = asyncio.create_task(batcher.submit(rows_of(11)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        run.gate.set()
        await asyncio.gather(first, kept)
        assert run.batches == [[5], [11]]

    asyncio.run(scenario())


def test_a_worker_that_has_ended_is_unhealthy() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Echo())
        await batcher.submit(rows_of(5))
        batcher.check()
        (worker,) = [task for task in asyncio.all_tasks() if task.get_name() == "token-batcher"]
        worker.cancel()
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="ended"):
            batcher.check()

    asyncio.run(scenario())
