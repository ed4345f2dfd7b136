"""The pipeline with its storage on a real S3-compatible server, which goes away meanwhile."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from seaweed import SeaweedServer, free_ports
from tiny import Finished, Run, forget, has_checkpoint, run_job, scores, summary_of, wait_for

from langalign.storage import Storage

pytestmark = pytest.mark.slow

OUTAGE_S = 20.0


@dataclass(frozen=True)
class JobOnS3:
    """A job that ran on the server: what it said, and the folder of Ray's session logs."""

    root: str
    job: subprocess.CompletedProcess[str]
    ray_folder: Path


@pytest.fixture(scope="module")
def on_s3(inputs: Path, seaweedfs: SeaweedServer) -> Iterator[JobOnS3]:
    # Not below pytest's folder: a Unix socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    root = f"s3://{seaweedfs.bucket}/tiny"
    env = {
        **seaweedfs.environment(),
        "RAY_TMPDIR": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    yield JobOnS3(root, run_job(inputs, root, env=env), folder)
    shutil.rmtree(folder)


@pytest.fixture
def environment(seaweedfs: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_result_is_that_of_a_local_storage(on_s3: JobOnS3, undisturbed: Finished) -> None:
    assert on_s3.job.returncode == 0, on_s3.job.stderr
    summary = summary_of(on_s3.job)
    assert scores(summary) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    assert summary["models"][0]["uri"].startswith(f"{on_s3.root}/models/tiny/")


def test_no_credentials_are_left_behind(on_s3: JobOnS3, seaweedfs: SeaweedServer) -> None:
    secrets = [seaweedfs.secret_key.encode(), seaweedfs.access_key.encode()]
    client = seaweedfs.client()
    places = {"stdout": on_s3.job.stdout.encode(), "stderr": on_s3.job.stderr.encode()}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=seaweedfs.bucket):
        for entry in page["Contents"]:
            found = client.get_object(Bucket=seaweedfs.bucket, Key=entry["Key"])
            places[f"s3: {entry['Key']}"] = found["Body"].read()
    objects = len(places)
    for path in on_s3.ray_folder.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
    assert objects > 40, "the bucket holds the run"
    assert any("session_" in place and place.endswith(".log") for place in places)
    assert [place for place, data in places.items() if any(s in data for s in secrets)] == []


@pytest.mark.usefixtures("environment")
def test_a_run_survives_a_storage_outage_of_20_s(
    inputs: Path, on_s3: JobOnS3, seaweedfs: SeaweedServer, undisturbed: Finished
) -> None:
    storage = Storage(on_s3.root)
    forget(storage, "align", "head")

    def outage() -> None:
        wait_for(lambda: has_checkpoint(storage, "align"), "a checkpoint of align")
        seaweedfs.stop()
        time.sleep(OUTAGE_S)
        seaweedfs.start()

    summary = Run(inputs, storage, "cluster.max_failures=0").while_(outage)
    assert scores(summary) == pytest.approx(scores(undisturbed.summary), abs=1e-6)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("bucket", "bucket"),
        ("secret", "credentials|AWS_SECRET_ACCESS_KEY|AWS_ACCESS_KEY_ID"),
        ("endpoint", "AWS_ENDPOINT_URL_S3"),
    ],
)
def test_storage_that_cannot_work_is_one_clear_line(
    fault: str, cause: str, inputs: Path, seaweedfs: SeaweedServer
) -> None:
    env, bucket = seaweedfs.environment(), seaweedfs.bucket
    if fault == "bucket":
        bucket = "no-such-bucket"
    elif fault == "secret":
        env["AWS_SECRET_ACCESS_KEY"] = "wrongsecret-do-not-show"
    else:
        env["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    ended = run_job(inputs, f"s3://{bucket}/tiny", env=env)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.strip()]
    assert line.startswith("failed: ")
    assert re.search(cause, line), line
    assert "do-not-show" not in ended.stdout + ended.stderr
