"""Translation by a large language model behind an OpenAI-compatible API (section 3.2, figure 6).

The key is read from the environment by the caller, sent in one header, and kept nowhere else: what
a service or a library says of a failed call is shown without it.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

import httpx2

from langalign.errors import ConfigError, TranslationError
from langalign.translation import Keep, Translated, Usage

__all__ = ["ChatOptions", "ChatTranslator"]

# Refusals that pass: too many requests, and a server that is busy, restarting or slow.
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
# Refusals of this one text: a content filter, or more of it than the model takes.
OF_TEXT = (400, 413, 422)
# Of our own back-off; what the service asks for is kept to.
LONGEST_PAUSE_S = 60.0
FIRST_PAUSE_S = 0.5
_SECONDS = re.compile(r"\d{1,9}(\.\d*)?", re.ASCII)


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
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`sleep` is for tests; by default a pause ends where the work does.

        Raises:
            ConfigError: no header can hold the key.
        """
        self.options = options
        self._key = _checked(api_key)
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        self._gate = _Gate(options.requests_per_minute, self._sleep)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
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

    def translate(self, texts: Sequence[str], keep: Keep) -> None:
        """Hand every text with its answer to `keep`, as answers come.

        Whatever ends it early, Ctrl-C included: nothing more is asked, and what is under way, and
        so paid for, is waited for and kept.

        Raises:
            TranslationError: the service refuses the job, stays away, or is none.
        """
        self._stop.clear()
        waiting, window = iter(texts), 2 * self.options.concurrency
        pending: dict[Future[Translated], str] = {}
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            try:
                while True:
                    for text in islice(waiting, window - len(pending)):
                        pending[pool.submit(self._one, text)] = text
                    if not pending:
                        return
                    done, _ = wait(pending, return_when=FIRST_COMPLETED)
                    keep([(pending[each], each.result()) for each in done])
                    for each in done:
                        del pending[each]
            except BaseException:
                self._stop.set()
                keep(_answered(pending))
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
            if self._stop.is_set():
                raise TranslationError(f"{text[:60]!r} was not asked for: the job has ended")
            calls += 1
            pause = None
            try:
                response = self._http.post("/chat/completions", json=body)
            except httpx2.LocalProtocolError:
                # Its text is the header that no request may have.
                raise TranslationError(
                    f"no request to {own.url} can be sent; check translator.url and the key"
                ) from None
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {self._shown(str(error))}"
            else:
                if response.status_code == httpx2.codes.OK:
                    return self._read(response, text, calls)
                problem = f"HTTP {response.status_code}: {self._shown(response.text)}"
                if response.status_code in OF_TEXT:
                    return Translated(None, Usage(calls), refusal=problem, is_paid=False)
                if response.status_code not in RETRIED:
                    raise TranslationError(f"{own.url} refused {own.model}: {problem}")
                pause = _retry_after(response)
            if calls > own.retries:
                raise TranslationError(
                    f"{own.url} did not answer in {calls} calls ({problem}); run again to go on, "
                    f"or raise translator.retries or lower translator.concurrency"
                )
            self._sleep(_pause(calls, pause))

    def _read(self, response: httpx2.Response, text: str, calls: int) -> Translated:
        """The translation; an answer that is cut, withheld or empty is a refusal, and was paid."""
        try:
            answer = response.json()
            choice = answer["choices"][0]
            content, reason = choice["message"].get("content"), choice.get("finish_reason")
            used = answer.get("usage") or {}
            tokens = [int(used.get(f"{side}_tokens") or 0) for side in ("prompt", "completion")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise TranslationError(
                f"the answer to {text[:60]!r} is no chat completion ({type(error).__name__}); "
                f"check that translator.url ends where /chat/completions begins"
            ) from error
        usage = Usage(calls, *tokens)
        if reason and reason != "stop":
            refusal = f"the answer is cut or withheld, finish_reason={self._shown(str(reason))}"
            return Translated(None, usage, refusal)
        if not isinstance(content, str) or not content.strip():
            return Translated(None, usage, "the answer holds no text")
        return Translated(content.strip(), usage)

    def _shown(self, text: str) -> str:
        """What another party says, on one line, short, and without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:200]


class _Gate:
    """Lets one call pass every so often, whatever the number of threads."""

    def __init__(self, per_minute: float | None, sleep: Callable[[float], object]) -> None:
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


def _checked(api_key: str | None) -> str | None:
    """The key without white space around it; none where nothing is left."""
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "the API key holds a line end or a character that no HTTP header may hold; set "
            "OPENAI_API_KEY to the key alone"
        )
    return key or None


def _answered(pending: Mapping[Future[Translated], str]) -> list[tuple[str, Translated]]:
    """What comes of the calls that are under way; those that are not are dropped."""
    for future in pending:
        future.cancel()
    return [
        (text, future.result())
        for future, text in pending.items()
        if not future.cancelled() and future.exception() is None
    ]


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, which the header gives as such or as a date; None where it gives neither."""
    value = response.headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date without a zone is of Greenwich.
    then = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


def _pause(calls: int, asked: float | None) -> float:
    """Seconds: at least what the service asks for, else doubling; spread, so that threads part."""
    own = min(FIRST_PAUSE_S * 2.0 ** (calls - 1), LONGEST_PAUSE_S)
    spread = random.uniform(0.0, 0.3)  # noqa: S311 - no secret
    return own * (1 + spread) if asked is None else asked + own * spread
