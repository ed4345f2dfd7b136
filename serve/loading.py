"""Load verified model versions so that those with one encoder share it in memory."""

import json
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from langalign import artifacts
from langalign.aligners import NoAligner
from langalign.classifier import AlignedHead
from langalign.encoder import SentenceEncoder
from langalign.errors import ConfigError
from langalign.manifest import Manifest
from langalign.model import CONFIG_FILE, ENCODER_FOLDER, TextModel
from langalign.outputs import digest_of
from langalign.storage import Storage
from serve.settings import Precision

__all__ = ["Loader", "ServedModel", "encoder_digest", "is_passing"]


@dataclass(frozen=True)
class ServedModel:
    """One loaded version; `encoder_digest` is the same for versions that share an encoder."""

    manifest: Manifest
    model: TextModel
    compared: "ComparedModel"
    encoder_digest: str
    precision: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        return self.model.source_language, self.model.target_language


class ComparedModel(TextModel):
    """A model that shows what its aligner does: with it and without it, from one embedding."""

    def __init__(
        self, encoder: SentenceEncoder, model: AlignedHead, config: dict[str, Any]
    ) -> None:
        super().__init__(encoder, model, config)
        plain = AlignedHead(NoAligner(), model.head, direction=config["direction"])
        self._unaligned = TextModel(encoder, plain, config)

    def classify(self, embeddings: Tensor, *, of_target: bool) -> npt.NDArray[np.float32]:
        """Probabilities (N, 2C) of embeddings (N, D): C with the aligner, then C without."""
        aligned = super().classify(embeddings, of_target=of_target)
        return np.hstack([aligned, self._unaligned.classify(embeddings, of_target=of_target)])


def encoder_digest(manifest: Manifest) -> str:
    """A digest over the encoder's files and all that changes what it makes of a text."""
    prefix = f"{ENCODER_FOLDER}/"
    files = {k: v.sha256 for k, v in manifest.files.items() if k.startswith(prefix)}
    options = {k: manifest.encoder.get(k) for k in ("pooling", "max_length", "precision")}
    return digest_of(files, options)


def is_passing(error: Exception) -> bool:
    """Whether a load failed for what this machine lacks now: memory, file handles, a sound disk."""
    cause = error.__cause__ or error
    if isinstance(cause, OSError):
        # transformers raises some of its own, without a number, for what a folder holds.
        return cause.errno is not None and not isinstance(cause, FileNotFoundError)
    # Torch has no error of its own for the memory of a CPU.
    lacks_memory = "DefaultCPUAllocator" in str(cause)
    return lacks_memory or isinstance(cause, MemoryError | torch.OutOfMemoryError)


class Loader:
    """Loads versions for one process; an encoder lives as long as a loaded model uses it."""

    def __init__(self, *, device: str | None = None, precision: Precision = "model") -> None:
        """`precision` other than "model" takes the place of the one the model was made with.

        Raises:
            ConfigError: int8 anywhere but on a CPU.
        """
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = precision
        if precision == "int8" and self.device.type != "cpu":
            raise ConfigError(
                f"precision=int8 works on a CPU only, and the device is {self.device}; "
                "set precision=bf16, or device=cpu"
            )
        self._encoders: WeakValueDictionary[str, SentenceEncoder] = WeakValueDictionary()
        self._lock = threading.Lock()

    def load(self, storage: Storage, name: str, version: str) -> ServedModel:
        """Fetch, verify and load a version.

        Raises:
            LangAlignError: it does not exist, is altered, or cannot be read now.
        """
        manifest = artifacts.read_manifest(storage, name, version)
        folder = artifacts.fetch(storage, name, manifest.version)
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        digest = encoder_digest(manifest)
        with self._lock:
            encoder = self._encoders.get(digest)
            if encoder is None:
                encoder = self._load_encoder(folder / ENCODER_FOLDER, config["encoder"])
                self._encoders[digest] = encoder
        model = TextModel.from_folder(folder, encoder=encoder)
        compared = ComparedModel(encoder, model.model, config)
        precision = encoder.precision if self.precision == "model" else self.precision
        return ServedModel(manifest, model, compared, digest, precision)

    def _load_encoder(self, folder: Path, options: dict[str, Any]) -> SentenceEncoder:
        if self.precision != "model":
            # int8 starts from full precision: its linear layers are quantised below.
            wanted = "fp32" if self.precision == "int8" else self.precision
            options = {**options, "precision": wanted}
        if self.precision != "int8":
            return SentenceEncoder.load_frozen(folder, self.device, **options)
        encoder = SentenceEncoder.load(str(folder), **options)
        encoder.model = _quantized(encoder.model)
        return encoder.prepare(self.device)


def _quantized(model: nn.Module) -> nn.Module:
    """The model with int8 weights in its linear layers; activations are quantised on the fly."""
    quantize: Any = torch.ao.quantization.quantize_dynamic
    with warnings.catch_warnings():
        # Torch means to drop these tensors some day; the bound on torch in pyproject.toml holds
        # until then, and a user can do nothing about it.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        quantized: nn.Module = quantize(model, {nn.Linear}, dtype=torch.qint8)
    return quantized
