"""The rehearsal's cluster: a head that runs no work, Ray's autoscaler, and no worker at first."""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil

from cluster.guarded import start_guarded, stop_guarded
from cluster.ports import free_ports
from cluster.rehearsal.autoscaling import HEAD_NODE_ID, HEAD_TYPE, autoscaling_config
from cluster.rehearsal.family import adopt_orphans, below, end_all, orphans
from cluster.rehearsal.network import Network
from cluster.rehearsal.starting import PID_SUFFIX, command_of_this_python, ray_start
from langalign.errors import ClusterError

__all__ = ["TOKEN_FILE", "LocalCluster"]

TOKEN_FILE = "token"  # noqa: S105 (a name)
START_LIMIT_S = 90.0
END_LIMIT_S = 30.0
ORDER_LIMIT_S = 10.0  # for ending in order; a head waits for actors, which a fault may have left


class LocalCluster:
    """A head with an autoscaler that starts at most `max_workers` workers of `worker_cpus` CPUs.

    `environment` holds what a node of a real cluster has from its image and role: the variables of
    the storage. Jobs run in the project's folder.
    """

    def __init__(
        self,
        network: Network,
        environment: Mapping[str, str],
        *,
        project: Path,
        worker_cpus: int = 2,
        max_workers: int = 2,
        idle_s: float = 20.0,
    ) -> None:
        self.network = network
        self.project = project
        # A Unix socket's path has 107 characters at most, and Ray's are long.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        names = ("port", "ray-client-server-port", "metrics-export-port", "dashboard-port")
        self._ports = dict(zip(names, free_ports(len(names), host=network.head), strict=True))
        self.address = f"{network.head}:{self._ports['port']}"
        self.dashboard = f"http://127.0.0.1:{self._ports['dashboard-port']}"
        self.token = secrets.token_hex(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = time.time()
        token_file = self.folder / TOKEN_FILE
        token_file.touch(mode=0o600)
        token_file.write_text(self.token)
        self.environment = {
            # A profile or session of the caller's would be mixed with the keys given.
            **{k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
            **environment,
            "RAY_AUTH_MODE": "token",
            # A part of a rehearsal may be over before the 10 s after which nodes report.
            "RAY_metrics_report_interval_ms": "2000",
            # Nodes that are told to end have no traffic of a service to hand over.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "PATH": f"{Path(command_of_this_python('ray')).parent}:{os.environ['PATH']}",
        }
        # A token in the caller's environment would be taken before the file.
        for name in ("RAY_AUTH_TOKEN", "RAY_ADDRESS"):
            self.environment.pop(name, None)
        config = autoscaling_config(
            self.address,
            self.folder,
            network,
            worker_cpus=worker_cpus,
            max_workers=max_workers,
            idle_s=idle_s,
        )
        (self.folder / "autoscaling.json").write_text(json.dumps(config))

    def start(self) -> None:
        """Start the head, and return once jobs can be submitted.

        Raises:
            ClusterError: it does not come up.
        """
        adopt_orphans()
        variables = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            **self.network.variables(),
        }
        command = ray_start(
            *("--head", "--num-cpus=0", f"--node-ip-address={self.network.head}"),
            *(f"--{name}={port}" for name, port in self._ports.items()),
            *("--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}"),
            f"--autoscaling-config={self.folder}/autoscaling.json",
        )
        log = self.folder / "head.log"
        self._process = start_guarded(
            command, log, environment=self.environment | variables, folder=self.project
        )
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if time.monotonic() > deadline:
                last = " ".join(log.read_text(errors="replace")[-500:].split())
                raise ClusterError(f"the head gave no answer in {START_LIMIT_S:.0f} s: {last}")
            time.sleep(0.3)

    def get(self, path: str) -> Any:
        """The dashboard's answer to a GET with the token, as JSON.

        Raises:
            ClusterError: it does not answer, or refuses.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            answer = httpx2.get(f"{self.dashboard}{path}", headers=headers, timeout=10)
            answer.raise_for_status()
            return answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise ClusterError(f"the dashboard has no answer to {path}: {error}") from error

    def submit(self, *entrypoint: str, options: Sequence[str] = ()) -> list[str]:
        """`ray job submit OPTIONS -- ENTRYPOINT`, to be run with the cluster's environment."""
        ray = command_of_this_python("ray")
        return [ray, "job", "submit", f"--address={self.dashboard}", *options, "--", *entrypoint]

    def nodes(self) -> dict[str, str]:
        """Ids of the nodes that are alive, and their addresses.

        Raises:
            ClusterError: the dashboard does not answer, or knows no nodes yet.
        """
        answer = self.get("/nodes?view=summary")
        try:
            found = [node["raylet"] for node in answer["data"]["summary"]]
            return {
                node["nodeId"]: node["nodeManagerAddress"]
                for node in found
                if node.get("state") == "ALIVE"
            }
        except (KeyError, TypeError) as error:
            raise ClusterError(f"the dashboard's answer has no nodes ({error!r})") from error

    def workers(self) -> list[str]:
        """Ids of the workers that are alive."""
        return [node_id for node_id in self.nodes() if node_id != HEAD_NODE_ID]

    def processes(self, node_id: str | None = None) -> list[psutil.Process]:
        """The processes of one node, or of all."""
        trees = {HEAD_NODE_ID: below(self._process.pid) if self._process else []}
        mine = {process.pid for process in psutil.Process().children(recursive=True)}
        for file in self.folder.glob(f"*{PID_SUFFIX}"):
            # The number of a worker that has ended may be another program's by now.
            pid = int(file.read_text())
            trees[file.stem] = below(pid) if pid in mine else []
        if node_id is None:
            left = orphans("ray::", since=self._began)
            return list({each for tree in (*trees.values(), left) for each in tree})
        # The autoscaler, which starts the workers, is itself a process of the head.
        others = {each for other, tree in trees.items() if other != HEAD_NODE_ID for each in tree}
        found = trees.get(node_id, [])
        return [each for each in found if node_id != HEAD_NODE_ID or each not in others]

    def kill(self, node_id: str) -> None:
        """SIGKILL all processes of a node at once, as a machine that loses its power."""
        end_all(self.processes(node_id), limit_s=END_LIMIT_S)

    def close(self) -> None:
        """End all nodes and delete their files.

        Raises:
            ClusterError: a process stays.
        """
        family = set(self.processes())
        if self._process is not None:
            stop_guarded(self._process, by="TERM", limit_s=ORDER_LIMIT_S)
            self._process = None
        # Again and again: one that is being killed may have started another.
        deadline = time.monotonic() + END_LIMIT_S
        while left := family | set(self.processes()):
            family = set(end_all(left, limit_s=2))
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in left)
                raise ClusterError(f"processes of the cluster are left: {pids}")
        self.network.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            self.get("/api/jobs/")
        except ClusterError:
            return False
        return True
