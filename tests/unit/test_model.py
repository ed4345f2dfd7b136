"""`langalign.load` on a model published by hand, in both directions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_encoder import TEXTS, WIDTH, write_encoder
from torch import nn

import langalign
from langalign import artifacts
from langalign.aligners import build_aligner
from langalign.classifier import ClassificationHead
from langalign.encoder import SentenceEncoder
from langalign.errors import ArtifactError, ConfigError, DataError, IntegrityError
from langalign.manifest import ManifestDraft
from langalign.model import TextModel, write_config
from langalign.storage import Storage

LABELS = ("bad", "so-so", "good")
ENCODER = {"pooling": "mean", "max_length": 64, "precision": "fp32"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def aligner_of() -> nn.Module:
    torch.manual_seed(1)
    aligner = build_aligner("linear", WIDTH)
    for tensor in aligner.state_dict().values():
        tensor.copy_(torch.randn_like(tensor) / WIDTH**0.5)
    return aligner.eval()


def head_of() -> ClassificationHead:
    torch.manual_seed(2)
    return ClassificationHead(WIDTH, len(LABELS), dropout=0.1).eval()


def published(
    tmp_path: Path,
    encoder: Path,
    *,
    direction: str = "forward",
    identity_pairs: bool = True,
    is_pair_task: bool = False,
) -> str:
    """URI of the version."""
    aligner = {"kind": "linear", "identity_pairs": identity_pairs}
    folder = tmp_path / "model"
    (folder / "encoder").mkdir(parents=True)
    for path in encoder.iterdir():
        (folder / "encoder" / path.name).write_bytes(path.read_bytes())
    save_file(aligner_of().state_dict(), folder / "aligner.safetensors")
    save_file(head_of().state_dict(), folder / "head.safetensors")
    (folder / "README.md").write_text("# tiny")
    languages = {"source_language": "en", "target_language": "xc"}
    write_config(
        folder,
        labels=LABELS,
        **languages,
        direction=direction,
        aligner=aligner,
        encoder=ENCODER,
        dropout=0.1,
        is_pair_task=is_pair_task,
    )
    draft = ManifestDraft(
        seed=0,
        task={"name": "t"},
        labels=list(LABELS),
        **languages,
        direction=direction,
        aligner=aligner,
        encoder=ENCODER,
        metrics=[],
        parents={},
    )
    return artifacts.publish(Storage(str(tmp_path / "store")), folder, draft, name="tiny").uri


@torch.inference_mode()
def by_hand(encoder: Path, texts: list[str], *, aligned: bool) -> Any:
    options: dict[str, Any] = dict(ENCODER)
    x = torch.from_numpy(SentenceEncoder.load(str(encoder), **options).prepare().embed(texts))
    logits = head_of()(aligner_of()(x) if aligned else x)
    return logits.softmax(-1).numpy()


# Direction, identity pairs, and the languages whose embeddings pass the aligner.
@pytest.mark.parametrize(
    ("direction", "identity_pairs", "aligned"),
    [
        ("forward", True, {"en", "xc"}),
        ("forward", False, {"en"}),
        ("reverse", True, {"xc"}),
    ],
)
def test_each_language_enters_on_its_side_of_the_aligner(
    tmp_path: Path, encoder: Path, direction: str, identity_pairs: bool, aligned: set[str]
) -> None:
    uri = published(tmp_path, encoder, direction=direction, identity_pairs=identity_pairs)
    model = langalign.load(uri, device="cpu")
    assert isinstance(model, TextModel)
    assert (model.source_language, model.target_language) == ("en", "xc")
    wanted = {
        language: by_hand(encoder, TEXTS, aligned=language in aligned) for language in ("en", "xc")
    }
    for language, expected in wanted.items():
        found = model.predict_proba(TEXTS, language=language)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
        best = [LABELS[place] for place in expected.argmax(1)]
        assert model.predict(TEXTS, language=language) == best
    np.testing.assert_array_equal(
        model.predict_proba(TEXTS), model.predict_proba(TEXTS, language="xc")
    )


def test_no_inputs_give_no_rows(tmp_path: Path, encoder: Path) -> None:
    model = langalign.load(published(tmp_path, encoder))
    assert model.predict([]) == []
    assert model.predict_proba([]).shape == (0, len(LABELS))


def test_a_pair_task_takes_pairs(tmp_path: Path, encoder: Path) -> None:
    model = langalign.load(published(tmp_path, encoder, is_pair_task=True))
    pairs = [("one", "another"), ("another", "one")]
    found = model.predict_proba(pairs)
    assert found.shape == (2, len(LABELS))
    assert not np.allclose(found[0], found[1], atol=1e-6)
    wrong: Any
    for wrong in (["one"], [("one",)], [("one", None)], [("a", "b", "c")]):
        with pytest.raises(DataError, match=r"input 0 is .*give a \(text, text\) tuple"):
            model.predict(wrong)


def test_bad_inputs_are_named(tmp_path: Path, encoder: Path) -> None:
    model = langalign.load(published(tmp_path, encoder))
    with pytest.raises(DataError, match="inputs is one string"):
        model.predict("a text")
    for wrong in ([3], [None], [("one", "another")], [b"bytes"]):
        with pytest.raises(DataError, match=r"input 1 is .*give a text"):
            model.predict(["fine", *wrong])
    with pytest.raises(ConfigError, match="language 'ko' is not one of this model's"):
        model.predict(["fine"], language="ko")


def test_a_uri_without_a_version_is_the_latest(tmp_path: Path, encoder: Path) -> None:
    uri = published(tmp_path, encoder)
    latest = langalign.load(uri.rpartition("/")[0])
    np.testing.assert_array_equal(
        latest.predict_proba(TEXTS), langalign.load(uri).predict_proba(TEXTS)
    )
    with pytest.raises(ArtifactError, match="v-absent"):
        langalign.load(f"{uri.rpartition('/')[0]}/v-absent")


def test_altered_weights_are_refused(tmp_path: Path, encoder: Path) -> None:
    uri = published(tmp_path, encoder)
    path = Path(uri) / "encoder" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        langalign.load(uri)
