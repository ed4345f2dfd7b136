"""Tiny models published by hand: random weights, real files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import XLMRobertaConfig, XLMRobertaModel

from langalign import artifacts, counterpart
from langalign.aligners import build_aligner
from langalign.classifier import ClassificationHead
from langalign.manifest import ManifestDraft
from langalign.model import write_config
from langalign.pretraining import fast_tokenizer, train_tokenizer
from langalign.storage import Storage

WIDTH = 32
MAX_LENGTH = 64
WORDS = ["good", "dull", "film", "plot", "end", "well", "made", "worse", "i", "liked", "it"]
LABELS = ("bad", "so-so", "good")
OPTIONS: dict[str, Any] = {"pooling": "mean", "max_length": MAX_LENGTH, "precision": "fp32"}


def write_encoder(folder: Path, seed: int = 0) -> Path:
    """A transformers folder with a random two-layer encoder and a real tokenizer."""
    tokenizer = train_tokenizer(counterpart.unpaired_texts(50, 0, "en"), 400)
    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH + 2,
        pad_token_id=1,
        type_vocab_size=1,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    fast_tokenizer(tokenizer).save_pretrained(folder)
    return folder


def publish(
    root: Path | str,
    encoder: Path,
    scratch: Path,
    *,
    name: str = "tiny",
    seed: int = 1,
    target: str = "xc",
    labels: tuple[str, ...] = LABELS,
    is_pair_task: bool = False,
    **config: Any,
) -> artifacts.PublishedModel:
    """Publish a version with a random aligner and head; `config` changes its config.json."""
    folder = scratch / f"{name}-{seed}"
    shutil.copytree(encoder, folder / "encoder")
    torch.manual_seed(seed)
    # A fresh linear aligner is the identity, which would not show what passes through it.
    aligner = build_aligner("linear", WIDTH)
    for tensor in aligner.state_dict().values():
        tensor.copy_(torch.randn_like(tensor))
    head = ClassificationHead(WIDTH, len(labels), dropout=0.1)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    save_file(aligner.state_dict(), folder / "aligner.safetensors")
    save_file(head.state_dict(), folder / "head.safetensors")
    (folder / "README.md").write_text("# tiny\n")
    shared: dict[str, Any] = {
        "source_language": "en",
        "target_language": target,
        "direction": "forward",
        "aligner": {"kind": "linear"},
        "encoder": OPTIONS,
    }
    write_config(
        folder, labels=labels, dropout=0.1, is_pair_task=is_pair_task, **{**shared, **config}
    )
    scores = [
        {
            "method": "langalign",
            "aligner": "linear",
            "language": target,
            "split": "test",
            "metric": "accuracy",
            "value": 0.87654,
        }
    ]
    draft = ManifestDraft(
        seed=seed, task={"name": "t"}, labels=list(labels), metrics=scores, **shared
    )
    return artifacts.publish(Storage(str(root)), folder, draft, name=name)


def texts(count: int) -> list[str]:
    """Different sentences of very different lengths."""
    rng = np.random.default_rng(0)
    return [
        f"{number} " + " ".join(rng.choice(WORDS, size=1 + int(rng.integers(0, 40))))
        for number in range(count)
    ]
