"""Faults of a request as RFC 9457 problem details; none of them repeats the user's text."""

import asyncio
import logging
import math
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import Response

from serve.schemas import PROBLEM_MEDIA_TYPE, Problem

__all__ = [
    "FAULT_DETAIL",
    "ProblemError",
    "in_time",
    "invalid_body",
    "overloaded",
    "problem_response",
    "unavailable",
    "unforeseen",
]

logger = logging.getLogger("ray.serve")

SHOWN_FAULTS = 20
# Places of a full service become free about this soon.
SOON_S = 1.0
FAULT_DETAIL = "a fault of the service, which its log explains"


class ProblemError(Exception):
    """A request that cannot be answered: the problem, and headers that belong to it."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        title = HTTPStatus(status).phrase
        self.problem = Problem(title=title, status=status, detail=detail, errors=errors)
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.problem, self.headers)


def _rebuilt(problem: Problem, headers: dict[str, str]) -> ProblemError:
    return ProblemError(problem.status, problem.detail, errors=problem.errors, headers=headers)


def overloaded(wait_s: float = SOON_S) -> ProblemError:
    """503 with Retry-After, in whole seconds."""
    return unavailable(
        "the queue is full: send the request again after the seconds that Retry-After names", wait_s
    )


def unavailable(detail: str, wait_s: float = SOON_S) -> ProblemError:
    """503 with Retry-After, in whole seconds, at least one."""
    return ProblemError(503, detail, headers={"Retry-After": str(max(1, math.ceil(wait_s)))})


def unforeseen(fault: Exception) -> ProblemError:
    """500; the log has what happened and where, without messages, which may hold a user's text."""
    link: BaseException | None = fault
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        kind = f"{type(link).__module__}.{type(link).__qualname__}"
        frames = "".join(traceback.format_tb(link.__traceback__))
        after = "" if link is fault else "after "
        logger.error("%s%s (its message is not logged) in\n%s", after, kind, frames)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return ProblemError(500, FAULT_DETAIL)


@asynccontextmanager
async def in_time(limit_s: float) -> AsyncIterator[None]:
    """Cancel the block after `limit_s` seconds: 504."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise ProblemError(
            504, f"no answer within {limit_s} s; send fewer inputs at a time, or later"
        ) from None


def invalid_body(error: ValidationError) -> ProblemError:
    """400 for bytes that are not JSON, 422 for JSON that breaks the schema."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    if faults[0]["type"] == "json_invalid":
        return ProblemError(400, f"the body is not JSON: {faults[0]['msg']}")
    shown = [{"place": _place(fault), "rule": fault["msg"]} for fault in faults[:SHOWN_FAULTS]]
    first = shown[0]
    place = first["place"] or "the body"
    return ProblemError(422, f"{place}: {first['rule']}; see /openapi.json", errors=shown)


def _place(fault: ErrorDetails) -> str:
    """Where a fault is; of a key that the schema does not know, what holds it."""
    place = fault["loc"][:-1] if fault["type"] == "extra_forbidden" else fault["loc"]
    return ".".join(map(str, place))


def problem_response(error: ProblemError) -> Response:
    """The HTTP answer."""
    return Response(
        error.problem.model_dump_json(exclude_none=True),
        status_code=error.problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=error.headers,
    )
