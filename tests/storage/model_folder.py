"""A small model folder and its manifest draft, for the tests of artifacts.py."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from langalign.artifacts import ManifestDraft


def draft(**changes: Any) -> ManifestDraft:
    fields: dict[str, Any] = {
        "seed": 7,
        "task": {"name": "reviews", "metric": "f1"},
        "labels": ["negative", "positive"],
        "source_language": "en",
        "target_language": "ko",
        "direction": "forward",
        "aligner": {"kind": "fc", "depth": 6},
        "encoder": {"pooling": "mean", "max_length": 128, "precision": "float32", "digest": "d"},
        "metrics": [{"split": "test", "metric": "f1", "value": 0.75}],
        "parents": {"align": "abc"},
    }
    return ManifestDraft(**{**fields, **changes})


def write_model(folder: Path) -> None:
    """A small model as training leaves it."""
    (folder / "encoder").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# 모델\n")
    (folder / "encoder" / "config.json").write_text('{"hidden_size": 4}')
    for name, size in (("encoder/model", 40), ("aligner", 20), ("head", 10)):
        weights = np.arange(size, dtype=np.float32)
        save_file({"weight": weights}, folder / f"{name}.safetensors")


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
