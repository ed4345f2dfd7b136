"""Models on a real S3 server: serving goes on while it is down, and updates come afterwards."""

import secrets
import time
from pathlib import Path

import pytest
from published import publish, write_encoder
from real_service import running_service

from cluster.seaweed import Identity, Seaweed, seaweed_ports
from serve.client import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WATCH_S = 0.5
WAIT_S = 60.0


def test_storage_goes_down_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Identity("owner", "owner", secrets.token_hex())
    server = Seaweed(tmp_path / "s3", [owner], bucket="models", ports=seaweed_ports())
    server.start()
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    root, scratch = "s3://models/prefix", tmp_path / "scratch"
    encoder = write_encoder(tmp_path / "encoder")
    try:
        old = publish(root, encoder, scratch, seed=1).version
        settings = {"model": ["tiny"], "storage": root, "watch_s": WATCH_S}
        with running_service(tmp_path, **settings) as service, Client(service.url) as client:

            def version() -> str:
                return client.classify(["a"], language="xc").version

            assert version() == old
            server.stop()
            deadline = time.monotonic() + 10 * WATCH_S
            while time.monotonic() < deadline:
                assert version() == old
            server.start()
            new = publish(root, encoder, scratch, seed=2).version
            deadline = time.monotonic() + WAIT_S
            while version() != new:
                assert time.monotonic() < deadline, service.log.read_text()[-2000:]
            assert owner.secret_key not in service.log.read_text()
    finally:
        server.stop()
