"""The pipeline with its storage on a real S3-compatible server, which goes away meanwhile."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from calls import Ended, end_of, start_train
from endpoints import silent_endpoint
from seaweed import SeaweedServer
from tiny import OFTEN, OWN_CLUSTER, Finished, Run, forget, has_checkpoint, scores, wait_for

from cluster.ports import free_ports
from langalign.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OUTAGE_S = 20.0


@dataclass(frozen=True)
class JobOnS3:
    """A job that ran on the server: what it said, and the folder of Ray's session logs."""

    root: str
    job: Ended
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
    yield JobOnS3(root, end_of(start_train(inputs, root, OWN_CLUSTER, env=env)), folder)
    shutil.rmtree(folder)


@pytest.fixture
def environment(seaweedfs: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_result_is_that_of_a_local_storage(on_s3: JobOnS3, undisturbed: Finished) -> None:
    summary = on_s3.job.summary()
    assert scores(summary) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    assert summary["models"][0]["uri"].startswith(f"{on_s3.root}/models/tiny/")


def test_no_credentials_are_left_behind(on_s3: JobOnS3, seaweedfs: SeaweedServer) -> None:
    secrets = [seaweedfs.secret_key.encode(), seaweedfs.access_key.encode()]
    client = seaweedfs.client()
    places = {"stdout": on_s3.job.out.encode(), "stderr": on_s3.job.err.encode()}
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
    forget(storage, "align")

    def outage() -> None:
        wait_for(lambda: has_checkpoint(storage, "align"), "a checkpoint of align")
        seaweedfs.stop()
        time.sleep(OUTAGE_S)
        seaweedfs.start()

    # On a cluster of this process, whose workers inherit the server's address and keys.
    run = Run(inputs, storage, OFTEN, OWN_CLUSTER, "cluster.max_failures=0")
    summary = run.while_(outage)
    assert scores(summary) == pytest.approx(scores(undisturbed.summary), abs=1e-6)


FAULTS = {
    "bucket": "no such bucket",
    "secret": "credentials.*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "closed": "unreachable endpoint.*AWS_ENDPOINT_URL_S3",
    "silent": "unreachable endpoint.*AWS_ENDPOINT_URL_S3",
}


@pytest.fixture(scope="module")
def ended_by(inputs: Path, seaweedfs: SeaweedServer) -> dict[str, Ended]:
    """How the job ends by each fault; all at once, as they mostly start Python and wait."""
    env, root = seaweedfs.environment(), f"s3://{seaweedfs.bucket}/tiny"
    with silent_endpoint() as silent:
        started = {
            "bucket": start_train(inputs, "s3://no-such-bucket/tiny", env=env),
            "secret": start_train(
                inputs, root, env=env | {"AWS_SECRET_ACCESS_KEY": "wrong-do-not-show"}
            ),
            "closed": start_train(
                inputs,
                root,
                env=env | {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_ports(1)[0]}"},
            ),
            "silent": start_train(
                inputs, root, env=env | {"AWS_ENDPOINT_URL_S3": f"http://{silent}"}
            ),
        }
        # A client that waits for ever stays longer than any limit.
        return {fault: end_of(job, limit_s=90) for fault, job in started.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_storage_that_cannot_work_is_one_clear_line(fault: str, ended_by: dict[str, Ended]) -> None:
    ended = ended_by[fault]
    assert ended.status == 1
    assert re.search(FAULTS[fault], ended.refusal())
    assert "do-not-show" not in ended.out + ended.err
