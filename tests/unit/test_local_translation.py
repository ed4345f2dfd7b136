"""What names a local translator: its weights, and not where they lie; and what it is told."""

from pathlib import Path
from typing import Any

from cluster.embed import EncoderRule, TextSet
from cluster.local_translation import TranslatorUnit, local_unit
from cluster.text_units import TextPart
from cluster.units import Split
from langalign.benchmarkconfig import LocalConfig
from langalign.storage import Storage

RULE = EncoderRule("steps/encoder/x", "weights", "mean", 48, "fp32")


def unit(**changed: Any) -> TranslatorUnit:
    sides = []
    for name in ("source", "target"):
        texts = TextSet(name, "digest", "xx", ("key",), (80,), name, f"{name}_pair")
        sides.append(TextPart(texts, Split(80, 0.1, 0), of_target=name == "target"))
    own = LocalConfig(**{"model": "owner/model", **changed})
    return local_unit(own, RULE, (sides[0], sides[1]), language="Korean", seed=0)


def prefix(**changed: Any) -> str:
    return unit(**changed).output(Storage("nowhere")).prefix


def test_the_prefix_names_the_language() -> None:
    assert unit(prefix="Translate into {language}: ").prefix == "Translate into Korean: "
    assert unit(prefix="ko: ").prefix == "ko: "


def test_a_hub_model_is_named_with_its_revision() -> None:
    assert prefix() == prefix()
    assert len({prefix(), prefix(revision="v1"), prefix(revision="v2"), prefix(prefix="x")}) == 4


def test_a_folder_is_named_by_its_files(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("weights")
    here, there = (prefix(model=str(tmp_path / name)) for name in ("here", "there"))
    assert here == there
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "model.safetensors").write_text("other weights")
    assert prefix(model=str(tmp_path / "changed")) != here


def test_a_worker_need_not_see_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    made = unit(model=str(folder))
    wanted = made.output(Storage("nowhere")).prefix
    (folder / "model.safetensors").unlink()
    folder.rmdir()
    assert made.output(Storage("nowhere")).prefix == wanted


def test_the_tiny_model_is_named_by_the_encoder_whose_tokenizer_it_takes() -> None:
    tiny = unit(model="demo")
    assert (tiny.rule, tiny.start) == (RULE, RULE.digest())
    assert unit().rule is None
