"""What is retried and what is not, against an HTTP server that fails on purpose."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from endpoints import dripping_endpoint

from langalign.errors import StorageError
from langalign.storage import Storage

Answer = tuple[int, str]  # status, S3 error code ("" for none)


@dataclass
class Script:
    """Answers in turn, the last one for ever after; keeps what was asked."""

    answers: list[Answer]
    requests: list[str] = field(default_factory=list)
    root: str = "s3://bucket/prefix"

    def reply(self, request: str) -> Answer:
        self.requests.append(request)
        return self.answers[min(len(self.requests), len(self.answers)) - 1]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Script]]:
    servers = []

    def start(*answers: Answer) -> Script:
        script = Script(list(answers))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                condition = " if-none-match" if "If-None-Match" in self.headers else ""
                status, code = script.reply(f"{self.command} {self.path}{condition}")
                body = f"<Error><Code>{code}</Code><Message>m</Message></Error>" if code else ""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_PUT = do_GET = do_HEAD = do_DELETE = answer

            def log_message(self, format: str, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://localhost:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        return script

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_named_endpoint_gets_the_bucket_in_the_path(serve: Callable[..., Script]) -> None:
    script = serve((200, ""))
    Storage(script.root).write_bytes("key", b"data")
    assert script.requests == ["PUT /bucket/prefix/key"]


@pytest.mark.parametrize(
    "fault", [(503, "SlowDown"), (500, "InternalError"), (502, ""), (429, "TooManyRequests")]
)
def test_passing_faults_are_retried(serve: Callable[..., Script], fault: Answer) -> None:
    script = serve(fault, fault, fault, (200, ""))
    Storage(script.root).write_bytes("key", b"data")
    assert len(script.requests) == 4


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ((403, "AccessDenied"), "access denied"),
        ((403, "InvalidAccessKeyId"), "refuses the credentials"),
        ((403, "SignatureDoesNotMatch"), "refuses the credentials"),
        ((400, "ExpiredToken"), "refuses the credentials"),
        ((403, "RequestTimeTooSkewed"), "the clocks differ.*set this machine's clock"),
        ((404, "NoSuchBucket"), "no such bucket"),
        ((404, "NoSuchKey"), "no such object"),
        ((507, "InsufficientStorage"), "no space left"),
        ((400, "AuthorizationHeaderMalformed"), "another region"),
        ((400, "EntityTooLarge"), "refuses the request"),
    ],
)
def test_lasting_faults_are_not_retried(
    serve: Callable[..., Script], fault: Answer, cause: str
) -> None:
    script = serve(fault)
    with pytest.raises(StorageError, match=cause) as caught:
        Storage(script.root).read_bytes("key")
    assert len(script.requests) == 1
    assert fault[1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_busy_server_fails_the_check(serve: Callable[..., Script]) -> None:
    script = serve((503, "SlowDown"))
    with pytest.raises(StorageError, match="answers with faults"):
        Storage(script.root).check()


def test_check_ends_although_the_server_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langalign.storage.CHECK_LIMIT_S", 1.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with dripping_endpoint() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{endpoint}")
        with pytest.raises(StorageError, match="no answer within 1 s"):
            Storage("s3://bucket").check()


GIVES_UP = """
from langalign import storage
from langalign.errors import StorageError

storage.CHECK_LIMIT_S = 1.0
try:
    storage.Storage("s3://bucket").check()
except StorageError as error:
    print(error)
"""


def test_a_process_ends_although_its_check_still_hangs() -> None:
    with dripping_endpoint() as endpoint:
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        ended = subprocess.run(
            [sys.executable, "-c", GIVES_UP],
            env={**os.environ, **keys, "AWS_ENDPOINT_URL_S3": f"http://{endpoint}"},
            capture_output=True,
            text=True,
            timeout=60,  # for ever, where the process waits for the check
        )
    assert "no answer within 1 s" in ended.stdout
    assert ended.returncode == 0, ended.stderr


def test_create_works_on_servers_without_conditional_writes(serve: Callable[..., Script]) -> None:
    script = serve((501, "NotImplemented"), (404, ""), (200, ""))
    assert Storage(script.root).create_bytes("key", b"data")
    assert [request.split()[0] for request in script.requests] == ["PUT", "HEAD", "PUT"]
    assert [request.endswith("if-none-match") for request in script.requests] == [
        True,
        False,
        False,
    ]


def test_create_respects_an_object_without_conditional_writes(
    serve: Callable[..., Script],
) -> None:
    script = serve((501, "NotImplemented"), (200, ""))
    assert not Storage(script.root).create_bytes("key", b"data")
    assert [request.split()[0] for request in script.requests] == ["PUT", "HEAD"]


@pytest.mark.parametrize("endpoint", ["not a url", "http://host:port", "http://host/?token=hidden"])
def test_an_endpoint_that_is_no_url_is_a_storage_error(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StorageError, match="check the AWS_") as caught:
        Storage("s3://bucket").check()
    assert "hidden" not in str(caught.value)


def test_an_unknown_profile_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="no usable credentials"):
        Storage("s3://bucket").check()
