"""Fixtures for all tests: a clean environment, and a real S3-compatible server on demand."""

import os
import uuid
from collections.abc import Iterator

import pytest
from seaweed import SeaweedServer

# Ray reads its mode when it is imported, and without one the answer depends on what ran before:
# the first local cluster leaves a token file, and from then on other commands ask for it.
os.environ["RAY_AUTH_MODE"] = "token"
# `ray start` makes no token where the user has none yet.
os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex
# A machine that stands still for a minute, as a shared one may, is no fault: Ray would end every
# driver without a word, and one of them is pytest itself.
os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"  # noqa: SIM112 (its name)


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedServer]:
    server = SeaweedServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """No test sees the developer's storage, Ray cluster, keys, AWS files or instance role."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith("AWS_") or variable in ("LANGALIGN_STORAGE", "RAY_ADDRESS"):
                patch.delenv(variable)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield
