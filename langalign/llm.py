"""Translation by a large language model behind an OpenAI-compatible API (section 3.2, figure 6).

The key is read from the environment by the caller, sent in one header, and kept nowhere else.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2

from langalign.errors import TranslationError
from langalign.translation import Translated, Usage

__all__ = ["ChatOptions", "ChatTranslator"]

# Refusals that pass: too many requests, and a server that is busy, restarting or slow.
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE_S = 60.0
FIRST_PAUSE_S = 0.5


@dataclass(frozen=True)
class ChatOptions:
    """What is asked of which model. The paper's: one system message before, one after the text.

    `requests_per_minute` limits all threads together; None leaves it to the service.
    """

    url: str
    model: str
    prompt: str
    tail: str | None = None
    temperature: float = 1.0
    concurrency: int = 8
    requests_per_minute: float | None = None
    retries: int = 6
    timeout_s: float = 60.0


class ChatTranslator:
    """Sends each text in a call of its own, a few at a time."""

    def __init__(
        self,
        options: ChatOptions,
        api_key: str | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.options = options
        self._sleep = sleep
        self._gate = _Gate(options.requests_per_minute, sleep)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.Client(
            base_url=options.url.rstrip("/"), headers=headers, timeout=options.timeout_s
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def identity(self) -> list[Any]:
        """Model and prompt; how fast it is asked changes nothing."""
        own = self.options
        return ["chat", own.url, own.model, own.prompt, own.tail, own.temperature]

    def translate(self, texts: Sequence[str]) -> list[Translated]:
        """One translation for each text, in their order.

        Raises:
            TranslationError: the service refuses, stays away, or answers with no text.
        """
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            futures = [pool.submit(self._one, text) for text in texts]
            try:
                return [future.result() for future in futures]
            except TranslationError:
                # What has not begun would cost money for nothing.
                for future in futures:
                    future.cancel()
                raise

    def _one(self, text: str) -> Translated:
        own = self.options
        messages = [{"role": "system", "content": own.prompt}, {"role": "user", "content": text}]
        if own.tail:
            messages.append({"role": "system", "content": own.tail})
        body = {"model": own.model, "temperature": own.temperature, "messages": messages}
        calls = 0
        while True:
            self._gate.wait()
            calls += 1
            problem, pause = "", None
            try:
                response = self._http.post("/chat/completions", json=body)
                if response.status_code == httpx2.codes.OK:
                    return _read(response, text, calls)
                problem = f"HTTP {response.status_code}: {' '.join(response.text.split())[:200]}"
                if response.status_code not in RETRIED:
                    raise TranslationError(f"{own.url} refused {own.model}: {problem}")
                pause = _retry_after(response)
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            if calls > own.retries:
                raise TranslationError(
                    f"{own.url} did not answer in {calls} calls ({problem}); run again to go on, "
                    f"or raise translator.retries or lower translator.concurrency"
                )
            self._sleep(_pause(calls, pause))


class _Gate:
    """Lets one call pass every so often, whatever the number of threads."""

    def __init__(self, per_minute: float | None, sleep: Callable[[float], None]) -> None:
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        if not self._interval_s:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval_s
        if turn > now:
            self._sleep(turn - now)


def _read(response: httpx2.Response, text: str, calls: int) -> Translated:
    try:
        answer = response.json()
        content = answer["choices"][0]["message"]["content"]
        used = answer.get("usage") or {}
        tokens = int(used.get("prompt_tokens", 0)), int(used.get("completion_tokens", 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise TranslationError(
            f"the answer to {text[:60]!r} is no chat completion ({type(error).__name__}); check "
            f"that translator.url ends where /chat/completions begins"
        ) from error
    if not isinstance(content, str):
        raise TranslationError(f"the answer to {text[:60]!r} holds no text; use another model")
    return Translated(content.strip(), Usage(calls, *tokens))


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.replace(".", "", 1).isdigit() else None


def _pause(calls: int, asked: float | None) -> float:
    """Seconds: what the service asks for, else doubling; spread, so that threads part."""
    pause = FIRST_PAUSE_S * 2 ** (calls - 1) if asked is None else asked
    return min(pause, LONGEST_PAUSE_S) * random.uniform(1.0, 1.3)  # noqa: S311 - no secret
