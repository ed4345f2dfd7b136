"""A published model in use: texts of either language in, labels and probabilities out; no Ray.

Shapes: N texts, C classes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from langalign import artifacts
from langalign.aligners import build_aligner
from langalign.classifier import AlignedHead, ClassificationHead
from langalign.encoder import SentenceEncoder
from langalign.errors import ConfigError, DataError

__all__ = ["Input", "TextModel", "load_model", "write_config"]

Input = str | tuple[str, str]

CONFIG_FILE = "config.json"
ENCODER_FOLDER = "encoder"
ALIGNER_FILE = "aligner.safetensors"
HEAD_FILE = "head.safetensors"


def write_config(
    folder: Path,
    *,
    labels: Sequence[str],
    source_language: str,
    target_language: str,
    direction: str,
    aligner: dict[str, Any],
    encoder: dict[str, Any],
    dropout: float,
    is_pair_task: bool,
) -> None:
    """Write config.json of a model folder: what `TextModel.from_folder` builds from.

    `aligner` holds the arguments of `build_aligner`, `encoder` those of `SentenceEncoder`.
    """
    config = {
        "labels": list(labels),
        "source_language": source_language,
        "target_language": target_language,
        "direction": direction,
        "aligner": aligner,
        "encoder": encoder,
        "dropout": dropout,
        "is_pair_task": is_pair_task,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def load_model(uri: str, *, device: str | None = None) -> "TextModel":
    """See `langalign.load`."""
    storage, name, version = artifacts.parse_model_uri(uri)
    return TextModel.from_folder(artifacts.fetch(storage, name, version), device=device)


class TextModel:
    """Encoder, aligner and head of one model version."""

    def __init__(
        self, encoder: SentenceEncoder, model: AlignedHead, config: dict[str, Any]
    ) -> None:
        self.encoder = encoder
        self.model = model.eval()
        self.labels: tuple[str, ...] = tuple(config["labels"])
        self.source_language: str = config["source_language"]
        self.target_language: str = config["target_language"]
        self.is_pair_task: bool = config["is_pair_task"]

    @classmethod
    def from_folder(
        cls, folder: Path, *, device: str | None = None, encoder: SentenceEncoder | None = None
    ) -> Self:
        """Build from a model folder that has been verified (`artifacts.fetch`).

        `encoder` is the folder's own, loaded before for another model; its device is taken too.
        """
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if encoder is None:
            target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            options = config["encoder"]
            encoder = SentenceEncoder.load_frozen(folder / ENCODER_FOLDER, target, **options)
        aligner = build_aligner(width=encoder.width, **config["aligner"])
        if (folder / ALIGNER_FILE).is_file():
            aligner.load_state_dict(load_file(folder / ALIGNER_FILE))
        head = ClassificationHead(encoder.width, len(config["labels"]), dropout=config["dropout"])
        head.load_state_dict(load_file(folder / HEAD_FILE))
        model = AlignedHead(aligner, head, direction=config["direction"])
        return cls(encoder, model.to(encoder.device), config)

    def predict(self, inputs: Sequence[Input], *, language: str | None = None) -> list[str]:
        """The likeliest label of each input; see `predict_proba`."""
        best = self.predict_proba(inputs, language=language).argmax(axis=1)
        return [self.labels[c] for c in best]

    def predict_proba(
        self, inputs: Sequence[Input], *, language: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Probabilities (N, C) in the order of `labels`.

        An input is a text, or a (text, text) tuple for a pair task. `language` is the target
        language unless it says otherwise; it decides on which side of the aligner inputs enter.

        Raises:
            ConfigError: a language the model was not made for.
            DataError: an input of another form.
        """
        of_target = self._is_target(language or self.target_language)
        texts, pairs = self._columns(inputs)
        if not texts:
            return np.empty((0, len(self.labels)), np.float32)
        embeddings = torch.from_numpy(self.encoder.embed(texts, pairs))
        return self.classify(embeddings, of_target=of_target)

    @torch.inference_mode()
    def classify(self, embeddings: Tensor, *, of_target: bool) -> npt.NDArray[np.float32]:
        """Probabilities (N, C) of sentence embeddings (N, D)."""
        logits = self.model(embeddings.to(self.encoder.device), of_target=of_target)
        probabilities: npt.NDArray[np.float32] = logits.float().softmax(-1).cpu().numpy()
        return probabilities

    def _is_target(self, language: str) -> bool:
        known = (self.source_language, self.target_language)
        if language not in known:
            raise ConfigError(f"language {language!r} is not one of this model's: {known}")
        return language == self.target_language

    def _columns(self, inputs: Sequence[Input]) -> tuple[list[str], list[str] | None]:
        if isinstance(inputs, str):
            raise DataError("inputs is one string; give a list of texts")
        parts = 2 if self.is_pair_task else 1
        rows: list[Sequence[Any]] = [
            entry if isinstance(entry, tuple | list) else (entry,) for entry in inputs
        ]
        for number, row in enumerate(rows):
            if len(row) != parts or not all(isinstance(text, str) for text in row):
                wanted = "a (text, text) tuple" if self.is_pair_task else "a text"
                raise DataError(f"input {number} is {inputs[number]!r:.80}; give {wanted}")
        texts = [row[0] for row in rows]
        return texts, [row[1] for row in rows] if self.is_pair_task else None
