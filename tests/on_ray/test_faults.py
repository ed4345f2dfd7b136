"""Killed workers, a killed driver, altered files, a loss that is not finite: on a real cluster."""

import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from tiny import (
    PAIRS,
    Finished,
    Run,
    find_step,
    forget,
    has_checkpoint,
    kill_worker,
    read_rows,
    run_job,
    scores,
    start_job,
    summary_of,
    wait_for,
)

import langalign
from langalign.errors import IntegrityError, TrainingError
from langalign.outputs import StepOutput
from langalign.storage import Storage

pytestmark = pytest.mark.slow

FIRST_UNIT = {"tune": "tune english", "align": "align ae", "head": "head langalign ae"}
RESTART_S = 1.0  # at least this long, no progress comes from a worker that was killed


@pytest.mark.parametrize("step", ["tune", "align", "head"])
def test_a_worker_killed_in_a_step_goes_on_from_its_checkpoint_to_the_same_result(
    step: str, inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    forget(storage, step)
    run = Run(inputs, storage)
    killed_at = []

    def kill() -> None:
        wait_for(lambda: has_checkpoint(storage, step), f"a checkpoint of {step}")
        kill_worker("RayTrainWorker")
        killed_at.append(time.monotonic())

    summary = run.while_(kill)
    assert scores(summary) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    epochs = [
        progress.done
        for when, progress in run.shown
        if when > killed_at[0] + RESTART_S and progress.step == FIRST_UNIT[step]
    ]
    assert epochs, "the step was over before the kill"
    assert min(epochs) > 1, "the step began anew instead of going on"


def test_a_worker_killed_while_embedding_changes_no_embedding(
    inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    forget(storage, "embeddings")
    run = Run(inputs, storage, "stop_after=embed")

    def kill() -> None:
        wait_for(lambda: storage.list("embeddings"), "a first part")
        kill_worker("MapWorker(Map(_Encode))")
        parts = len(undisturbed.storage.list("embeddings"))
        assert len(storage.list("embeddings")) < parts, "all parts were there before the kill"

    assert run.while_(kill)["status"] == "stopped after embed"
    assert storage.folders("embeddings") == undisturbed.storage.folders("embeddings")
    for digest in storage.folders("embeddings"):
        found = read_rows(storage, f"embeddings/{digest}")
        wanted = read_rows(undisturbed.storage, f"embeddings/{digest}")
        assert found["id"].to_pylist() == wanted["id"].to_pylist()
        for row, wanted_row in zip(
            found["embedding"].to_pylist(), wanted["embedding"].to_pylist(), strict=True
        ):
            assert row == pytest.approx(wanted_row, abs=1e-6)


def test_a_killed_driver_started_again_skips_what_is_done(
    inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    forget(storage, "align", "head")
    driver = start_job(inputs, storage.root)
    wait_for(lambda: has_checkpoint(storage, "align"), "a checkpoint of align")
    below = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    # With its cluster, as where a container ends: workers left alive would end the step first.
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for process in below:
        # Left alone, orphaned workers would finish the step before they miss their driver.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    driver.communicate(timeout=30)
    psutil.wait_procs(below, timeout=30)
    assert not storage.folders("steps/head"), "the run was over before the kill"

    again = run_job(inputs, storage.root)
    assert again.returncode == 0, again.stderr
    steps = {line.split()[0]: line for line in again.stdout.splitlines() if line.strip()}
    assert "cached" in steps["tune"]
    assert "cached" in steps["embed"]
    assert "cached" not in steps["align"]
    assert scores(summary_of(again)) == pytest.approx(scores(undisturbed.summary), abs=1e-6)


def test_a_truncated_embedding_part_is_embedded_again(
    inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    outputs = [StepOutput(storage, f"embeddings/{d}") for d in storage.folders("embeddings")]
    of_pairs = next(output for output in outputs if output.info()["rows"] == PAIRS)
    key = of_pairs.key("part-00001.parquet")
    storage.write_bytes(key, storage.read_bytes(key)[:-100])
    forget(storage, "align")
    run = Run(inputs, storage)
    assert scores(run()) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    assert run.printed.getvalue().count("rebuilt") == 1
    assert f"{key} is truncated or altered" in run.printed.getvalue()
    of_pairs.read("part-00001.parquet")


def test_altered_weights_are_trained_again(
    inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    head = find_step(storage, "head", "langalign", "ae")
    for key in (f"{head}/head.safetensors", f"{head}/aligner.safetensors"):
        data = bytearray(storage.read_bytes(key))
        data[-1] ^= 1
        storage.write_bytes(key, bytes(data))
    run = Run(inputs, storage)
    assert scores(run()) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    assert "rebuilt" in run.printed.getvalue()
    assert "cached" not in run.lines()["head"]


def test_an_altered_published_model_is_refused(storage: Storage) -> None:
    version = storage.folders("models/tiny")[0]
    key = f"models/tiny/{version}/head.safetensors"
    data = bytearray(storage.read_bytes(key))
    data[-1] ^= 1
    storage.write_bytes(key, bytes(data))
    with pytest.raises(IntegrityError, match=r"head\.safetensors"):
        langalign.load(storage.uri(f"models/tiny/{version}"))


def test_a_loss_that_is_not_finite_ends_the_run_without_restarts(
    inputs: Path, storage: Storage
) -> None:
    run = Run(inputs, storage, "aligner.learning_rate=1e30", "cluster.max_failures=-1")
    # With restarts without limit the run would never end.
    with pytest.raises(TrainingError, match="lower the step's learning rate"):
        run()
    assert not ray.is_initialized()
