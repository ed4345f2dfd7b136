"""The demo's model, trained where nothing is published yet."""

import os
import subprocess
import sys

from langalign.artifacts import list_models
from langalign.errors import TrainingError
from langalign.storage import STORAGE_VARIABLE, Storage

__all__ = ["DEMO_MODEL", "ensure_demo"]

DEMO_MODEL = "demo"


def ensure_demo(storage: Storage) -> str:
    """Train and publish the demo's model unless it is there; returns its name.

    Training is a process of its own (`python -m jobs.train`): the service imports no training
    code, and the Ray cluster that the job may start is gone before the service begins.

    Raises:
        TrainingError: the job failed; it has said why.
    """
    if any(model.name == DEMO_MODEL for model in list_models(storage)):
        return DEMO_MODEL
    print(
        f"no model named, and no demo model in {storage.root}: training it now, "
        "which takes about three minutes on two cores",
        file=sys.stderr,
    )
    job = subprocess.run(
        [sys.executable, "-m", "jobs.train"],
        env={**os.environ, STORAGE_VARIABLE: storage.root},
        stdout=sys.stderr,
        check=False,
    )
    if job.returncode:
        raise TrainingError(
            "the demo's model could not be trained; python jobs/train.py shows why, or name a "
            "published model: serve run serve.app:build model=ROOT/models/NAME"
        )
    return DEMO_MODEL
