"""Collects requests into batches by tokens while the model works on the batch before.

A batch takes requests from the front of the queue until it holds `batch_tokens` tokens. One that is
longer than that is split, and goes to the back with the rest, so it holds up nobody. No other is
split: where it fits no more it is the first of the next batch. To fill a batch up with a few of its
rows would send it to the back, again and again, while later ones are answered.

Under load a batch fills while the model is busy. Clients who ask again as soon as they are answered
would be split, though, into the first one or two and all others, in turn. So right after a batch
the next one waits until as many requests are there as the last one held: for half its time, and
GATHER_S at most. A lone client never waits.

What the event loop has yet to read would also be left for the batch after, and small batches, of
which each costs much beside its rows, would follow small ones. So the loop reads on while that
brings requests: for as long as the last batch took, or GATHER_S.

A small batch (`Engine.is_small`) is run where requests are parsed: to hand it to another thread,
and to share Python's lock with that one, takes as long as the work.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serve.engine import Rows
from serve.problems import overloaded
from serve.telemetry import Observer

__all__ = ["Answer", "TokenBatcher"]

# How long the next batch waits for those who were answered, and at most such a share of the last.
GATHER_S, GATHER_SHARE = 0.01, 0.5
# A request takes some turns of the event loop from its socket to the queue.
QUIET_TURNS = 6
# Of so many full batches the quickest says how long waiting takes: one may have met a stall.
PACES = 8

FloatArray = npt.NDArray[np.float32]
Run = Callable[[Sequence[Rows]], list[FloatArray]]
IsSmall = Callable[[Sequence[Rows]], bool]


@dataclass(frozen=True)
class Answer:
    """Probabilities (rows, C) of a request, and the seconds it waited and was worked on."""

    probabilities: FloatArray
    queue_s: float
    compute_s: float


@dataclass
class _Job:
    rest: Rows
    future: "asyncio.Future[Answer]"
    waits_since: float
    parts: list[FloatArray] = field(default_factory=list)
    queue_s: float = 0.0
    compute_s: float = 0.0


@dataclass(frozen=True)
class _Last:
    """The last batch: the requests it held, its end (as perf_counter has it), its seconds."""

    requests: int
    ended: float
    seconds: float


class TokenBatcher:
    """The queue of one replica; runs its models on one batch at a time.

    A thread for batches that take long keeps the event loop free for other requests and for Serve's
    health checks.
    """

    def __init__(
        self,
        run: Run,
        *,
        is_small: IsSmall,
        batch_tokens: int,
        wait_s: float = 0.0,
        queue_tokens: int,
        queue_s: float,
        observer: Observer,
    ) -> None:
        """`queue_tokens` bounds what waits, `queue_s` for how long the first one has waited, and a
        newcomer would by the pace of full batches.
        """
        self._run = run
        self._is_small = is_small
        self._batch_tokens = batch_tokens
        self._wait_s = wait_s
        self._queue_tokens = queue_tokens
        self._queue_s = queue_s
        self._observer = observer
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._queue: deque[_Job] = deque()
        self._waiting_tokens = 0
        self._arrived = asyncio.Event()
        self._last = _Last(0, 0.0, 0.0)
        # Seconds a token of the last batches that were about full.
        self._paces: deque[float] = deque(maxlen=PACES)
        self._gathered = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, rows: Rows) -> Answer:
        """Wait for the answer to all rows.

        Raises:
            ProblemError: the queue is full (503).
        """
        self._admit(rows.token_count)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="token-batcher")
        job = _Job(rows, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._queue.append(job)
        self._waiting_tokens += rows.token_count
        self._arrived.set()
        if self._is_gathered():
            self._gathered.set()
        return await job.future

    def check(self) -> None:
        """Raise RuntimeError where the worker has ended and no request would be answered."""
        if self._worker is not None and self._worker.done():
            raise RuntimeError("the batching worker has ended")

    def _admit(self, tokens: int) -> None:
        self._drop_abandoned()
        if not self._queue:
            return
        age_s = time.perf_counter() - self._queue[0].waits_since
        if age_s > self._queue_s or self._waiting_tokens + tokens > self._queue_tokens:
            raise overloaded(age_s)
        wait_s = self._expected_wait_s(tokens)
        if wait_s > self._queue_s:
            raise overloaded(wait_s)

    def _expected_wait_s(self, tokens: int) -> float:
        """How long a newcomer waits in all, others that are split taking turns with it.

        0 where that is short at any rate, and before any batch was full.
        """
        pace = min(self._paces, default=0.0)
        if self._waiting_tokens * pace <= self._queue_s:
            return 0.0
        share = max(tokens, self._batch_tokens)
        return pace * sum(min(job.rest.token_count, share) for job in self._queue)

    def _drop_abandoned(self) -> None:
        """Requests whose client has gone, or whose time is up, at the front of the queue."""
        while self._queue and self._queue[0].future.done():
            self._waiting_tokens -= self._queue.popleft().rest.token_count

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await self._gather()
            await self._hear_out()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            started = time.perf_counter()
            pieces = [rows for _, rows in batch]
            try:
                answers = await self._computed(pieces)
                self._deliver(batch, answers, time.perf_counter() - started)
            except Exception as error:  # noqa: BLE001 (handed to the requests it belongs to)
                self._fail(batch, error)
            now = time.perf_counter()
            self._last = _Last(len(batch), now, now - started)

    async def _computed(self, pieces: list[Rows]) -> list[FloatArray]:
        if not self._is_small(pieces):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self._run, pieces)
        return self._run(pieces)

    async def _gather(self) -> None:
        """Wait for those who were answered last, or as long as `wait_s` says."""
        patience_s = min(GATHER_S, GATHER_SHARE * self._last.seconds)
        left_s = max(self._last.ended + patience_s - time.perf_counter(), self._wait_s)
        if left_s <= 0 or self._is_gathered():
            return
        self._gathered.clear()
        try:
            async with asyncio.timeout(left_s):
                await self._gathered.wait()
        except TimeoutError:
            pass

    async def _hear_out(self) -> None:
        """Turns of the event loop, one at least, while they bring requests that had arrived."""
        deadline = time.perf_counter() + max(GATHER_S, self._last.seconds)
        quiet = 0
        while quiet < QUIET_TURNS:
            before = len(self._queue)
            await asyncio.sleep(0)
            if self._waiting_tokens >= self._batch_tokens or time.perf_counter() > deadline:
                return
            quiet = 0 if len(self._queue) > before else quiet + 1

    def _is_gathered(self) -> bool:
        if self._waiting_tokens >= self._batch_tokens:
            return True
        return not self._wait_s and len(self._queue) >= self._last.requests

    def _take(self) -> list[tuple[_Job, Rows]]:
        """From the front of the queue, one row at least, up to the token budget."""
        batch: list[tuple[_Job, Rows]] = []
        budget = self._batch_tokens
        now = time.perf_counter()
        self._drop_abandoned()
        while self._queue:
            job = self._queue[0]
            fitting = job.rest.rows_within(budget)
            has_room = fitting == len(job.rest) or job.rest.token_count > self._batch_tokens
            if batch and not (fitting and has_room):
                break
            piece, job.rest = job.rest.split(max(1, fitting))
            batch.append((job, piece))
            budget -= piece.token_count
            self._waiting_tokens -= piece.token_count
            self._queue.popleft()
            job.queue_s += now - job.waits_since
            if len(job.rest):
                job.waits_since = now
                self._queue.append(job)
            self._drop_abandoned()
        return batch

    def _deliver(
        self, batch: list[tuple[_Job, Rows]], answers: list[FloatArray], compute_s: float
    ) -> None:
        tokens = sum(rows.token_count for _, rows in batch)
        if 2 * tokens >= self._batch_tokens:
            self._paces.append(compute_s / tokens)
        self._observer.batch(rows=sum(len(rows) for _, rows in batch), tokens=tokens)
        for (job, _), answer in zip(batch, answers, strict=True):
            job.parts.append(answer)
            job.compute_s += compute_s
            if not len(job.rest) and not job.future.done():
                whole = np.concatenate(job.parts)
                job.future.set_result(Answer(whole, job.queue_s, job.compute_s))

    def _fail(self, batch: list[tuple[_Job, Rows]], error: Exception) -> None:
        """Only the requests of this batch fail; the rest of a split one is not run either."""
        for job, _ in batch:
            if not job.future.done():
                job.future.set_exception(error)
