"""Fixtures for all tests: a clean environment, and a real S3-compatible server on demand."""

import os
from collections.abc import Iterator

import pytest
from seaweed import SeaweedServer


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
    """No test sees the developer's storage, keys, AWS files or instance role."""
    for variable in list(os.environ):
        if variable.startswith("AWS_") or variable == "LANGALIGN_STORAGE":
            monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
