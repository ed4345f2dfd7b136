"""`python -m cluster s3`: a store of this machine, open to its owner's keys alone."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import psutil
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from cluster.ports import free_ports
from langalign.storage import Storage

pytestmark = pytest.mark.slow

LINES = 5  # of variables


@contextmanager
def started(
    folder: Path, *options: str, status: int = 0
) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """The command with its variables; ended by Ctrl-C, as its user does."""
    command = [sys.executable, "-m", "cluster", "s3", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(LINES)]
        try:
            exported = (shlex.split(line)[1].partition("=") for line in lines)
            yield psutil.Process(process.pid), {name: value for name, _, value in exported}
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == status


def test_the_store_is_private_to_its_owner_and_keeps_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (port,) = tmp_path / "store", free_ports(1)
    with started(folder, f"--port={port}") as (process, variables):
        family = process.children(recursive=True)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        storage = Storage.from_environment(None)
        storage.write_bytes("kept", b"data")
        assert listening(family) == {"127.0.0.1"}
        for options in ({"signature_version": UNSIGNED}, {"retries": {"max_attempts": 0}}):
            assert refusal(variables, **options) in ("AccessDenied", "InvalidAccessKeyId")
    assert not psutil.wait_procs(family, timeout=5)[1]
    names = ("server.json", "s3.json", "env", "log", "data")
    private = [folder, *(folder / name for name in names)]
    assert [path.stat().st_mode & 0o077 for path in private] == [0] * len(private)

    with started(folder) as (_, again):
        assert again == variables
        assert storage.read_bytes("kept") == b"data"


def test_a_server_that_ends_by_itself_ends_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    with started(tmp_path / "store", f"--port={port}", status=1) as (process, _):
        for each in process.children(recursive=True):
            if each.name().startswith("weed"):
                each.kill()
        # Not waited for: its status is for `started` to read.
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
    assert "SeaweedFS has ended" in capfd.readouterr().err


def test_another_port_than_the_folder_has_is_bad_usage(tmp_path: Path) -> None:
    (port, other), folder = free_ports(2), tmp_path / "store"
    with started(folder, f"--port={port}"):
        pass
    command = [sys.executable, "-m", "cluster", "s3", str(folder), f"--port={other}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"has port {port}" in ended.stderr


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses on which the processes accept connections."""
    found = set()
    for process in processes:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip)
    return found


def refusal(variables: dict[str, str], **options: object) -> str:
    """The code by which the store refuses a stranger who tries to list the bucket."""
    stranger = boto3.session.Session().client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id="stranger",
        aws_secret_access_key=os.urandom(8).hex(),
        region_name="us-east-1",
        config=Config(**options),
    )
    with pytest.raises(ClientError) as refused:
        stranger.list_objects_v2(Bucket="langalign")
    return str(refused.value.response["Error"]["Code"])
