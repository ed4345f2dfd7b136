"""Fixtures for all tests: a clean environment, and a real S3-compatible server on demand."""

import os
from collections.abc import Iterator

import pytest
from seaweed import SeaweedServer

# Ray reads its mode when it is imported, and without one the answer depends on what ran before:
# the first local cluster leaves a token file, and from then on other commands ask for it.
os.environ["RAY_AUTH_MODE"] = "token"


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedServer]:
    server = SeaweedServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's storage, Ray cluster, keys, AWS files or instance role."""
    for variable in list(os.environ):
        if variable.startswith("AWS_") or variable in ("LANGALIGN_STORAGE", "RAY_ADDRESS"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
