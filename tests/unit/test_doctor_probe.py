"""What a node reports when the thing that it is asked about is what is broken; without Ray."""

import platform
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.doctor import examination, probe
from cluster.doctor.probe import NodeProbe
from langalign.errors import ClusterError, StorageError
from langalign.storage import Storage

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_all_that_the_project_needs_is_compared_and_nothing_of_its_extras() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    names = probe.packages()
    assert names[0] == project["name"]
    for name, text in zip(names[1:], project["dependencies"], strict=True):
        assert text.startswith(name)
    assert {"ray", "torch", "transformers", "scikit-learn"} < set(names)
    assert not {"pytest", "accelerate"} & set(names)


def test_where_the_project_is_not_installed_the_rest_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def requires(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(probe, "requires", requires)
    assert probe.packages() == ["langalign-on-ray", "ray", "torch", "transformers"]


def test_a_package_that_is_not_there_is_missing() -> None:
    assert NodeProbe().versions(["numpy", "no-such-package"]) == {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "no-such-package": "missing",
    }


@pytest.mark.parametrize(
    "fault",
    [
        subprocess.TimeoutExpired("nvidia-smi", 30),
        subprocess.CalledProcessError(9, "nvidia-smi"),
        PermissionError("nvidia-smi"),
    ],
)
def test_a_gpu_driver_that_fails_lists_no_gpu(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", run)
    assert NodeProbe().gpus() == []


def test_storage_that_fails_half_way_is_the_problem_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("driver", b"here")

    def read(key: str) -> bytes:
        raise StorageError(f"{key}: access denied")

    monkeypatch.setattr(storage, "read_bytes", read)
    problem, written, read_rate = NodeProbe().storage(storage, "driver")
    assert "access denied" in problem
    assert (written, read_rate) == (0, 0)
    assert [found.key for found in storage.list("")] == ["driver"]


def test_storage_that_may_not_be_deleted_from_is_told_by_its_first_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("driver", b"here")
    monkeypatch.setattr(probe, "probe_storage", lambda *_: "")
    faults = iter(["first", "second"])

    def delete(key: str) -> None:
        raise StorageError(next(faults))

    monkeypatch.setattr(storage, "delete", delete)
    assert NodeProbe().storage(storage, "driver")[0] == "first"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ray.exceptions.RayTaskError(
                "f", "Traceback …", ImportError("no module named torch"), "probe", 1, "10.0.0.1"
            ),
            "cannot be examined: ImportError: no module named torch",
        ),
        (ray.exceptions.GetTimeoutError("too late"), "does not answer: too late"),
        (ray.exceptions.ActorUnschedulableError("the node is gone"), "does not answer: .*gone"),
    ],
)
def test_a_node_that_cannot_report_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def get(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ClusterError, match=f"node n1 {words}") as raised:
        examination._answers("n1", ["reference"])
    assert "\n" not in str(raised.value)
