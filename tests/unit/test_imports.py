"""What starting a process costs: libraries that take seconds to import are left until needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_encoder import write_encoder

HEAVY = {"datasets", "peft", "sklearn", "torch._dynamo", "transformers"}


@pytest.mark.parametrize(
    "module",
    [
        *("cluster.arrays", "cluster.bundle", "cluster.local_translation", "cluster.pipeline"),
        *("cluster.translate", "cluster.units", "serve.app"),
    ],
)
def test_drivers_and_workers_that_load_no_encoder_import_none_of_them(module: str) -> None:
    assert imported_by(f"import {module}") == set()


@pytest.mark.parametrize("module", ["cluster.benchmark_group", "cluster.translate"])
def test_what_draws_nothing_imports_no_plots(module: str) -> None:
    assert imported_by(f"import {module}", {"matplotlib"}) == set()


def test_to_embed_needs_none_of_them(tmp_path: Path) -> None:
    load = f"SentenceEncoder.load_frozen(Path({str(write_encoder(tmp_path))!r}), max_length=64)"
    code = "from pathlib import Path; from langalign.encoder import SentenceEncoder"
    assert imported_by(f"{code}; {load}.embed(['a text'])") == set()


def test_to_train_needs_none_of_them() -> None:
    code = """
import torch
from langalign.adamw import AdamW
from langalign.aligners import build_aligner
from langalign.loop import FitOptions
from langalign.training import Pairs, fit_aligner

optimizer = AdamW([torch.nn.Parameter(torch.ones(1))])
optimizer.load_state_dict(optimizer.state_dict())
pairs = Pairs(torch.randn(8, 4), torch.randn(8, 4))
fit_aligner(build_aligner("ae", 4), pairs, pairs, options=FitOptions(1e-3, max_epochs=2))"""
    assert imported_by(code) == set()


def test_the_controller_of_ray_train_gets_nothing_that_imports_torch() -> None:
    controller = "from ray.train.v2._internal.execution.controller import TrainController"
    code = f"import cluster.process_group, cluster.checkpoints; {controller}"
    assert imported_by(code, HEAVY | {"torch"}) == set()


def imported_by(code: str, modules: set[str] = HEAVY) -> set[str]:
    """Which of the modules a new process has after it ran `code`."""
    code = f"{code}\nimport sys; print(*({modules} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())
