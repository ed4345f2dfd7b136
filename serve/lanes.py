"""Requests that wait for the model, and which of them make the next batch.

A request that fits into a batch waits in one lane and is never split; a longer one waits in the
other, and batches take pieces of it. In each lane the first is done before the next begins: with
turns for all, each of N long requests would take N times as long, as will whoever comes later.
While both lanes hold requests, batches begin with one and the other in turn and fill up from the
other: each batch of short ones waits for a piece of a long one.

Tokens are counted without padding.
"""

import time
from asyncio import Future
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serve.engine import Rows

__all__ = ["Answer", "Job", "Lanes"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """Probabilities (rows, C) of a request, and the seconds it waited and was worked on."""

    probabilities: FloatArray
    queue_s: float
    compute_s: float


@dataclass(eq=False)
class Job:
    """A request: what is left of it, what of its answer is there, and who waits for that."""

    rest: Rows
    future: "Future[Answer]"
    waits_since: float = field(default_factory=time.perf_counter)
    begun: bool = False
    parts: list[FloatArray] = field(default_factory=list)
    queue_s: float = 0.0
    compute_s: float = 0.0

    def add(self, part: FloatArray, compute_s: float) -> None:
        """The next rows of the answer; the last ones hand it over."""
        self.parts.append(part)
        self.compute_s += compute_s
        self.waits_since = time.perf_counter()
        if not len(self.rest) and not self.future.done():
            whole = np.concatenate(self.parts)
            self.future.set_result(Answer(whole, self.queue_s, self.compute_s))


class _Lane:
    """Jobs in the order of their coming."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.tokens = 0

    def append(self, job: Job) -> None:
        self.jobs.append(job)
        self.tokens += job.rest.token_count

    def cut(self, rows: int) -> tuple[Job, Rows]:
        """The next rows of the first job, which leaves with its last ones."""
        job = self.jobs[0]
        piece, job.rest = job.rest.split(rows)
        job.queue_s += time.perf_counter() - job.waits_since
        job.begun = True
        self.tokens -= piece.token_count
        if not len(job.rest):
            self.jobs.popleft()
        return job, piece

    def remove(self, job: Job) -> None:
        self.jobs.remove(job)
        self.tokens -= job.rest.token_count

    def age_s(self) -> float:
        """How long the first one that has not begun has waited."""
        first = next((job for job in self.jobs if not job.begun), None)
        return time.perf_counter() - first.waits_since if first else 0.0


class Lanes:
    """What waits, for batches of `batch_tokens` tokens; a single longer row is one of its own."""

    def __init__(self, batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens
        self._short, self._long = _Lane(), _Lane()
        self._long_begins = True

    def __len__(self) -> int:
        return len(self._short.jobs) + len(self._long.jobs)

    @property
    def tokens(self) -> int:
        """Of all that waits."""
        return self._short.tokens + self._long.tokens

    def append(self, job: Job) -> None:
        """Put a job at the end of its lane."""
        self._lane(job.rest.token_count).append(job)

    def forget(self, job: Job) -> None:
        """Take no more of a job that failed, whose client has gone, or whose time is up."""
        for lane in (self._short, self._long):
            if job in lane.jobs:
                lane.remove(job)

    def age_s(self, tokens: int) -> float:
        """How long the first one in the lane of a request of `tokens` tokens has waited."""
        return self._lane(tokens).age_s()

    def ahead_of(self, tokens: int) -> int:
        """About how many tokens of those here are taken before the last of a newcomer's `tokens`.

        As if both lanes had as much of each batch while both have any.
        """
        own = self._lane(tokens)
        other = self._long if own is self._short else self._short
        return own.tokens + min(other.tokens, own.tokens + max(tokens, self.batch_tokens))

    def take(self) -> list[tuple[Job, Rows]]:
        """The next batch: jobs, and the rows of each that are in it."""
        batch: list[tuple[Job, Rows]] = []
        begins_long = self._long_begins
        if self._short.jobs and self._long.jobs:
            self._long_begins = not begins_long
        if begins_long:
            left = self._take_pieces(batch, self.batch_tokens)
            self._take_whole(batch, left)
        else:
            left = self._take_whole(batch, self.batch_tokens)
            self._take_pieces(batch, left)
        return batch

    def _lane(self, tokens: int) -> _Lane:
        return self._short if tokens <= self.batch_tokens else self._long

    def _take_whole(self, batch: list[tuple[Job, Rows]], budget: int) -> int:
        lane = self._short
        while lane.jobs and (tokens := lane.jobs[0].rest.token_count) <= budget:
            batch.append(lane.cut(len(lane.jobs[0].rest)))
            budget -= tokens
        return budget

    def _take_pieces(self, batch: list[tuple[Job, Rows]], budget: int) -> int:
        lane = self._long
        while lane.jobs:
            fitting = lane.jobs[0].rest.rows_within(budget)
            if batch and not fitting:
                break
            batch.append(lane.cut(max(1, fitting)))
            budget -= batch[-1][1].token_count
        return budget
