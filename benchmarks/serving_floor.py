"""What Ray Serve and its ingress leave to an application: one that reads a request and answers.

benchmarks/serving.py serves it in the way of the service, as the server `empty`.
"""

from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

# About as long as the service's answer to one sentence of two labels.
ANSWER = b'{"answer":"' + b"x" * 300 + b'"}'


async def _classify(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/json")


async def _ready(request: Request) -> Response:
    return Response(b"{}", media_type="application/json")


routes = [Route("/v1/classify", _classify, methods=["POST"]), Route("/readyz", _ready)]


@serve.deployment(max_ongoing_requests=2048)
@serve.ingress(Starlette(routes=routes))
class Empty:
    """Holds nothing."""


app = Empty.bind()
