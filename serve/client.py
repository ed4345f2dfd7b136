"""A small client of the service.

    with Client("http://127.0.0.1:8000") as client:
        client.classify(["정말 좋았다"], language="ko").predictions[0].label

A full service (503, a proxy's 502 or 429) is asked again after the seconds that Retry-After names,
and so is one whose connection breaks or whose proxy finds no replica (HAProxy's 500): classifying
twice does no harm. Everything else raises at once: no answer within `timeout_s`, and a wait of more
than 30 s, too.
"""

import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from langalign.errors import LangAlignError
from langalign.manifest import first_fault
from serve.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    ModelCard,
    ModelList,
    PairInput,
    Problem,
)

__all__ = ["Client", "ServiceError"]

RETRIED = (429, 502, 503)
# A service that has not answered in time is not helped by being asked once more.
HOPELESS = (httpx2.ReadTimeout, httpx2.WriteTimeout)
PROBLEM = "application/problem+json"
LONGEST_PAUSE_S = 30.0
Answer = TypeVar("Answer", bound=BaseModel)


class ServiceError(LangAlignError):
    """The service refused a request (`status`).

    None: it cannot be reached, is none of ours, or the request could only be refused.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One connection pool to one service; safe to share between threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 5,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`retries` is how often a request that may succeed later is sent again.

        Raises:
            ServiceError: `url` is no http:// or https:// address.
        """
        if not url.startswith(("http://", "https://")):
            raise ServiceError(f"the address {url} begins with neither http:// nor https://")
        self._retries = retries
        self._sleep = sleep
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.Client(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def classify(
        self,
        inputs: Sequence[str | tuple[str, str]],
        *,
        language: str,
        model: str | None = None,
        top_k: int | None = None,
        compare: bool = False,
    ) -> ClassifyResponse:
        """Classify texts, or (premise, hypothesis) tuples; answers come in their order.

        Raises:
            ServiceError: the service refuses the request, or would, or stays out of reach.
        """
        try:
            request = ClassifyRequest(
                model=model,
                language=language,
                inputs=[
                    entry
                    if isinstance(entry, str)
                    else PairInput(premise=entry[0], hypothesis=entry[1])
                    for entry in inputs
                ],
                top_k=top_k,
                compare=compare,
            )
            body = request.model_dump_json(exclude_defaults=True)
        except ValidationError as error:
            # Not as the cause: its text repeats the input.
            raise ServiceError(f"{first_fault(error)}; nothing was sent") from None
        except PydanticSerializationError:
            raise ServiceError(
                "a text holds half of a surrogate pair, which is no character; replace it"
            ) from None
        return _read(self._send("POST", "/v1/classify", body), ClassifyResponse)

    def models(self) -> list[ModelCard]:
        """The models in service.

        Raises:
            ServiceError: as for `classify`.
        """
        return _read(self._send("GET", "/v1/models"), ModelList).models

    def _send(self, method: str, path: str, body: str | None = None) -> httpx2.Response:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        for attempt in range(self._retries + 1):
            is_last = attempt == self._retries
            try:
                answer = self._http.request(method, path, content=body, headers=headers)
            except httpx2.TransportError as error:
                if is_last or isinstance(error, HOPELESS):
                    raise ServiceError(
                        f"no answer from {self._http.base_url}: {type(error).__name__}: {error}; "
                        "check the address and that the service runs"
                    ) from error
                pause_s = None
            else:
                if answer.is_success:
                    return answer
                if is_last or not _may_succeed_later(answer):
                    raise ServiceError(_problem(answer), answer.status_code)
                pause_s = _retry_after_s(answer)
            self._sleep(pause_s or _backoff_s(attempt))
        raise AssertionError("the last attempt returns or raises")


def _may_succeed_later(answer: httpx2.Response) -> bool:
    """Whether the service was full or away; a 500 of its own is a problem, and no proxy's."""
    is_proxys = not answer.headers.get("content-type", "").startswith(PROBLEM)
    return answer.status_code in RETRIED or (answer.status_code == 500 and is_proxys)


def _retry_after_s(answer: httpx2.Response) -> float | None:
    """Seconds that the service asks for; its dates, which RFC 9110 allows, it never sends.

    Raises:
        ServiceError: it asks for more than a caller would wait.
    """
    value = answer.headers.get("retry-after", "")
    pause_s = float(value) if value.isdecimal() else None
    if pause_s is not None and pause_s > LONGEST_PAUSE_S:
        raise ServiceError(
            f"{_problem(answer)}; it wants a wait of {value} s, and this client waits "
            f"{LONGEST_PAUSE_S:.0f} s at most: ask again then",
            answer.status_code,
        )
    return pause_s


def _backoff_s(attempt: int) -> float:
    """Up to 0.2 s, then twice as much each time, so that clients do not return together."""
    longest = min(0.2 * 2.0**attempt, LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)


def _read(answer: httpx2.Response, kind: type[Answer]) -> Answer:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise ServiceError(
            f"{answer.url} answers, but not as this service does ({first_fault(error)}); check the "
            "address, and that client and service are of one release"
        ) from error


def _problem(answer: httpx2.Response) -> str:
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        return f"{answer.status_code} {answer.reason_phrase} from {answer.url}"
    return f"{problem.status} {problem.title}: {problem.detail}"
