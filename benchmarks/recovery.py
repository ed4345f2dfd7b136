"""What happens to work when parts of a cluster are lost, and how long it takes to go on.

    python benchmarks/recovery.py                 # all of them; as root
    python benchmarks/recovery.py head partition  # some of them

A cluster of the rehearsal (a head, two workers of two cores at most, each in a network namespace,
SeaweedFS) runs the rehearsal's data. `back` is the time from the loss (of a network: from its
return) to the next piece of work that is done (a checkpoint, a part of embeddings, a trial, an
answer). Scores and answers are compared with those of an undisturbed run; a sweep has to end with
all trials, and those among them that were done before the loss unchanged. Where a result is wrong
or does not come the exit status is 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
from disturbed import TRIALS, Trial, Work, wait_for
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from cluster.rehearsal.autoscaling import HEAD_NODE_ID
from cluster.rehearsal.serving import classify, serving
from cluster.rehearsal.stage import PREFIX, open_stage
from langalign.counterpart import labelled_table
from langalign.errors import LangAlignError
from langalign.outputs import StepOutput

ROOT = Path(__file__).parents[1]
TRAIN_RUNS = "runs/base/train"
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's own
PARTITION_S = 30.0
IDLE_S = 300.0


@dataclass(frozen=True)
class Outcome:
    """What a loss led to: in words, seconds to the next piece of work (None: it did not come), and
    to the end."""

    text: str
    is_right: bool
    back_s: float | None
    whole_s: float


def runs_of_step_1(work: Work) -> list[str]:
    """Folders of Ray Train runs of step 1."""
    names = work.storage.folders(TRAIN_RUNS)
    return [f"{TRAIN_RUNS}/{name}" for name in names if name.startswith("tune-")]


def checkpoints(work: Work) -> set[str]:
    """Folders of step 1's checkpoints; old ones are deleted as new ones come."""
    return {
        f"{run}/{name}"
        for run in runs_of_step_1(work)
        for name in work.storage.folders(run)
        if name.startswith("checkpoint-")
    }


def has_noted_checkpoint(work: Work) -> bool:
    """Whether Ray Train knows of one, which it goes on from."""
    return any(work.storage.exists(f"{run}/{SNAPSHOT}") for run in runs_of_step_1(work))


def noted_epochs(work: Work) -> tuple[StepOutput, list[dict[str, Any]]]:
    """Output of the unit that the last checkpoint is of, and its epochs, each with its seconds."""
    (run,) = runs_of_step_1(work)
    latest = work.storage.read_json(f"{run}/{SNAPSHOT}")["latest_checkpoint_result"]
    checkpoint = StepOutput(work.storage, f"{run}/{latest['checkpoint_dir_name']}")
    with safe_open(checkpoint.fetch() / "state.safetensors", framework="np") as file:
        epochs = json.loads(file.metadata()["history"])
    return StepOutput(work.storage, checkpoint.info()["unit"]), epochs


def parts(work: Work) -> dict[str, datetime]:
    """Objects of embeddings, and when each was written."""
    store = work.stage.store
    pages = store.client().get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=store.bucket, Prefix=f"{PREFIX}/embeddings/")
    return {
        entry["Key"]: entry["LastModified"] for page in found for entry in page.get("Contents", [])
    }


def lose_worker_in_step_1(work: Work) -> Outcome:
    """SIGKILL the node that trains, after its first checkpoint."""
    before = work.scores("base")
    work.forget("steps/tune", "steps/align", "steps/head", "embeddings")
    begin = time.monotonic()
    job = work.train("name=base")
    wait_for(lambda: has_noted_checkpoint(work), "a checkpoint")
    lost = work.lose("RayTrainWorker")
    seen = checkpoints(work)
    output, epochs = noted_epochs(work)
    wait_for(lambda: checkpoints(work) - seen, "another checkpoint")
    back_s = time.monotonic() - lost
    work.end(job)
    same = work.scores("base") == before
    # No two epochs take the same seconds.
    is_continued = output.info()["history"][: len(epochs)] == epochs
    text = (
        f"a new node {'went on from' if is_continued else 'did NOT use'} the checkpoint of epoch "
        f"{len(epochs)}; scores {'equal' if same else 'DIFFER'}"
    )
    return Outcome(text, same and is_continued, back_s, time.monotonic() - begin)


def lose_worker_while_embedding(work: Work) -> Outcome:
    """SIGKILL the node that embeds, after its first part."""
    before = work.scores("base")
    work.forget("embeddings")
    begin = time.monotonic()
    job = work.train("name=base")
    wait_for(lambda: parts(work), "a part")
    lost = work.lose("_Encode")
    seen = parts(work)
    wait_for(lambda: parts(work).keys() - seen.keys(), "another part")
    back_s = time.monotonic() - lost
    work.end(job)
    same = work.scores("base") == before
    stay = seen.items() <= parts(work).items()
    text = (
        f"{len(seen)} parts that were there {'stay' if stay else 'were WRITTEN AGAIN'}; scores "
        f"{'equal' if same else 'DIFFER'}"
    )
    return Outcome(text, same and stay, back_s, time.monotonic() - begin)


def all_trials(work: Work, name: str, seen: dict[int, Trial]) -> tuple[str, bool]:
    """Whether a study has all of its trials and those `seen` before a loss, in words too."""
    done = work.trials(name)
    are_kept = seen.items() <= done.items()
    text = f"{len(seen)} trials {'kept' if are_kept else 'LOST'}, {len(done)} of {TRIALS} done"
    return text, are_kept and len(done) == TRIALS


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
    text, is_right = all_trials(work, "lost-worker", seen)
    return Outcome(f"its trials start anew; {text}", is_right, back_s, time.monotonic() - begin)


def lose_worker_in_serving(work: Work) -> Outcome:
    """SIGKILL the node of the only replica."""
    begin = time.monotonic()
    text = labelled_table(1, 0, "xc", split="test")["text"][0].as_py()
    with serving(work.cluster, "base") as url:
        before = classify(url, "xc", text)
        others = []
        lost = work.lose("ServeReplica")

        def answers() -> bool:
            question = {"language": "xc", "inputs": [text]}
            try:
                answer = httpx2.post(f"{url}/v1/classify", json=question, timeout=10)
            except httpx2.HTTPError:
                return False
            if answer.status_code != 200:
                return False
            found = answer.json()["predictions"][0]
            others.extend([found] if found != before else [])
            return True

        wait_for(answers, "an answer")
        back_s = time.monotonic() - lost
    text = f"one replica: {'ANOTHER' if others else 'the same'} answer once a new one stands"
    return Outcome(text, not others, back_s, time.monotonic() - begin)


def lose_head(work: Work) -> Outcome:
    """SIGKILL the head during a sweep; a new cluster, and the same job again."""
    begin = time.monotonic()
    job = work.sweep("name=lost-head")
    wait_for(lambda: work.trials("lost-head"), "a trial")
    lost = time.monotonic()
    work.cluster.kill(HEAD_NODE_ID)
    wait_for(lambda: job.poll() is not None, "the end of the job's client")
    seen = work.trials("lost-head")
    work.stage.replace(idle_s=IDLE_S)
    again = work.sweep("name=lost-head")
    wait_for(lambda: len(work.trials("lost-head")) > len(seen), "another trial")
    back_s = time.monotonic() - lost
    work.end(again)
    trials, is_right = all_trials(work, "lost-head", seen)
    text = f"the cluster ends; a new one and the same command: {trials}"
    return Outcome(text, is_right, back_s, time.monotonic() - begin)


def cut_off_worker(work: Work) -> Outcome:
    """Pull the cable of the node that trains trials for 30 s."""
    begin = time.monotonic()
    # One trial at a time, so that what comes next is of this node, or of what replaces it.
    job = work.sweep("name=cut-off", "sweep.max_concurrent=1")
    wait_for(lambda: work.trials("cut-off"), "a trial")
    node_id = work.busy_worker("TrialBundle")
    number = int(node_id[-5:])
    work.stage.network.plug(number, is_in=False)
    time.sleep(PARTITION_S)
    work.stage.network.plug(number, is_in=True)
    returned = time.monotonic()
    seen = work.trials("cut-off")
    wait_for(lambda: len(work.trials("cut-off")) > len(seen), "another trial")
    back_s = time.monotonic() - returned
    work.end(job)
    place = "the node stays" if node_id in work.cluster.workers() else "the node is replaced"
    trials, is_right = all_trials(work, "cut-off", seen)
    return Outcome(f"{place}; {trials}", is_right, back_s, time.monotonic() - begin)


SCENARIOS: dict[str, Callable[[Work], Outcome]] = {
    "step1": lose_worker_in_step_1,
    "embedding": lose_worker_while_embedding,
    "sweep": lose_worker_in_sweep,
    "serving": lose_worker_in_serving,
    "head": lose_head,
    "partition": cut_off_worker,
}


def outcome_of(name: str, work: Work) -> Outcome:
    """What came of a scenario; after one that failed the next has a new cluster."""
    begin = time.monotonic()
    try:
        return SCENARIOS[name](work)
    except LangAlignError as error:
        whole_s = time.monotonic() - begin
        work.stage.replace(idle_s=IDLE_S)
        return Outcome(f"FAILED: {error}", False, None, whole_s)


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
            outcome = outcome_of(name, work)
            row = (
                SCENARIOS[name].__doc__ or "",
                outcome.text,
                "–" if outcome.back_s is None else f"{outcome.back_s:.0f}",
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
