"""What a run counts for Prometheus, beside Ray's own metrics; Ray's endpoint puts `ray_` before.

Where Ray is not connected nothing is counted.
"""

from ray.util.metrics import Counter, Gauge

from cluster.monitor import Progress

__all__ = ["EmbeddedTexts", "RunGauges"]


class EmbeddedTexts:
    """Texts and tokens that an encoder has embedded; build it inside the actor."""

    def __init__(self) -> None:
        tags = ("language",)
        self._texts = Counter("langalign_embedded_texts", "texts embedded", tag_keys=tags)
        self._tokens = Counter("langalign_embedded_tokens", "their tokens", tag_keys=tags)

    def add(self, *, language: str, texts: int, tokens: int) -> None:
        """One part is done."""
        self._texts.inc(texts, {"language": language})
        self._tokens.inc(tokens, {"language": language})


class RunGauges:
    """Where a run stands; build it in the driver, once Ray is connected."""

    def __init__(self) -> None:
        self._done = Gauge("langalign_step_done", "units done of a step", tag_keys=("step",))
        self._total = Gauge("langalign_step_total", "all units of a step", tag_keys=("step",))
        self._score = Gauge("langalign_best_score", "best score of the trials so far, 0 to 1")

    def show(self, progress: Progress) -> None:
        """A step went on."""
        self._done.set(progress.done, {"step": progress.step})
        self._total.set(progress.total, {"step": progress.step})
        if progress.score is not None:
            self._score.set(progress.score)
