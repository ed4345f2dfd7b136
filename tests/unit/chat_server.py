"""A stand-in for an OpenAI-compatible service: it translates by the dictionary, or misbehaves."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from langalign.counterpart import Counterpart

PROMPT_TOKENS, COMPLETION_TOKENS = 7, 3


@dataclass
class ChatServer:
    """What the service was asked, and what it is to answer instead of a translation.

    `refusals` are (status, headers) of the next calls, the first one first; `answer` replaces the
    body of every good answer; a text in `broken` is always refused with its status. A refusal
    shows the key that was sent. `cut` are texts whose answers end at a limit of tokens.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    answer: bytes | None = None
    broken: dict[str, int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        with self.lock:
            self.requests.append(body)
            self.keys.append(key)
            if self.refusals:
                status, headers = self.refusals.pop(0)
                return status, headers, json.dumps({"error": "not now", "sent": key}).encode()
        text = next(m["content"] for m in body["messages"] if m["role"] == "user")
        if text in self.broken:
            return self.broken[text], {}, b'{"error": "this text is not allowed"}'
        if self.answer is not None:
            return 200, {}, self.answer
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
        message = {"role": "assistant", "content": f" {Counterpart().translate(text)}\n"}
        choice = {"message": message, "finish_reason": "length" if text in self.cut else "stop"}
        return 200, {}, json.dumps({"choices": [choice], "usage": usage}).encode()


@contextmanager
def serving() -> Iterator[ChatServer]:
    """The service on a free port of this machine."""
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with chat.lock:
                chat.at_once += 1
                chat.most_at_once = max(chat.most_at_once, chat.at_once)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, data = chat.reply(body, self.headers.get("Authorization"))
            if self.path != "/v1/chat/completions":
                status, headers, data = 404, {}, b"no such path"
            with chat.lock:
                chat.at_once -= 1
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
