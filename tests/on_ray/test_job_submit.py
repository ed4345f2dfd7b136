"""The sweep as a submitted job on three nodes with token authentication, under faults.

The nodes are `ray start` processes of this machine and share nothing but a real S3 server. The
driver is killed, the job submitted again, and then a worker node killed. The second of the two
jobs, which publishes, brings the project along and sees none that is installed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
import pytest
from calls import ROOT
from head import shorter_folder
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from seaweed import SeaweedServer
from tiny import wait_for, write_inputs

import langalign
from cluster.guarded import start_guarded, stop_guarded
from cluster.ports import free_ports
from cluster.study import is_spent
from langalign.storage import Storage

pytestmark = pytest.mark.slow

TRIALS = 8
JOURNAL = "runs/submitted/sweep/study.journal"
JOB_LIMIT_S = 300.0
PACKAGES = ("cluster", "jobs", "langalign")
# Python runs it at every start, after the hook of an editable installation was put in place.
HIDING = """\
import sys
from importlib import metadata

sys.meta_path[:] = [f for f in sys.meta_path if "__editable___langalign" not in str(f)]
found = metadata.distribution


def distribution(name):
    if name == "langalign-on-ray":
        raise metadata.PackageNotFoundError(name)
    return found(name)


metadata.distribution = distribution
"""
LOOKS = ("import langalign", "from importlib import metadata; metadata.version('langalign-on-ray')")


@dataclass
class Nodes:
    """A head without cores and two workers of two; `environment` is that of head and jobs."""

    folder: Path
    environment: dict[str, str]
    port: int
    dashboard: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start all, and return once the workers have joined."""
        head = [f"--port={self.port}", f"--dashboard-port={self.dashboard}"]
        head += ["--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}", "--no-monitor"]
        self._start("--head", "--num-cpus=0", *head)
        for name in "ab":
            # Of its own, as on a machine of its own: a node writes the folder of a job anew when it
            # first needs it, and would take it away from under the driver.
            folder = f"--temp-dir={self.folder / name}"
            self._start(f"--address=127.0.0.1:{self.port}", "--num-cpus=2", folder)

    def kill_worker(self) -> None:
        """SIGKILL one worker node with all of its processes."""
        _kill(self.running.pop())

    def kill_driver(self) -> None:
        """SIGKILL the process that runs jobs/sweep.py."""
        own = {
            process.pid
            for node in self.running
            for process in psutil.Process(node.pid).children(recursive=True)
        }
        drivers = [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.pid in own and (process.info["cmdline"] or [])[1:2] == ["jobs/sweep.py"]
        ]
        assert drivers
        for driver in drivers:
            driver.kill()

    def close(self) -> None:
        """SIGKILL what runs."""
        while self.running:
            _kill(self.running.pop())

    def submit(self, *arguments: str, options: Sequence[str] = ()) -> subprocess.Popen[str]:
        """`ray job submit OPTIONS -- python jobs/sweep.py ARGUMENTS`, as the README has it."""
        address = f"http://127.0.0.1:{self.dashboard}"
        command = [_ray(), "job", "submit", f"--address={address}", *options, "--"]
        return subprocess.Popen(
            [*command, "python", "jobs/sweep.py", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _start(self, *options: str) -> None:
        log = self.folder / f"node-{len(self.running)}.log"
        ports = free_ports(3)
        options += tuple(
            f"--{name}={port}"
            for name, port in zip(
                ("dashboard-agent-listen-port", "metrics-export-port", "runtime-env-agent-port"),
                ports,
                strict=True,
            )
        )
        command = [_ray(), "start", "--block", "--min-worker-port=0", "--max-worker-port=0"]
        env = [f"{name}={value}" for name, value in self.environment.items()]
        # Jobs run in the folder in which the head was started.
        place = ["env", f"--chdir={ROOT}", *env]
        self.running.append(
            start_guarded([*place, *command, "--disable-usage-stats", *options], log)
        )
        wait_for(lambda: "Ray runtime started" in log.read_text(), f"node {log.read_text()}")


@pytest.fixture
def nodes(seaweedfs: SeaweedServer) -> Iterator[Nodes]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **seaweedfs.environment(), "PATH": path}
    with shorter_folder() as folder:
        port, dashboard = free_ports(2)
        nodes = Nodes(folder, environment, port, dashboard)
        try:
            nodes.start()
            yield nodes
        finally:
            nodes.close()


@pytest.mark.timeout(600)
def test_a_submitted_sweep_ends_with_a_model_whatever_is_killed_on_the_way(
    nodes: Nodes, seaweedfs: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    storage = Storage(f"s3://{seaweedfs.bucket}/submitted")
    inputs = write_inputs(tmp_path, None)
    arguments = ["--config", str(inputs), f"storage={storage.root}", "name=submitted"]
    arguments += [f"sweep.trials={TRIALS}", "sweep.stack=2", "sweep.confirm_seeds=2"]

    first = nodes.submit(*arguments)
    wait_for(lambda: finished(storage, tmp_path) >= 1, "a finished trial", limit_s=JOB_LIMIT_S)
    nodes.kill_driver()
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 1, said
    before = finished(storage, tmp_path)
    assert before < TRIALS, "the job was over before its driver was killed"

    second = nodes.submit(*arguments, options=copied_project(tmp_path))
    wait_for(lambda: finished(storage, tmp_path) > before, "more trials", limit_s=JOB_LIMIT_S)
    nodes.kill_worker()
    said, _ = second.communicate(timeout=JOB_LIMIT_S)
    assert second.returncode == 0, said
    assert finished(storage, tmp_path) == TRIALS
    assert "trials" in said
    model = langalign.load(storage.uri("models/submitted"))
    assert set(model.predict(["a", "b"])) <= {"negative", "positive"}


def finished(storage: Storage, folder: Path) -> int:
    """Trials of the study on storage that are done."""
    if not storage.exists(JOURNAL):
        return 0
    path = folder / f"{time.monotonic_ns()}.journal"
    path.write_bytes(storage.read_bytes(JOURNAL))
    journal = JournalStorage(JournalFileBackend(str(path)))
    (name,) = optuna.get_all_study_names(journal)
    return sum(map(is_spent, optuna.load_study(study_name=name, storage=journal).get_trials()))


def copied_project(folder: Path) -> list[str]:
    """Options of a job that has the packages from a copy, and no other way to find them."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / "project" / package, ignore=ignored)
    hiding = folder / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(HIDING)
    path = {"PYTHONPATH": str(hiding)}
    for look in LOOKS:
        command = [sys.executable, "-c", look]
        found = subprocess.run(command, env=os.environ | path, cwd=folder, capture_output=True)
        assert b"NotFoundError" in found.stderr, "the project is installed some other way"
    environment = json.dumps({"env_vars": path})
    return [f"--working-dir={folder / 'project'}", f"--runtime-env-json={environment}"]


def _ray() -> str:
    return str(Path(sys.executable).with_name("ray"))


def _kill(node: subprocess.Popen[bytes]) -> None:
    below = psutil.Process(node.pid).children(recursive=True)
    stop_guarded(node)
    for process in below:
        if process.is_running():
            process.kill()
    psutil.wait_procs(below, timeout=30)
