"""What happens to work when parts of a cluster are lost, and how long it takes to go on.

    python benchmarks/recovery.py                 # all, about 20 minutes on two cores; as root
    python benchmarks/recovery.py head partition  # some of them

A cluster of the rehearsal (a head, two workers of two cores at most, each in a network namespace,
SeaweedFS) runs the rehearsal's data. `back` is the time from the loss to the next piece of work
that is done (a checkpoint, a part of embeddings, a trial, an answer); results are compared with
those of an undisturbed run, and where one is wrong the exit status is 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from rich.table import Table

from cluster.rehearsal import rehearsal
from cluster.rehearsal.autoscaling import HEAD_NODE_ID
from cluster.rehearsal.nodes import LocalCluster
from cluster.rehearsal.serving import classify, serving
from cluster.rehearsal.stage import Stage, open_stage
from langalign.counterpart import labelled_table, unpaired_texts
from langalign.pretraining import pretrain
from langalign.storage import Storage

SWEEP = Path(rehearsal.__file__).with_name("sweep.yaml")
ROOT = Path(__file__).parents[1]
TRIALS = 8
PARTITION_S = 30.0
WAIT_LIMIT_S = 300.0
IDLE_S = 300.0
# Long enough to be disturbed, with a checkpoint after each epoch and parts of 200 texts.
TRAIN = [
    *("tune.max_epochs=20", "cluster.checkpoint_interval_s=0", "cluster.shard_rows=100"),
    *("encoder.batch_tokens=256", "cluster.embed_actors=1"),
]


@dataclass(frozen=True)
class Outcome:
    """What a loss led to: in words, seconds to the next piece of work, and to the end."""

    text: str
    is_right: bool
    back_s: float
    whole_s: float


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
        """Wait for a job, which must end well."""
        assert job.wait(WAIT_LIMIT_S) == 0, f"see {self.logs}"

    def scores(self, name: str) -> dict[str, float]:
        """Figures of a training run by what they are figures of."""
        rows = self.storage.read_json(f"runs/{name}/summary.json")["results"]
        keys = ("method", "aligner", "language", "split", "metric")
        return {" ".join(str(row[key]) for key in keys): row["value"] for row in rows}

    def trials(self, name: str) -> list[int]:
        """Numbers of a study's trials that are done."""
        key = f"runs/{name}/sweep/study.journal"
        if not self.storage.exists(key):
            return []
        path = self.logs / f"{time.monotonic_ns()}.journal"
        path.write_bytes(self.storage.read_bytes(key))
        journal = JournalStorage(JournalFileBackend(str(path)))
        names = optuna.get_all_study_names(journal)
        if not names:
            return []
        found = optuna.load_study(study_name=names[0], storage=journal).trials
        return [t.number for t in found if t.state.name in ("COMPLETE", "PRUNED")]

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
    """Until the condition holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < WAIT_LIMIT_S, f"{what} did not happen"
        time.sleep(0.1)


def checkpoints(work: Work) -> int:
    """Files of Ray Train's checkpoints of step 1."""
    return len([key for key in work.storage.list("runs/base/train") if "checkpoint_" in key.key])


def lose_worker_in_step_1(work: Work) -> Outcome:
    """SIGKILL the node that trains, after its first checkpoint."""
    before = work.scores("base")
    work.forget("steps/tune", "steps/align", "steps/head", "embeddings")
    begin = time.monotonic()
    job = work.train("name=base")
    wait_for(lambda: checkpoints(work), "a checkpoint")
    lost = work.lose("RayTrainWorker")
    seen = checkpoints(work)
    wait_for(lambda: checkpoints(work) > seen, "another checkpoint")
    back_s = time.monotonic() - lost
    work.end(job)
    same = work.scores("base") == before
    text = f"a new node, on from the checkpoint; scores {'equal' if same else 'DIFFER'}"
    return Outcome(text, same, back_s, time.monotonic() - begin)


def lose_worker_while_embedding(work: Work) -> Outcome:
    """SIGKILL the node that embeds, after its first part."""
    before = work.scores("base")
    work.forget("embeddings")
    begin = time.monotonic()
    job = work.train("name=base")
    wait_for(lambda: work.storage.list("embeddings"), "a part")
    lost = work.lose("_Encode")
    seen = len(work.storage.list("embeddings"))
    wait_for(lambda: len(work.storage.list("embeddings")) > seen, "another part")
    back_s = time.monotonic() - lost
    work.end(job)
    same = work.scores("base") == before
    text = f"parts that were there stay; scores {'equal' if same else 'DIFFER'}"
    return Outcome(text, same, back_s, time.monotonic() - begin)


def lose_worker_in_sweep(work: Work) -> Outcome:
    """SIGKILL a node that trains trials."""
    begin = time.monotonic()
    job = work.sweep("name=lost-worker")
    wait_for(lambda: work.trials("lost-worker"), "a trial")
    lost = work.lose("TrialBundle")
    seen = work.trials("lost-worker")
    wait_for(lambda: len(work.trials("lost-worker")) > len(seen), "another trial")
    back_s = time.monotonic() - lost
    work.end(job)
    done = len(work.trials("lost-worker"))
    text = f"its trials start anew; {done} of {TRIALS} done"
    return Outcome(text, done == TRIALS, back_s, time.monotonic() - begin)


def lose_worker_in_serving(work: Work) -> Outcome:
    """SIGKILL the node of the only replica."""
    begin = time.monotonic()
    text = labelled_table(1, 0, "xc", split="test")["text"][0].as_py()
    with serving(work.cluster, "base") as url:
        before = classify(url, "xc", text)
        lost = work.lose("ServeReplica")

        def answers() -> bool:
            question = {"language": "xc", "inputs": [text]}
            try:
                answer = httpx2.post(f"{url}/v1/classify", json=question, timeout=10)
            except httpx2.HTTPError:
                return False
            return answer.status_code == 200 and answer.json()["predictions"][0] == before

        wait_for(answers, "an answer")
        back_s = time.monotonic() - lost
    text = "one replica: no answer until a new one stands; then the same answer"
    return Outcome(text, True, back_s, time.monotonic() - begin)


def lose_head(work: Work) -> Outcome:
    """SIGKILL the head during a sweep; a new cluster, and the same job again."""
    begin = time.monotonic()
    job = work.sweep("name=lost-head")
    wait_for(lambda: work.trials("lost-head"), "a trial")
    lost = time.monotonic()
    work.cluster.kill(HEAD_NODE_ID)
    job.wait(WAIT_LIMIT_S)
    seen = work.trials("lost-head")
    work.stage.replace(idle_s=IDLE_S)
    again = work.sweep("name=lost-head")
    wait_for(lambda: len(work.trials("lost-head")) > len(seen), "another trial")
    back_s = time.monotonic() - lost
    work.end(again)
    done = work.trials("lost-head")
    kept = set(seen) <= set(done)
    text = (
        f"the cluster ends; a new one and the same command: {len(seen)} trials "
        f"{'kept' if kept else 'LOST'}, {len(done)} of {TRIALS} done"
    )
    return Outcome(text, kept and len(done) == TRIALS, back_s, time.monotonic() - begin)


def cut_off_worker(work: Work) -> Outcome:
    """Pull the cable of a node that trains trials for 30 s."""
    begin = time.monotonic()
    job = work.sweep("name=cut-off")
    wait_for(lambda: work.trials("cut-off"), "a trial")
    number = int(work.busy_worker("TrialBundle")[-5:])
    lost = time.monotonic()
    work.stage.network.plug(number, is_in=False)
    seen = work.trials("cut-off")
    time.sleep(PARTITION_S)
    work.stage.network.plug(number, is_in=True)
    wait_for(lambda: len(work.trials("cut-off")) > len(seen), "another trial")
    back_s = time.monotonic() - lost
    work.end(job)
    done = len(work.trials("cut-off"))
    text = f"{done} of {TRIALS} trials done, none twice"
    return Outcome(text, done == TRIALS, back_s, time.monotonic() - begin)


SCENARIOS: dict[str, Callable[[Work], Outcome]] = {
    "step1": lose_worker_in_step_1,
    "embedding": lose_worker_while_embedding,
    "sweep": lose_worker_in_sweep,
    "serving": lose_worker_in_serving,
    "head": lose_head,
    "partition": cut_off_worker,
}


def run(names: list[str], console: Console) -> bool:
    """One undisturbed run, then the scenarios, each printed as it ends; whether all went right."""
    are_right = True
    table = Table(title="What was lost, and what came of it")
    for column in ("lost", "what happened"):
        table.add_column(column)
    for column in ("back s", "whole s"):
        table.add_column(column, justify="right")
    with open_stage(ROOT, idle_s=IDLE_S) as stage:
        work = Work(stage)
        console.print(f"logs in {work.logs}; namespaces: {stage.network.has_namespaces}")
        work.end(work.train("name=base"))
        for name in names:
            outcome = SCENARIOS[name](work)
            row = (
                SCENARIOS[name].__doc__ or "",
                outcome.text,
                f"{outcome.back_s:.0f}",
                f"{outcome.whole_s:.0f}",
            )
            console.print(name, *row, sep=" | ")
            table.add_row(*row)
            are_right &= outcome.is_right
    console.print(table)
    return are_right


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*SCENARIOS, []], metavar="NAME")
    names = parser.parse_args().names or list(SCENARIOS)
    return 0 if run(names, Console(width=110)) else 1


if __name__ == "__main__":
    sys.exit(main())
