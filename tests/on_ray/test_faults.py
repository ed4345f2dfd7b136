"""Killed workers, killed drivers, altered files, a loss that is not finite: on a real cluster."""

import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
from calls import Job, end_of, start_train
from head import CPUS, Head
from tiny import (
    OFTEN,
    OWN_CLUSTER,
    TRAIN_ROWS,
    Finished,
    Run,
    assert_same_embeddings,
    find_step,
    forget,
    has_checkpoint,
    kill_worker,
    last_checkpoint,
    ray_workers,
    scores,
    wait_for,
)

import langalign
from cluster.session import session
from jobs import train
from langalign.errors import IntegrityError, TrainingError
from langalign.outputs import StepOutput
from langalign.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("steps", [["tune"], ["align", "head"]])
def test_a_worker_killed_in_each_step_of_a_run_goes_on_from_its_checkpoint_to_the_same_result(
    steps: list[str], inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    forget(storage, *steps)
    kept = []

    def kill() -> None:
        for step in steps:
            wait_for(partial(has_checkpoint, storage, step), f"a checkpoint of {step}")
            kill_worker("RayTrainWorker")
            kept.append(last_checkpoint(storage, step))

    summary = Run(inputs, storage, OFTEN).while_(kill)
    assert scores(summary) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    for each in kept:
        each.assert_continued()


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
    assert_same_embeddings(storage, undisturbed.storage)


@pytest.mark.parametrize(("cluster", "step"), [("dies with it", "head"), ("lives on", "align")])
def test_a_killed_driver_started_again_goes_on_to_the_same_result(
    cluster: str,
    step: str,
    inputs: Path,
    storage: Storage,
    undisturbed: Finished,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Step 2, which is done when step 3 goes on, belongs to the same run of Ray Train.
    forget(storage, *{"align", step})
    own = [OWN_CLUSTER] if cluster == "dies with it" else []
    driver = start_train(inputs, storage.root, OFTEN, *own)
    wait_for(lambda: has_checkpoint(storage, step), f"a checkpoint of {step}")
    below = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    for process in below:
        # Left alone, the workers of a cluster of its own would finish before they miss it.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    driver.communicate(timeout=30)
    psutil.wait_procs(below, timeout=30)
    # On a cluster that lives on, Ray ends the workers of a job that has lost its driver.
    wait_for(lambda: not list(ray_workers("RayTrainWorker")), "the end of the workers")
    kept = last_checkpoint(storage, step)

    again = Job(train.main, capsys, monkeypatch, "--config", str(inputs))(storage.root)
    assert scores(again.summary()) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    kept.assert_continued()
    steps = {line.split()[0]: line for line in again.out.splitlines() if line.strip()}
    cached = {name for name, line in steps.items() if "cached" in line}
    assert cached == {"tune", "embed", "align", "head"} - {step}


def test_what_a_killed_controller_held_is_free_again_before_the_driver_ends(
    inputs: Path, storage: Storage, head: Head
) -> None:
    forget(storage, "align")

    def kill() -> None:
        wait_for(lambda: has_checkpoint(storage, "align"), "a checkpoint of align")
        assert ray.available_resources().get("CPU", 0) < CPUS
        kill_worker("TrainController")

    with session(head.address):
        with pytest.raises(TrainingError, match="the Ray cluster was lost"):
            Run(inputs, storage, OFTEN).while_(kill)
        wait_for(lambda: ray.available_resources().get("CPU") == CPUS, "free cores")


def test_ctrl_c_in_a_step_ends_the_run_with_its_status(inputs: Path, storage: Storage) -> None:
    forget(storage, "align")
    driver = start_train(inputs, storage.root, OFTEN)
    wait_for(lambda: has_checkpoint(storage, "align"), "a checkpoint of align")
    driver.send_signal(signal.SIGINT)
    ended = end_of(driver)
    assert ended.status == 130
    assert "interrupted; the same command goes on" in ended.err
    assert "Traceback" not in ended.err
    wait_for(lambda: not list(ray_workers("RayTrainWorker")), "the end of the workers")


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_encoder_of_step_1_is_tuned_again(
    damage: str, inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    (digest,) = storage.folders("steps/tune")
    tuned = StepOutput(storage, f"steps/tune/{digest}")
    key = tuned.key("encoder/model.safetensors")
    data = storage.read_bytes(key)
    if damage == "truncated":
        storage.write_bytes(key, data[:-100])  # found by the driver, which publishes it
    else:
        storage.write_bytes(key, data[:-1] + bytes([data[-1] ^ 1]))
        forget(storage, "embeddings")  # found by an actor, which embeds with it
    run = Run(inputs, storage)
    assert scores(run()) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    assert run.printed.getvalue().count("rebuilt") == 1
    assert f"{key} is truncated or altered" in run.printed.getvalue()
    tuned.fetch()
    langalign.load(storage.uri("models/tiny"))


def test_a_truncated_embedding_part_and_altered_weights_are_made_again(
    inputs: Path, storage: Storage, undisturbed: Finished
) -> None:
    outputs = [StepOutput(storage, f"embeddings/{d}") for d in storage.folders("embeddings")]
    (labelled,) = [output for output in outputs if output.info()["rows"] == TRAIN_ROWS]
    part = labelled.key("part-00001.parquet")
    storage.write_bytes(part, storage.read_bytes(part)[:-100])
    head = find_step(storage, "head", "langalign", "ae")
    weights = [f"{head}/head.safetensors", f"{head}/aligner.safetensors"]
    for key in weights:
        data = storage.read_bytes(key)
        storage.write_bytes(key, data[:-1] + bytes([data[-1] ^ 1]))
    run = Run(inputs, storage)
    assert scores(run()) == pytest.approx(scores(undisturbed.summary), abs=1e-6)
    # The driver finds the weights, which it publishes; a worker that trains them anew, the part.
    rebuilt = [line for line in run.printed.getvalue().splitlines() if "rebuilt" in line]
    assert len(rebuilt) == 2
    assert any(f"{key} is truncated or altered" in rebuilt[0] for key in weights)
    assert f"{part} is truncated or altered" in rebuilt[1]
    assert_same_embeddings(storage, undisturbed.storage)
    for name in ("head.safetensors", "aligner.safetensors"):
        StepOutput(storage, head).read(name)


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
