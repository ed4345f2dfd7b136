"""Fixtures for all tests: a clean environment, and a real S3-compatible server on demand."""

import os
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from seaweed import SeaweedServer
from xdist.scheduler import LoadScopeScheduling

# Ray reads its mode when it is imported, and without one the answer depends on what ran before:
# the first local cluster leaves a token file, and from then on other commands ask for it.
os.environ["RAY_AUTH_MODE"] = "token"
# `ray start` makes no token where the user has none yet.
os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex
# A machine that stands still for a minute, as a shared one may, is no fault: Ray would end every
# driver without a word, and one of them is pytest itself.
os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"  # noqa: SIM112 (its name)

TESTS = Path(__file__).parent

# How long an example takes depends on what else the machine does meanwhile.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


class OneClusterAtATime(LoadScopeScheduling):  # type: ignore[misc]
    """Of `pytest -n 2`: a process with the tests that start a Ray cluster, one for the rest."""

    def _split_scope(self, nodeid: str) -> str:
        return "clusters" if starts_cluster(nodeid.partition("::")[0]) else "rest"


@cache
def starts_cluster(file: str) -> bool:
    """Whether a file of tests, named from the root on, does: in these two folders the slow ones."""
    path = TESTS.parent / file
    return path.parent.name in ("on_ray", "serving") and "mark.slow" in path.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneClusterAtATime:
    return OneClusterAtATime(config, log)


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
