"""Jobs on a cluster of the rehearsal that is disturbed, and what they leave on its storage."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cluster.rehearsal import rehearsal
from cluster.rehearsal.nodes import LocalCluster
from cluster.rehearsal.stage import Stage
from langalign.counterpart import unpaired_texts
from langalign.errors import ClusterError
from langalign.pretraining import pretrain
from langalign.storage import Storage

__all__ = ["TRIALS", "Trial", "Work", "wait_for"]

SWEEP = Path(rehearsal.__file__).with_name("sweep.yaml")
TRIALS = 8
WAIT_LIMIT_S = 300.0
# Long enough to be disturbed, with a checkpoint after each epoch and parts of 200 texts.
TRAIN = [
    *("tune.max_epochs=20", "cluster.checkpoint_interval_s=0", "cluster.shard_rows=100"),
    *("encoder.batch_tokens=256", "cluster.embed_actors=1"),
]


# What a trial drew, what it reached, and when it ended.
Trial = tuple[dict[str, Any], float | None, datetime | None]


class Work:
    """Jobs on a cluster that is to be disturbed, and what they leave on its storage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        os.environ.update(stage.variables())
        self.storage = Storage.from_environment(None)
        self.logs = Path(tempfile.mkdtemp(prefix="recovery-"))
        # Hardly trained: what is compared is whether a result is the same, not whether it is good.
        encoder = pretrain(
            unpaired_texts(200, 0, "en"),
            unpaired_texts(200, 0, "xc"),
            self.logs / "encoder",
            mlm_steps=2,
            contrastive_steps=2,
            layers=2,
        )
        content = yaml.safe_load(SWEEP.read_text())
        content["encoder"]["name"] = str(encoder)
        self._write("sweep", content)
        del content["sweep"]
        self._write("train", content)

    @property
    def cluster(self) -> LocalCluster:
        """The one that runs now."""
        return self.stage.cluster

    def train(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """`ray job submit -- python jobs/train.py`, not waited for."""
        return self._submit("train", *TRAIN, *arguments)

    def sweep(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """The same for jobs/sweep.py."""
        return self._submit("sweep", f"sweep.trials={TRIALS}", *arguments)

    def end(self, job: "subprocess.Popen[bytes]") -> None:
        """Wait for a job, which must end well.

        Raises:
            ClusterError: it fails, or does not end.
        """
        try:
            status = job.wait(WAIT_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(
                f"the job did not end in {WAIT_LIMIT_S:.0f} s, see {self.logs}"
            ) from error
        if status:
            raise ClusterError(f"the job failed, see {self.logs}")

    def scores(self, name: str) -> dict[str, float]:
        """Figures of a training run by what they are figures of."""
        rows = self.storage.read_json(f"runs/{name}/summary.json")["results"]
        keys = ("method", "aligner", "language", "split", "metric")
        return {" ".join(str(row[key]) for key in keys): row["value"] for row in rows}

    def trials(self, name: str) -> dict[int, Trial]:
        """A study's trials that are done, by number."""
        key = f"runs/{name}/sweep/study.journal"
        if not self.storage.exists(key):
            return {}
        path = self.logs / f"{time.monotonic_ns()}.journal"
        path.write_bytes(self.storage.read_bytes(key))
        journal = JournalStorage(JournalFileBackend(str(path)))
        names = optuna.get_all_study_names(journal)
        if not names:
            return {}
        found = optuna.load_study(study_name=names[0], storage=journal).trials
        return {
            t.number: (t.params, t.value, t.datetime_complete)
            for t in found
            if t.state.name in ("COMPLETE", "PRUNED")
        }

    def forget(self, *folders: str) -> None:
        """Delete outputs and checkpoints of steps of the run `base`."""
        for folder in folders:
            for digest in self.storage.folders(folder):
                self.storage.delete_folder(f"{folder}/{digest}")
        for name in self.storage.folders("runs/base/train"):
            self.storage.delete_folder(f"runs/base/train/{name}")

    def busy_worker(self, title: str) -> str:
        """Id of the worker on which a process of this title runs, or soon does."""
        found: list[str] = []

        def is_found() -> bool:
            for node_id in self.cluster.workers():
                titles = (" ".join(p.cmdline()) for p in self.cluster.processes(node_id))
                if any(title in shown for shown in titles):
                    found.append(node_id)
            return bool(found)

        wait_for(is_found, f"a process {title}")
        return found[0]

    def lose(self, title: str) -> float:
        """SIGKILL the worker on which a process of this title runs; returns the moment."""
        node_id = self.busy_worker(title)
        moment = time.monotonic()
        self.cluster.kill(node_id)
        return moment

    def _write(self, job: str, content: dict[str, Any]) -> None:
        (self.logs / f"{job}.yaml").write_text(yaml.safe_dump(content))

    def _submit(self, job: str, *arguments: str) -> "subprocess.Popen[bytes]":
        config = self.logs / f"{job}.yaml"
        command = ["python", f"jobs/{job}.py", "--config", str(config), *arguments]
        with (self.logs / f"{job}.log").open("ab") as log:
            return subprocess.Popen(
                self.cluster.submit(*command),
                env=self.cluster.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Until the condition holds.

    Raises:
        ClusterError: it does not.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > WAIT_LIMIT_S:
            raise ClusterError(f"{what} did not come in {WAIT_LIMIT_S:.0f} s")
        time.sleep(0.1)
