"""The written-out forward pass against transformers' own, on tiny random models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from tiny_encoder import TEXTS, WIDTH, write_encoder
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from langalign.encoder import PRECISIONS, SentenceEncoder
from langalign.errors import EncoderError
from langalign.written_encoder import WrittenEncoder

PAD = 1
KINDS = {
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig),
    "roberta": (RobertaModel, RobertaConfig),
    "bert": (BertModel, BertConfig),
}


def make(kind: str = "xlm-roberta", **changes: Any) -> Any:
    model, config = KINDS[kind]
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH}
    made = config(
        **{
            **sizes,
            "vocab_size": 50,
            "num_hidden_layers": 2,
            "max_position_embeddings": 40,
            "type_vocab_size": 2,
            "pad_token_id": PAD,
            "initializer_range": 0.5,
            **changes,
        }
    )
    return model(made, add_pooling_layer=False).eval().requires_grad_(False)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 12, 7 and 1 tokens, padded; one holds a pad token of its own."""
    ids = torch.randint(2, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(12) < torch.tensor([12, 7, 1])[:, None]
    ids[0, 4] = PAD
    return ids.where(mask, PAD), mask.long()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first_only", [True, False])
def test_states_are_those_of_transformers(kind: str, first_only: bool) -> None:
    model = make(kind)
    ids, mask = batch()
    types = (torch.arange(12) > 5).long().expand(3, 12)
    wanted = [
        model(input_ids=ids, attention_mask=mask).last_hidden_state,
        model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state,
    ]
    alone = model(input_ids=ids[:1, :5]).last_hidden_state
    written = WrittenEncoder.of(model, first_only=first_only)
    assert written is not None
    read = slice(0, 1) if first_only else slice(None)
    keep = mask[:, read, None].bool()
    for expected, given in zip(wanted, (None, types), strict=True):
        found = written(ids, mask, given)
        torch.testing.assert_close(found * keep, expected[:, read] * keep, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(written(ids[:1, :5], None), alone[:, read], atol=2e-6, rtol=1e-5)


def test_leaves_the_model_as_it_is() -> None:
    model = make()
    ids, mask = batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert WrittenEncoder.of(model, first_only=True) is not None
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert torch.equal(model(input_ids=ids, attention_mask=mask).last_hidden_state, wanted)


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "relu"}, {"is_decoder": True}, {"chunk_size_feed_forward": 4}]
)
def test_another_make_is_left_to_transformers(changes: dict[str, Any]) -> None:
    assert WrittenEncoder.of(make(**changes), first_only=True) is None


def test_other_models_and_other_layers_are_left_to_transformers() -> None:
    other = DistilBertModel(DistilBertConfig(vocab_size=50, dim=WIDTH, n_heads=2, n_layers=1))
    assert WrittenEncoder.of(other, first_only=True) is None
    adapted = inject_adapter_in_model(LoraConfig(target_modules=["query"]), make())
    assert WrittenEncoder.of(adapted, first_only=True) is None
    with torch.device("meta"):
        elsewhere = make()
    assert WrittenEncoder.of(elsewhere, first_only=True) is None


@pytest.fixture(params=["xlmr", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder", request.param)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_read_from_a_folder_embeds_as_what_transformers_loads(
    folder: Path, pooling: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"pooling": pooling, "precision": precision, "max_length": 64}
    wanted = SentenceEncoder.load(str(folder), **options).prepare()
    monkeypatch.delattr(SentenceEncoder, "load")
    found = SentenceEncoder.load_frozen(folder, **options)
    assert np.array_equal(found.embed(TEXTS), wanted.embed(TEXTS))
    assert np.array_equal(found.embed(TEXTS, TEXTS[::-1]), wanted.embed(TEXTS, TEXTS[::-1]))
    assert found.width == wanted.width
    assert found.device == wanted.device


def test_what_was_read_does_not_follow_its_file(folder: Path) -> None:
    encoder = SentenceEncoder.load_frozen(folder, max_length=64)
    before = encoder.embed(TEXTS)
    path = folder / "model.safetensors"
    half = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(half)
        file.write(bytes(half))
    assert np.array_equal(encoder.embed(TEXTS), before)


def changed(folder: Path, **values: Any) -> None:
    """Write other values into a folder's config.json; None takes a key away."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_act": "relu"},
        {"hidden_act": None},
        {"is_decoder": True},
        {"pad_token_id": None},
        {"architectures": ["XLMRobertaForMaskedLM"]},
        {"architectures": None},
        {"architectures": ["BertModel"]},
        {"model_type": "bert"},
        {"model_type": None},
        {"num_attention_heads": 3},
        {"num_hidden_layers": 1},
    ],
)
def test_another_folder_is_left_to_transformers(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = write_encoder(tmp_path)
    assert WrittenEncoder.read(folder, dtype=torch.float32, first_only=True) is not None
    changed(folder, **values)
    assert WrittenEncoder.read(folder, dtype=torch.float32, first_only=True) is None


def test_tensors_that_are_not_there_are_left_to_transformers_which_says_so(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"no weights for 1 tensors.*layer\.1\.output"):
        SentenceEncoder.load_frozen(folder)
    path.unlink()
    with pytest.raises(EncoderError, match="neither a folder with a transformers model"):
        SentenceEncoder.load_frozen(folder)


def test_a_broken_tokenizer_is_left_to_transformers_which_says_so(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EncoderError, match=r"encoder\.name"):
        SentenceEncoder.load_frozen(folder)
