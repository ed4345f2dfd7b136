"""A user's encoder on storage: kept once, and loaded again only where its folder has changed."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_encoder import write_encoder

from cluster.encoders import store_encoder
from langalign.encoder import SentenceEncoder
from langalign.errors import EncoderError
from langalign.storage import Storage


def test_a_folder_is_loaded_once_and_again_where_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, folder = Storage(str(tmp_path / "store")), write_encoder(tmp_path / "encoder")
    first = store_encoder(storage, str(folder), None)
    with monkeypatch.context() as patch:
        patch.delattr(SentenceEncoder, "load")
        assert store_encoder(storage, str(folder), None) == first
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    changed = store_encoder(storage, str(folder), None)
    assert changed != first
    assert store_encoder(storage, str(folder), None) == changed


def test_one_that_was_thrown_away_is_kept_again(tmp_path: Path) -> None:
    storage, folder = Storage(str(tmp_path / "store")), write_encoder(tmp_path / "encoder")
    output = store_encoder(storage, str(folder), None)
    output.discard()
    assert store_encoder(storage, str(folder), None) == output
    assert output.is_done()
    output.fetch()


def test_what_cannot_be_listed_is_said_by_loading(tmp_path: Path) -> None:
    file = tmp_path / "encoder"
    file.write_text("no folder")
    with pytest.raises(EncoderError, match=r"encoder\.name='.*/encoder' is neither"):
        store_encoder(Storage(str(tmp_path / "store")), str(file), None)
    assert not (tmp_path / "store" / "steps").exists()
