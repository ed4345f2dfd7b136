"""The HTTP face: routes, limits, API keys, problem details; starts nothing of Ray."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from serve.counting import CLASSIFY, Asked
from serve.direct import DirectAPI, Endpoint
from serve.keys import KeyFile
from serve.problems import (
    FAULT_DETAIL,
    ProblemError,
    invalid_body,
    overloaded,
    problem_response,
    unavailable,
    unforeseen,
)
from serve.schemas import (
    PROBLEM_MEDIA_TYPE,
    ClassifyRequest,
    ClassifyResponse,
    Health,
    ModelList,
    Problem,
)
from serve.service import Backend
from serve.settings import Limits
from serve.telemetry import Observer

__all__ = ["create_api"]

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PROBLEMS = {
    400: "the body is not JSON",
    401: "no API key, or a wrong one",
    404: "no such model",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is not called application/json",
    422: "the body breaks the schema or a limit, or the language is unknown",
    503: "the queue is full; Retry-After says when to come back",
    504: "no answer in time",
}

AWAY = "no model is loaded yet, or no encoder answers"

BEARER = HTTPBearer(auto_error=False, description="a key of `python -m serve.keys new NAME`")


def create_api(
    backend: Backend, limits: Limits, keys: KeyFile | None, observer: Observer | None = None
) -> FastAPI:
    """The application; without `keys` everybody may ask, without `observer` nobody counts."""
    api = DirectAPI(
        _classify_endpoint(backend, limits, keys),
        observer or Observer(),
        title="LangAlign",
        summary="Classifiers for languages without labelled text",
        version="1",
        docs_url=None,  # FastAPI's own page loads its scripts from another host
        redoc_url=None,
    )
    _add_versioned(api, backend, keys)
    _add_health(api, backend)
    _add_pages(api)
    api.add_exception_handler(ProblemError, _on_problem)
    api.add_exception_handler(HTTPException, _on_http_exception)
    api.add_exception_handler(Exception, _on_fault)
    api.openapi = lambda: _schema(api, limits)  # type: ignore[method-assign]
    return api


def _classify_endpoint(backend: Backend, limits: Limits, keys: KeyFile | None) -> Endpoint:
    places = asyncio.Semaphore(limits.ongoing_requests)

    async def answer(request: Request) -> Response:
        _check_key(keys, request)
        if places.locked():
            raise overloaded()
        async with places:
            # Read here and not by FastAPI, which has no limit and would keep the faulty input.
            body = await _read_body(request, limits)
            return _json(await _classified(body, backend, request.scope["asked"]))

    async def classify(request: Request) -> Response:
        try:
            return await answer(request)
        except ProblemError as problem:
            return problem_response(problem)
        except Exception as fault:  # noqa: BLE001 (handed on, it would be logged with its message)
            return problem_response(unforeseen(fault))

    return classify


def _add_versioned(api: DirectAPI, backend: Backend, keys: KeyFile | None) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        status: _problem_answer(text) for status, text in PROBLEMS.items()
    }

    async def models(request: Request) -> Response:
        _check_key(keys, request)
        return _json(ModelList(models=await backend.models()))

    # For the document only; `_check_key` is what refuses.
    documented = [Depends(BEARER)] if keys else []
    api.router.add_api_route(
        CLASSIFY,
        api.classify,
        methods=["POST"],
        summary="Classify texts of one language",
        responses={200: {"model": ClassifyResponse}, **responses},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ref(ClassifyRequest)}},
            }
        },
        dependencies=documented,
    )
    api.router.add_api_route(
        "/v1/models",
        models,
        summary="List the models in service",
        responses={
            200: {"model": ModelList},
            401: responses[401],
            503: _problem_answer(AWAY),
        },
        dependencies=documented,
    )


def _add_health(api: FastAPI, backend: Backend) -> None:
    @api.get("/healthz", summary="The process answers", responses={200: {"model": Health}})
    async def healthz() -> Response:
        return _json(Health())

    @api.get(
        "/readyz",
        summary="Models are loaded",
        responses={200: {"model": Health}, 503: _problem_answer(AWAY)},
    )
    async def readyz() -> Response:
        if not await backend.models():
            raise unavailable("no model is loaded yet; ask again soon")
        return _json(Health())


def _add_pages(api: FastAPI) -> None:
    files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.is_file()}
    media_types = {name: MEDIA_TYPES[Path(name).suffix] for name in files}

    def page(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=media_types[name], headers=PAGE_HEADERS)

    @api.get("/", include_in_schema=False)
    async def index() -> Response:
        return page("index.html")

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return page("docs.html")

    @api.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return page(name)


def _check_key(keys: KeyFile | None, request: Request) -> None:
    """Let holders of a key pass, and everybody where there are no keys."""
    if keys is None:
        return
    scheme, key = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() == "bearer" and keys.holder(key) is not None:
        return
    problem = "a wrong API key" if scheme.lower() == "bearer" else "no API key"
    raise ProblemError(
        401,
        f"{problem}: send the header Authorization: Bearer KEY",
        headers={"WWW-Authenticate": "Bearer"},
    )


async def _read_body(request: Request, limits: Limits) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ProblemError(415, "send the header Content-Type: application/json")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        raise ProblemError(
            408, f"the body did not arrive within {limits.body_s} s; send it again"
        ) from None
    except ClientDisconnect:
        raise ProblemError(400, "the client left before the body was whole") from None
    return bytes(body)


def _too_large(limits: Limits) -> ProblemError:
    return ProblemError(413, f"the body may have {limits.body_bytes} bytes; send several requests")


async def _classified(body: bytes, backend: Backend, asked: Asked) -> ClassifyResponse:
    try:
        wanted = ClassifyRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from None
    asked.model, asked.language = await backend.model_of(wanted), wanted.language
    answer = await backend.classify(wanted)
    asked.inputs = len(answer.predictions)
    asked.tokens = sum(prediction.tokens for prediction in answer.predictions)
    return answer


def _json(answer: ClassifyResponse | ModelList | Health) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """A path or method that does not exist."""
    assert isinstance(error, HTTPException)
    detail = {404: "no such path; see /docs", 405: "another method is needed; see /docs"}
    return problem_response(
        ProblemError(
            error.status_code,
            detail.get(error.status_code, str(error.detail)),
            headers=error.headers,
        )
    )


async def _on_fault(request: Request, error: Exception) -> Response:
    """What nobody foresaw on the other paths, where a traceback that is logged holds no text."""
    return problem_response(ProblemError(500, FAULT_DETAIL))


def _ref(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _problem_answer(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": _ref(Problem)}},
    }


def _schema(api: FastAPI, limits: Limits) -> dict[str, Any]:
    """The OpenAPI document, with the request's schema, which FastAPI does not see, and limits."""
    if api.openapi_schema is None:
        document = get_openapi(
            title=api.title, version=api.version, summary=api.summary, routes=api.routes
        )
        template = "#/components/schemas/{model}"
        wanted = ClassifyRequest.model_json_schema(ref_template=template)
        wanted["properties"]["inputs"]["maxItems"] = limits.inputs
        schemas = document["components"]["schemas"]
        schemas.update(wanted.pop("$defs"))
        schemas["ClassifyRequest"] = wanted
        schemas["Problem"] = Problem.model_json_schema(ref_template=template)
        api.openapi_schema = document
    return api.openapi_schema
