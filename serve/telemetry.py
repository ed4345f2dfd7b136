"""What the service counts: Prometheus metrics at Ray's metrics endpoint, prefix `ray_`.

Tags hold names of models and languages in service and status codes, never what a client wrote.
"""

from ray.serve.metrics import Counter, Histogram

__all__ = ["Observer", "RayMetrics"]

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
SIZES = [float(2**power) for power in range(14)]


class Observer:
    """Receives what happened; this one forgets it."""

    def request(
        self, *, model: str, language: str, status: int, inputs: int, tokens: int, seconds: float
    ) -> None:
        """One answer to /v1/classify; model and language are "" where none in service is named."""

    def batch(self, *, rows: int, tokens: int) -> None:
        """One batch was run, of whatever models and languages."""

    def waited(self, seconds: float, *, model: str, language: str) -> None:
        """A request was answered after this time in the queue."""

    def refused(self, *, model: str) -> None:
        """A version failed its checks and was not taken into service."""


class RayMetrics(Observer):
    """Counts in Ray's metrics; build it inside a replica, whose tags they then carry."""

    def __init__(self) -> None:
        kind = ("model", "language")
        self._requests = Counter(
            "langalign_requests", "answers to /v1/classify", tag_keys=(*kind, "status")
        )
        self._errors = Counter(
            "langalign_request_errors", "answers of status 400 and up", tag_keys=(*kind, "status")
        )
        self._inputs = Counter("langalign_inputs", "classified inputs", tag_keys=kind)
        self._tokens = Counter("langalign_tokens", "tokens of classified inputs", tag_keys=kind)
        self._latency = Histogram(
            "langalign_latency_s",
            "seconds from a request's head to the end of its answer",
            boundaries=SECONDS,
            tag_keys=kind,
        )
        self._queue = Histogram(
            "langalign_queue_s", "seconds before a batch", boundaries=SECONDS, tag_keys=kind
        )
        self._batch_rows = Histogram("langalign_batch_rows", "rows of a batch", boundaries=SIZES)
        self._batch_tokens = Histogram(
            "langalign_batch_tokens", "tokens of a batch", boundaries=SIZES
        )
        self._refused = Counter(
            "langalign_refused_versions", "versions that failed their checks", tag_keys=("model",)
        )

    def request(
        self, *, model: str, language: str, status: int, inputs: int, tokens: int, seconds: float
    ) -> None:
        """See Observer."""
        kind = {"model": model, "language": language}
        self._requests.inc(1, {**kind, "status": str(status)})
        if status >= 400:
            self._errors.inc(1, {**kind, "status": str(status)})
            return
        # A counter refuses to grow by nothing, and an empty text may have no tokens.
        self._inputs.inc(inputs, kind)
        if tokens:
            self._tokens.inc(tokens, kind)
        self._latency.observe(seconds, kind)

    def batch(self, *, rows: int, tokens: int) -> None:
        """See Observer."""
        self._batch_rows.observe(rows)
        self._batch_tokens.observe(tokens)

    def waited(self, seconds: float, *, model: str, language: str) -> None:
        """See Observer."""
        self._queue.observe(seconds, {"model": model, "language": language})

    def refused(self, *, model: str) -> None:
        """See Observer."""
        self._refused.inc(1, {"model": model})
