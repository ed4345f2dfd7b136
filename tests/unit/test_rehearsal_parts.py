"""Parts of the rehearsal that need no cluster."""

import io
import json
import pickle
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.autoscaler._private.util import validate_config
from rich.console import Console

from cluster.__main__ import main
from cluster.rehearsal import network, secrecy
from cluster.rehearsal.autoscaling import autoscaling_config
from cluster.rehearsal.network import Network, open_network
from cluster.rehearsal.nodes import LocalCluster
from cluster.rehearsal.rehearsal import Rehearsal
from cluster.rehearsal.starting import resource_options
from cluster.rehearsal.timeline import Phase, Timeline, plot_timeline, repeatedly
from cluster.seaweed import Identity
from langalign.errors import ClusterError


def test_the_autoscalers_configuration_is_valid_and_begins_without_workers(tmp_path: Path) -> None:
    config = autoscaling_config(
        "127.0.0.1:6379", tmp_path, Network(), worker_cpus=2, max_workers=3, idle_s=30
    )
    validate_config(config)
    types = config["available_node_types"]
    assert types["worker"]["min_workers"] == 0
    assert types["worker"]["max_workers"] == config["max_workers"] == 3
    assert config["idle_timeout_minutes"] == 0.5
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}


def test_without_namespaces_all_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(command: list[str]) -> str:
        raise ClusterError(f"`{command[1]}` failed: Operation not permitted")

    monkeypatch.setattr(network, "_run", refused)
    monkeypatch.setattr(Network, "exists", lambda self: False)
    found, why_not = open_network(7)
    assert "Operation not permitted" in why_not
    assert found.add(1) == ("127.0.0.1", [])
    assert found.variables() == {}
    found.close()


def test_a_network_is_the_same_in_another_process() -> None:
    made = Network("lar1", "198.18.9")
    assert Network(**made.settings()) == made
    assert (made.head, made.variables(2)) == ("198.18.9.1", {"GLOO_SOCKET_IFNAME": "eth0"})


def test_the_timeline_keeps_each_change_once() -> None:
    timeline = Timeline()
    for workers in (0, 1, 1, 2, 2, 0):
        timeline.note(workers)
    assert [workers for _, workers in timeline.workers] == [0, 1, 2, 0]


def test_a_call_that_fails_is_not_the_last() -> None:
    calls, done = [], threading.Event()

    def do() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ClusterError("the head ends")
        done.set()

    with repeatedly(do, 0.01):
        assert done.wait(30)


def test_the_plot_is_written(tmp_path: Path) -> None:
    phases = [Phase("head", 0, 5), Phase("sweep", 5, 60)]
    path = plot_timeline(phases, [(0.0, 0), (12.0, 2), (55.0, 0)], tmp_path / "timeline.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_namespaces_come_and_go() -> None:
    found, why_not = open_network(9999)
    if why_not:
        pytest.skip(why_not)
    try:
        addresses = {found.add(number)[0] for number in (1, 2)}
        found.remove(1)
        again, prefix = found.add(1)
        addresses.add(again)
        assert addresses == {f"{found.subnet}.2", f"{found.subnet}.3"}
        here = subprocess.run([*prefix, "hostname", "-I"], capture_output=True, text=True)
        assert here.stdout.split() == [again]
    finally:
        found.close()
    assert not found.exists()


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"CPU": 2}, ["--num-cpus=2", "--num-gpus=0"]),
        ({"GPU": 1, "memory": 1e9}, ["--num-cpus=0", "--num-gpus=1", "--memory=1000000000"]),
        ({"CPU": 1, "disk": 2}, ["--num-cpus=1", "--num-gpus=0", '--resources={"disk": 2}']),
    ],
)
def test_a_node_has_all_the_resources_that_its_type_has(
    resources: dict[str, float], expected: list[str]
) -> None:
    assert resource_options(resources) == expected


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """One that is not started."""
    made = LocalCluster(Network(), {}, project=tmp_path)
    yield made
    shutil.rmtree(made.folder)


@pytest.mark.parametrize(
    "text", ["starting", "{}", '{"data": null}', '{"data": {"summary": [{}]}}']
)
def test_a_dashboard_that_is_not_ready_is_a_cluster_error(
    monkeypatch: pytest.MonkeyPatch, cluster: LocalCluster, text: str
) -> None:
    def get(url: str, **_: Any) -> httpx2.Response:
        return httpx2.Response(200, text=text, request=httpx2.Request("GET", url))

    monkeypatch.setattr(httpx2, "get", get)
    with pytest.raises(ClusterError, match="the dashboard"):
        cluster.nodes()


def test_a_log_that_vanishes_while_it_is_searched_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("kept.log", "rotated.log"):
        (tmp_path / name).write_text("text")
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "rotated.log":
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert list(secrecy._files(tmp_path)) == [("kept.log", b"text")]


class FakeStore:
    """A store of these objects, and a client of it."""

    bucket = "bucket"
    owner = Identity("owner", "ACCESS-KEY", "SECRET-KEY")

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def client(self) -> "FakeStore":
        return self

    def get_paginator(self, _: str) -> "FakeStore":
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Contents": [{"Key": key} for key in self.objects]}, {}]

    def get_object(self, *, Key: str, **_: Any) -> dict[str, Any]:
        return {"Body": io.BytesIO(self.objects[Key])}


def compressed_rows(text: str) -> bytes:
    """A Parquet file in which the text does not stand as it is."""
    file = io.BytesIO()
    rows = pa.table({"text": [text] * 50})
    pq.write_table(rows, file, compression="gzip", write_statistics=False)
    assert text.encode() not in file.getvalue()
    return file.getvalue()


def test_every_place_with_a_secret_is_found(cluster: LocalCluster) -> None:
    store = FakeStore(
        {
            "config.json": b'{"key": "SECRET-KEY"}',
            "tuner.pkl": pickle.dumps({"environment": {"id": "ACCESS-KEY"}}),
            "rows.parquet": compressed_rows("ACCESS-KEY"),
            "clean.json": b"{}",
            "clean.parquet": compressed_rows("a text"),
        }
    )
    (cluster.folder / "raylet.log").write_text(f"RAY_AUTH_TOKEN={cluster.token}")
    (cluster.folder / "gcs.log").write_text("started")
    searched, found = secrecy.places_of_secrets(cluster, store)  # type: ignore[arg-type]
    names = ("config.json", "rows.parquet", "tuner.pkl")
    assert sorted(found) == ["raylet.log", *(f"s3://bucket/{name}" for name in names)]
    assert searched == len(store.objects) + len(list(secrecy._files(cluster.folder)))


@pytest.mark.parametrize(
    "fault", [PermissionError("no space"), subprocess.TimeoutExpired("serve: no space", 1)]
)
def test_whatever_fails_at_the_end_the_rest_is_undone_and_the_summary_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Exception
) -> None:
    rehearsal = Rehearsal(tmp_path, Console(file=io.StringIO()))
    undone: list[str] = []

    def work(started: ExitStack) -> None:
        def fail() -> None:
            raise fault

        started.callback(undone.append, "network")
        started.callback(fail)

    monkeypatch.setattr(rehearsal, "_work", work)
    with pytest.raises(ClusterError, match=r"end: .*no space"):
        rehearsal.run()
    assert undone == ["network"]
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


def test_a_folder_without_an_encoder_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert main(["rehearse", str(results), f"--encoder={tmp_path}"]) == 2
    assert (
        f"{tmp_path} has no config.json: give the folder of an encoder" in capsys.readouterr().err
    )
    assert not results.exists()
