"""Models and servers of the serving benchmarks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import torch
import yaml
from random_encoder import MAX_LENGTH, make_config, make_tokenizer
from safetensors.torch import save_file
from transformers import XLMRobertaForSequenceClassification as Classifier

from langalign import artifacts
from langalign.aligners import build_aligner
from langalign.manifest import ManifestDraft
from langalign.model import write_config
from langalign.storage import Storage

__all__ = [
    "EQUAL_PRIORITY",
    "HAPROXY",
    "LABELS",
    "OPTIONS",
    "empty",
    "make_models",
    "ours",
    "peer",
    "publish",
    "server",
]

ROOT = Path(__file__).parents[1]
LABELS = ("negative", "positive")
START_LIMIT_S = 180.0
# Ray's workers give way to every other process (nice 15), so also to the load; the peers do not.
EQUAL_PRIORITY = {"RAY_worker_niceness": "0"}
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
}
OPTIONS: dict[str, Any] = {"pooling": "cls", "max_length": MAX_LENGTH, "precision": "fp32"}


def make_models(size: str, folder: Path) -> tuple[Path, Path]:
    """One set of random weights as a pipeline's folder and as a storage with a published model."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = Classifier(make_config(size, tokenizer, LABELS)).eval()
    pipeline_folder = folder / "pipeline"
    model.save_pretrained(pipeline_folder)
    tokenizer.save_pretrained(pipeline_folder)
    storage = Storage(str(folder / "store"))
    publish(model, tokenizer, storage, folder / "model", language="xc", kind="none")
    return pipeline_folder, folder / "store"


def publish(
    model: Classifier, tokenizer: Any, storage: Storage, folder: Path, *, language: str, kind: str
) -> None:
    """Publish as the model `bench-LANGUAGE`, with an untrained aligner of `kind`."""
    model.roberta.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    head = {key: value.contiguous() for key, value in model.classifier.state_dict().items()}
    save_file(head, folder / "head.safetensors")
    if kind != "none":
        aligner = build_aligner(kind, model.config.hidden_size)
        save_file(aligner.state_dict(), folder / "aligner.safetensors")
    (folder / "README.md").write_text("# benchmark\n")
    shared: dict[str, Any] = {
        "source_language": "en",
        "target_language": language,
        "direction": "forward",
        "aligner": {"kind": kind},
        "encoder": OPTIONS,
    }
    write_config(folder, labels=LABELS, dropout=0.1, is_pair_task=False, **shared)
    draft = ManifestDraft(seed=0, task={"name": "bench"}, labels=list(LABELS), **shared)
    artifacts.publish(storage, folder, draft, name=f"bench-{language}")


@contextmanager
def server(
    command: list[str], port: int, log: Path, env: dict[str, str]
) -> Iterator[tuple[float, psutil.Process]]:
    """Run a server until the block ends; gives the seconds from start to ready, and its process."""
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **env}, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.perf_counter() - began > START_LIMIT_S:
                sys.exit(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield time.perf_counter() - began, psutil.Process(process.pid)
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        for left in psutil.wait_procs(family, timeout=10)[1]:
            left.kill()


def _is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def ours(folder: Path, port: int, **settings: Any) -> list[str]:
    """The command of the service, with its deployment file in `folder`."""
    application = _deployment_file()["applications"][0]
    return _serve_run(folder, port, application | {"args": application["args"] | settings})


def empty(folder: Path, port: int, replicas: int) -> list[str]:
    """The command of an application that answers at once; PYTHONPATH has to name this folder."""
    deployments = [{"name": "Empty", "num_replicas": replicas}]
    application = {"name": "empty", "import_path": "serving_floor:app", "deployments": deployments}
    return _serve_run(folder, port, application)


def peer(port: int, workers: int) -> list[str]:
    """The command of a peer, an application of serving_peer.py."""
    place = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    # uvicorn replaces a worker that is silent for 5 s, as one that loads its model might be.
    patience = ["--timeout-worker-healthcheck", "60"]
    quiet = ["--no-access-log", "--log-level", "error"]
    application = [f"--app-dir={Path(__file__).parent}", "--factory", "serving_peer:create"]
    return [sys.executable, "-m", "uvicorn", *application, *place, *patience, *quiet]


def _deployment_file() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    return config


def _serve_run(folder: Path, port: int, application: dict[str, Any]) -> list[str]:
    config = _deployment_file() | {"applications": [application]}
    config["http_options"]["port"] = port
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return [str(Path(sys.executable).parent / "serve"), "run", str(folder / "config.yaml")]
