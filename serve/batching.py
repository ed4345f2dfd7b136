"""Collects requests into batches by tokens while the model works on the batch before.

`serve.lanes` says which requests make a batch; here it is said when.

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
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from serve.engine import Rows
from serve.lanes import Answer, FloatArray, Job, Lanes
from serve.problems import ProblemError, overloaded, unforeseen
from serve.telemetry import Observer

__all__ = ["TokenBatcher"]

# How long the next batch waits for those who were answered, and at most such a share of the last.
GATHER_S, GATHER_SHARE = 0.01, 0.5
# A request takes some turns of the event loop from its socket to the queue.
QUIET_TURNS = 6
# The mean of so many batches says how long waiting takes; a stall counts as one of them.
PACES = 16

Run = Callable[[Sequence[Rows]], list[FloatArray]]
IsSmall = Callable[[Sequence[Rows]], bool]


@dataclass(frozen=True)
class _Last:
    """The last batch: the requests it held, its end (as perf_counter has it), its seconds, and
    whether the next one, a full one, followed at once.
    """

    requests: int
    ended: float
    seconds: float
    is_followed: bool = False


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
        """`queue_tokens` bounds what waits, `queue_s` for how long the first in a newcomer's lane
        has waited, and the newcomer would by the pace of the last batches.
        """
        self._run = run
        self._is_small = is_small
        self._wait_s = wait_s
        self._queue_tokens = queue_tokens
        self._queue_s = queue_s
        self._observer = observer
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lanes = Lanes(batch_tokens)
        self._arrived = asyncio.Event()
        self._last = _Last(0, 0.0, 0.0)
        # Seconds a token of the last batches that say how quick full ones are, and their mean.
        self._paces: deque[float] = deque(maxlen=PACES)
        self._pace = 0.0
        self._gathered = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, rows: Rows) -> Answer:
        """Wait for the answer to all rows.

        Raises:
            ProblemError: the queue is full (503), or the batch failed (500; the log says why).
        """
        self.admit(rows.token_count)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="token-batcher")
        job = Job(rows, asyncio.get_running_loop().create_future())
        self._lanes.append(job)
        self._arrived.set()
        if self._is_gathered():
            self._gathered.set()
        try:
            return await job.future
        except BaseException:
            # It failed, or nobody waits for it any more.
            self._lanes.forget(job)
            raise

    def admit(self, tokens: int) -> None:
        """Return if a request of `tokens` tokens may wait.

        Raises:
            ProblemError: the queue is full (503).
        """
        lanes = self._lanes
        if not len(lanes):
            return
        wait_s = max(lanes.age_s(tokens), self._pace * lanes.ahead_of(tokens))
        if wait_s > self._queue_s or lanes.tokens + tokens > self._queue_tokens:
            raise overloaded(wait_s)

    def check(self) -> None:
        """Raise RuntimeError where the worker has ended and no request would be answered."""
        if self._worker is not None and self._worker.done():
            raise RuntimeError("the batching worker has ended")

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await self._gather()
            await self._hear_out()
            batch = self._lanes.take()
            if not batch:
                self._last = replace(self._last, is_followed=False)
                self._arrived.clear()
                continue
            started = time.perf_counter()
            pieces = [rows for _, rows in batch]
            try:
                answers = await self._computed(pieces)
                self._deliver(batch, answers, time.perf_counter() - started)
            except Exception as error:  # noqa: BLE001 (logged, and told to whom it belongs)
                # Here, once: each of the requests would log it again.
                self._fail(batch, unforeseen(error))
            now = time.perf_counter()
            self._last = _Last(len(batch), now, now - started, is_followed=self._is_full())

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
            before = len(self._lanes)
            await asyncio.sleep(0)
            if self._is_full() or time.perf_counter() > deadline:
                return
            quiet = 0 if len(self._lanes) > before else quiet + 1

    def _is_gathered(self) -> bool:
        enough = not self._wait_s and len(self._lanes) >= self._last.requests
        return enough or self._is_full()

    def _is_full(self) -> bool:
        return self._lanes.tokens >= self._lanes.batch_tokens

    def _deliver(
        self, batch: list[tuple[Job, Rows]], answers: list[FloatArray], compute_s: float
    ) -> None:
        tokens = sum(rows.token_count for _, rows in batch)
        # With what is done between batches where they follow one another.
        since_last_s = time.perf_counter() - self._last.ended
        pace = (since_last_s if self._last.is_followed else compute_s) / tokens
        # A small batch costs more a token, so it says something where it costs less.
        if 2 * tokens >= self._lanes.batch_tokens or pace < self._pace:
            self._paces.append(pace)
            self._pace = statistics.fmean(self._paces)
        self._observer.batch(rows=sum(len(rows) for _, rows in batch), tokens=tokens)
        for (job, _), answer in zip(batch, answers, strict=True):
            job.add(answer, compute_s)

    def _fail(self, batch: list[tuple[Job, Rows]], problem: ProblemError) -> None:
        """Only the requests of this batch fail; the rest of a split one is not run either."""
        for job, _ in batch:
            if not job.future.done():
                job.future.set_exception(problem)
