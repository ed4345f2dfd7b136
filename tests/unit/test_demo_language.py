"""The demo's encoders: names by their language, which stay as stored, and how they are made."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cluster import encoders
from cluster.embed import ENCODER_FOLDER
from cluster.encoders import DemoLanguage, demo_encoder_output
from cluster.monitor import Progress
from langalign import pretraining
from langalign.benchmarkconfig import CounterpartConfig
from langalign.encoder import SentenceEncoder
from langalign.storage import Storage

PLAIN = "8b3f1dcd4a2798ca40612b49e74d9611"
INVERTED_ENGLISH = "d1a65fad88fc5a2c6b8a3e19e814d725"


def name_of(folder: Path, **properties: object) -> str:
    language = DemoLanguage(**CounterpartConfig.model_validate(properties).model_dump())
    return demo_encoder_output(Storage(str(folder)), language).prefix.rpartition("/")[2]


@pytest.mark.parametrize("lexicon", [{}, {"lexicon": None}, {"lexicon": True}])
def test_the_default_keeps_its_name(tmp_path: Path, lexicon: dict[str, object]) -> None:
    assert name_of(tmp_path, **lexicon) == PLAIN


def test_a_lexicon_that_goes_with_the_script_changes_no_name(tmp_path: Path) -> None:
    inverted = {"script": False, "order": "inverted", "one_to_many": 0}
    assert name_of(tmp_path, **inverted) == INVERTED_ENGLISH
    assert name_of(tmp_path, **inverted, lexicon=False) == INVERTED_ENGLISH


def test_every_property_is_another_language(tmp_path: Path) -> None:
    changed: list[dict[str, object]] = [{}, {"lexicon": False}, {"script": False}]
    changed += [
        {"script": False, "lexicon": True},
        {"order": "same"},
        {"one_to_many": 0},
        {"align_weight": 10},
    ]
    assert len({name_of(tmp_path, **each) for each in changed}) == len(changed)


def test_the_demos_encoder_is_pretrained_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(
        pretraining.pretrain,
        mlm_steps=50,
        contrastive_steps=1,
        vocab_size=1500,
        hidden_size=32,
        layers=1,
        heads=2,
    )
    monkeypatch.setattr(pretraining, "pretrain", small)
    monkeypatch.setattr(encoders, "DEMO_TEXTS", 200)
    told: list[Progress] = []
    monitor = SimpleNamespace(post=SimpleNamespace(remote=told.append))
    output = demo_encoder_output(Storage(str(tmp_path)))

    encoders._pretrain(output, monitor, torch.get_num_threads(), DemoLanguage())

    assert output.is_done()
    assert [(progress.done, progress.total) for progress in told] == [(50, 51), (51, 51)]
    encoder = SentenceEncoder.load(str(output.fetch() / ENCODER_FOLDER)).prepare()
    assert encoder.embed(["a good film", "dull"]).shape == (2, 32)
    assert len(encoders.weights_digest(output)) == len(PLAIN)
