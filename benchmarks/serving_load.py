"""Load on a server over keep-alive connections, from one process: closed and open loops."""

import asyncio
import json
import time
from dataclasses import dataclass

import numpy as np

__all__ = ["Load", "Measured", "run_load"]


@dataclass(frozen=True)
class Measured:
    """One load on one server; latencies in milliseconds."""

    way: str
    load: str
    connections: int
    per_s: float
    p50_ms: float
    p99_ms: float
    refused: int
    failed: int


class Load:
    """Requests over keep-alive connections; collects latencies by status."""

    def __init__(self, port: int, bodies: list[bytes], seconds: float) -> None:
        self._port = port
        self._bodies = bodies
        self._seconds = seconds
        self.latencies_s: list[float] = []
        self.refused = 0
        self.failed = 0

    async def closed(self, connections: int) -> None:
        """Each connection asks again as soon as it is answered; refused, after Retry-After."""
        deadline = time.perf_counter() + self._seconds
        await asyncio.gather(*[self._asker(n, deadline) for n in range(connections)])

    async def open(self, per_s: float, connections: int) -> None:
        """Arrivals by a Poisson process; an arrival without a free connection waits for one."""
        arrivals: asyncio.Queue[float | None] = asyncio.Queue()
        workers = [asyncio.create_task(self._worker(n, arrivals)) for n in range(connections)]
        gaps = np.random.default_rng(1).exponential(1 / per_s, size=int(per_s * self._seconds))
        moment = time.perf_counter()
        for gap in gaps:
            moment += gap
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            arrivals.put_nowait(moment)
        for _ in workers:
            arrivals.put_nowait(None)
        await asyncio.gather(*workers)

    async def _asker(self, number: int, deadline: float) -> None:
        streams = await asyncio.open_connection("127.0.0.1", self._port)
        place = number * 37
        while (began := time.perf_counter()) < deadline:
            pause_s = await self._ask(streams, place, began)
            await asyncio.sleep(min(pause_s, max(0.0, deadline - time.perf_counter())))
            place += 1
        streams[1].close()

    async def _worker(self, number: int, arrivals: "asyncio.Queue[float | None]") -> None:
        streams = await asyncio.open_connection("127.0.0.1", self._port)
        place = number * 37
        while (moment := await arrivals.get()) is not None:
            try:
                await self._ask(streams, place, moment)
            except (asyncio.IncompleteReadError, ConnectionError):
                # Servers close what was idle for long: uvicorn after 5 s.
                streams = await asyncio.open_connection("127.0.0.1", self._port)
                await self._ask(streams, place, moment)
            place += 1
        streams[1].close()

    async def _ask(
        self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], place: int, began: float
    ) -> float:
        """One request, which began at `began`; returns the seconds that the server wants waited."""
        reader, writer = streams
        writer.write(self._bodies[place % len(self._bodies)])
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"content-length"]))
        status = int(head.split(b" ", 2)[1])
        if status == 200:
            self.latencies_s.append(time.perf_counter() - began)
        elif status == 503:
            self.refused += 1
        else:
            self.failed += 1
        return float(fields.get(b"retry-after", 0))


def run_load(
    way: str, port: int, texts: list[str], seconds: float, connections: int, per_s: float | None
) -> Measured:
    """One load, in the process that calls."""
    bodies = []
    for text in texts:
        body = json.dumps({"language": "en", "inputs": [text]}).encode()
        head = (
            f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        bodies.append(head.encode() + body)
    warm_up = Load(port, bodies, min(2.0, seconds))
    asyncio.run(warm_up.closed(connections))
    load = Load(port, bodies, seconds)
    began = time.perf_counter()
    asyncio.run(load.closed(connections) if per_s is None else load.open(per_s, connections))
    elapsed_s = time.perf_counter() - began
    p50, p99 = np.percentile(load.latencies_s, [50, 99]) * 1000
    shown = f"{connections} connections" if per_s is None else f"open loop, {per_s:.0f} arrivals/s"
    answered = len(load.latencies_s)
    per_s_seen = answered / elapsed_s
    return Measured(way, shown, connections, per_s_seen, p50, p99, load.refused, load.failed)
