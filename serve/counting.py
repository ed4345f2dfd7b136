"""Counts every answer to /v1/classify, whoever gave it: the application, a limit, or a fault."""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.telemetry import Observer

__all__ = ["CLASSIFY", "Asked", "CountAnswers"]

CLASSIFY = "/v1/classify"
# As proxies log it; nobody is left to receive it.
CLIENT_GONE = 499
FAULT = 500


@dataclass
class Asked:
    """What is known of a request so far; `model` and `language` are ones in service, or ""."""

    model: str = ""
    language: str = ""
    inputs: int = 0
    tokens: int = 0


class CountAnswers:
    """ASGI middleware; the application fills the Asked that it finds in `scope["asked"]`."""

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["asked"] = Asked()
        if scope["type"] != "http" or not scope["path"].endswith(CLASSIFY):
            await self._app(scope, receive, send)
            return
        status = FAULT
        started = time.perf_counter()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except asyncio.CancelledError:
            status = CLIENT_GONE
            raise
        finally:
            self._observer.request(
                model=asked.model,
                language=asked.language,
                status=status,
                inputs=asked.inputs,
                tokens=asked.tokens,
                seconds=time.perf_counter() - started,
            )
