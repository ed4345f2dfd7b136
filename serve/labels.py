"""Labels of many rows from a running service: what `jobs/score.py service=URL` counts."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from serve.client import Client, ServiceError
from serve.schemas import ClassifyResponse

__all__ = ["ServiceLabels"]

Input = str | tuple[str, str]

# Small enough for every limit a service is likely to have, large enough to fill its batches.
ROWS_A_REQUEST = 32
BYTES_A_REQUEST = 2**18
REQUESTS_AT_ONCE = 8


class ServiceLabels:
    """Asks one model of a service about rows of one language; `version` is the one in service."""

    def __init__(self, client: Client, model: str) -> None:
        """Look the model up.

        Raises:
            ServiceError: the service is out of reach, refuses, or does not serve the model.
        """
        cards = {card.name: card for card in client.models()}
        if model not in cards:
            raise ServiceError(
                f"the service has no model {model}; it serves {', '.join(sorted(cards))}"
            )
        if cards[model].canary_version:
            raise ServiceError(
                f"model {model} has a canary, so two versions answer; end it first: "
                f"python -m serve.release promote {model}, or rollback {model}"
            )
        self._client = client
        self._model = model
        self.version = cards[model].version

    def ask(self, texts: Sequence[str], pairs: Sequence[str] | None, language: str) -> list[str]:
        """The label of every text, or (text, pair), in their order.

        Raises:
            ServiceError: the service refuses a request, or another version has taken over.
        """
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))

        def classify(part: Sequence[Input]) -> ClassifyResponse:
            return self._client.classify(part, language=language, model=self._model)

        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            answers = list(pool.map(classify, _parts(inputs)))
        for answer in answers:
            if answer.version != self.version:
                raise ServiceError(
                    f"version {answer.version} of {self._model} took over from {self.version} "
                    "while its rows were scored; run again"
                )
        return [prediction.label for answer in answers for prediction in answer.predictions]


def _parts(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """Inputs of a request each, in their order; one that is too long for any is alone in its."""
    part: list[Input] = []
    size = 0
    for one in inputs:
        own = sum(len(text.encode()) for text in ([one] if isinstance(one, str) else one))
        if part and (len(part) == ROWS_A_REQUEST or size + own > BYTES_A_REQUEST):
            yield part
            part, size = [], 0
        part.append(one)
        size += own
    if part:
        yield part
