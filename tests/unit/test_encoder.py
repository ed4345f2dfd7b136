"""SentenceEncoder and TextTokenizer against plain transformers calls on tiny random models."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_encoder import TEXTS, WIDTH, write_encoder
from transformers import AutoModel, AutoTokenizer

from langalign.encoder import SentenceEncoder
from langalign.errors import ConfigError, EncoderError
from langalign.storage import sha256_file
from langalign.tokens import TextTokenizer, TokenizedText, length_batches

PAIRS = ["so they say", "no", "it was fun", "or not", "i did not"]


@pytest.fixture(scope="module")
def xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("xlmr"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def camembert(xlmr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `xlmr`: the models differ in nothing but their names."""
    folder = tmp_path_factory.mktemp("models") / "camembert"
    shutil.copytree(xlmr, folder)
    names = {"model_type": "camembert", "architectures": ["CamembertModel"]}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | names))
    return folder


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.load(str(folder), **{"max_length": 64, **options}).prepare()


@torch.inference_mode()
def by_transformers(
    folder: Path, pooling: str, texts: list[str], pairs: list[str] | None = None, **types: bool
) -> np.ndarray:
    """One text at a time, by the library's own tokenizer and model."""
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.eval()
    rows = []
    for number, text in enumerate(texts):
        pair = pairs[number] if pairs else None
        inputs = tokenizer(
            text,
            pair,
            max_length=64,
            truncation=True,
            return_tensors="pt",
            return_token_type_ids=types.get("types", False),
        )
        states = model(**inputs).last_hidden_state[0]
        rows.append(states[0] if pooling == "cls" else states.mean(0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("batch_tokens", [64, 8192])
def test_embeddings_are_those_of_transformers_one_by_one(
    xlmr: Path, pooling: str, batch_tokens: int
) -> None:
    found = load(xlmr, pooling=pooling, batch_tokens=batch_tokens).embed(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), WIDTH)
    np.testing.assert_allclose(found, by_transformers(xlmr, pooling, TEXTS), atol=1e-5)


def test_the_two_poolings_differ(xlmr: Path) -> None:
    cls, mean = (load(xlmr, pooling=pooling).embed(TEXTS) for pooling in ("cls", "mean"))
    assert not np.allclose(cls, mean, atol=1e-3)


def test_pairs_are_encoded_together(xlmr: Path) -> None:
    found = load(xlmr).embed(TEXTS, PAIRS)
    np.testing.assert_allclose(found, by_transformers(xlmr, "cls", TEXTS, PAIRS), atol=1e-5)
    assert not np.allclose(found, load(xlmr).embed(TEXTS), atol=1e-4)


def test_a_model_with_token_types_gets_those_of_its_tokenizer(bert: Path) -> None:
    # A tokenizer that tells the two texts of a pair apart, as BERT's does.
    path = bert / "tokenizer.json"
    text = json.loads(path.read_text())
    last_two = text["post_processor"]["pair"][-2:]
    for piece in last_two:
        next(iter(piece.values()))["type_id"] = 1
    path.write_text(json.dumps(text))
    encoder = load(bert)
    types = encoder.tokenize(["a film"], ["a plot"]).types
    assert types is not None
    assert {*types.tolist()} == {0, 1}
    expected = by_transformers(bert, "cls", TEXTS, PAIRS, types=True)
    np.testing.assert_allclose(encoder.embed(TEXTS, PAIRS), expected, atol=1e-5)
    without = by_transformers(bert, "cls", TEXTS, PAIRS)
    assert not np.allclose(expected, without, atol=1e-4)


def test_no_texts_give_no_rows(xlmr: Path) -> None:
    assert load(xlmr).embed([]).shape == (0, WIDTH)


def test_windows_keep_the_order_of_texts(xlmr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(xlmr).embed(TEXTS, PAIRS)
    monkeypatch.setattr("langalign.encoder.TOKENIZE_WINDOW", 2)
    np.testing.assert_allclose(load(xlmr).embed(TEXTS, PAIRS), whole, atol=1e-5)


def test_bf16_is_close_to_fp32(xlmr: Path) -> None:
    exact, rounded = (load(xlmr, precision=p).embed(TEXTS) for p in ("fp32", "bf16"))
    assert rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    cosine = (exact * rounded).sum(1) / (
        np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    )
    assert cosine.min() > 0.999


def test_a_saved_encoder_embeds_alike_and_has_the_same_bytes_again(
    xlmr: Path, tmp_path: Path
) -> None:
    encoder = SentenceEncoder.load(str(xlmr), max_length=8)
    encoder.save(tmp_path / "one")
    SentenceEncoder.load(str(tmp_path / "one"), max_length=64).save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / "two" / path.name), path.name
    # The limit of 8 tokens was this encoder's, not the saved tokenizer's.
    np.testing.assert_allclose(load(tmp_path / "two").embed(TEXTS), load(xlmr).embed(TEXTS))
    assert len(encoder.tokenize(TEXTS[-1:]).ids) == 8


def test_an_encoder_without_pooler_weights_is_the_same_at_every_load(
    xlmr: Path, tmp_path: Path
) -> None:
    for path in xlmr.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    hashes = set()
    for copy in ("one", "two"):
        SentenceEncoder.load(str(tmp_path), max_length=64).save(tmp_path / copy)
        hashes.add(sha256_file(tmp_path / copy / "model.safetensors"))
    assert len(hashes) == 1


def test_an_encoder_that_lacks_weights_is_refused(xlmr: Path, tmp_path: Path) -> None:
    for path in xlmr.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "layer.1" not in key}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"no weights for \d+ tensors.*layer\.1"):
        load(tmp_path)


def test_max_length_over_the_positions_is_refused(xlmr: Path, camembert: Path, bert: Path) -> None:
    for counted_from_pad in (xlmr, camembert):
        with pytest.raises(ConfigError, match=r"max_length=65 is over the 64 positions"):
            load(counted_from_pad, max_length=65)
    assert np.array_equal(load(camembert).embed(TEXTS), load(xlmr).embed(TEXTS))
    with pytest.raises(ConfigError, match=r"max_length=67 is over the 66 positions"):
        load(bert, max_length=67)
    assert load(bert, max_length=66).embed(TEXTS).shape == (len(TEXTS), WIDTH)


def test_a_name_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"encoder\.name=.*neither an existing local path"):
        SentenceEncoder.load(str(tmp_path / "absent"))


def test_the_tokenizer_alone_gives_the_encoders_tokens(xlmr: Path, bert: Path) -> None:
    for folder in (xlmr, bert):
        alone = TextTokenizer.from_folder(folder, max_length=64)(TEXTS, PAIRS)
        inside = load(folder).tokenize(TEXTS, PAIRS)
        assert alone.ids.tolist() == inside.ids.tolist()
        assert alone.offsets.tolist() == inside.offsets.tolist()
        assert (alone.types is None) == (inside.types is None) == (folder == xlmr)
    with pytest.raises(EncoderError, match=r"no readable config\.json"):
        TextTokenizer.from_folder(xlmr / "absent", max_length=64)


def test_tokens_are_padded_and_joined_by_row(xlmr: Path) -> None:
    tokenize = TextTokenizer.from_folder(xlmr, max_length=64)
    first, second = tokenize(TEXTS[:2]), tokenize(TEXTS[2:])
    joined, whole = first.followed_by(second), tokenize(TEXTS)
    assert joined.ids.tolist() == whole.ids.tolist()
    assert joined.offsets.tolist() == whole.offsets.tolist()
    arrays = whole.padded(np.array([3, 1]), pad=1)
    lengths = whole.lengths()[[3, 1]]
    assert arrays["mask"].sum(1).tolist() == lengths.tolist()
    assert arrays["ids"].shape == (2, lengths.max())
    assert (arrays["ids"][arrays["mask"] == 0] == 1).all()


def test_one_long_row_pads_no_short_ones() -> None:
    lengths = np.array([16] * 15 + [500] + [16] * 16)
    batches = length_batches(lengths, 8192, 96)
    assert [len(rows) for rows in batches] == [1, 31]
    assert batches[0].tolist() == [15]


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 4096), st.integers(0, 500))
def test_batches_hold_every_row_once_within_their_bounds(
    lengths: list[int], budget: int, call_tokens: int
) -> None:
    counts = np.array(lengths, dtype=np.int64)
    batches = length_batches(counts, budget, call_tokens)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(lengths)))
    for rows in batches:
        padded = len(rows) * int(counts[rows].max())
        assert len(rows) == 1 or padded <= budget
        assert padded - int(counts[rows].sum()) <= call_tokens


def test_the_longest_rows_come_first_and_no_rows_are_no_batches() -> None:
    lengths = np.array([3, 50, 7, 7, 1, 200, 12])
    batches = length_batches(lengths, 100, 96)
    assert [row for batch in batches for row in batch][:2] == [5, 1]
    assert length_batches(np.zeros(0, np.int64), 100, 96) == []
    assert len(TokenizedText(np.zeros(0, np.int32), np.zeros(1, np.int64))) == 0
