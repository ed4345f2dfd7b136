"""`python -m serve`, which `make serve` runs: its line works, its errors are one line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cluster.ports import free_ports
from langalign.storage import Storage
from serve.settings import Settings

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@contextmanager
def command(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate(timeout=30)


def test_the_printed_line_works_as_it_stands(models: Storage) -> None:
    (port,) = free_ports(1)
    arguments = ["model=one,two", f"storage={models.root}", f"port={port}", "threads=1"]
    with command(*arguments) as process:
        assert process.stdout is not None
        line = next((text for text in process.stdout if text.startswith("curl ")), "")
        assert f"http://127.0.0.1:{port}/v1/classify" in line
        answer = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
        assert json.loads(answer.stdout)["model"] in ("one", "two")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_help_lists_every_key() -> None:
    with command("--help") as process:
        shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert {"host", "port", *Settings.model_fields} <= set(shown.split())


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["modle=x"], 2, "did you mean 'model'"),
        (["inputs=0"], 2, "inputs=0"),
        (["host=0.0.0.0"], 2, "auth=off"),
        (["model=none"], 1, "no model none"),
    ],
)
def test_mistakes_are_one_line(
    models: Storage, arguments: list[str], status: int, text: str
) -> None:
    with command(*arguments, f"storage={models.root}") as process:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == status
        (line,) = errors.splitlines()
        assert text in line
