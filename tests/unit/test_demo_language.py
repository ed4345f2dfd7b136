"""The demo's encoders are named by their language, and keep the names that they were stored by."""

from pathlib import Path

import pytest

from cluster.encoders import DemoLanguage, demo_encoder_output
from langalign.benchmarkconfig import CounterpartConfig
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
