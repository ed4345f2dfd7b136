"""A batch of many models and languages gives what each model gives alone, in fewer passes."""

import numpy as np
import pytest
import torch
from local_service import parts_of

import langalign
from langalign.errors import ConfigError
from langalign.storage import Storage
from serve.engine import Engine, Rows
from serve.loading import Loader, ServedModel
from serve.settings import Precision

TEXTS = ["a good film", "dull", "the plot was dull, and the end was worse " * 3, ""]


def served_of(models: Storage, *names: str) -> dict[str, ServedModel]:
    registry = parts_of(models, list(names)).registry
    return {name: registry.choose(name, "en") for name in names}


def rows_of(served: ServedModel, texts: list[str], language: str) -> Rows:
    pairs = texts[::-1] if served.model.is_pair_task else None
    tokens = served.model.encoder.tokenize(texts, pairs)
    return Rows(served.model, language == served.model.target_language, tokens)


def test_each_row_goes_through_its_own_aligner_and_head(models: Storage) -> None:
    served = served_of(models, "one", "two", "pairs")
    asked = [
        ("one", TEXTS, "xc"),
        ("two", TEXTS[:1], "xd"),
        ("one", TEXTS[1:3], "en"),
        ("pairs", TEXTS, "xe"),
        ("two", TEXTS[2:], "en"),
    ]
    found = Engine().run([rows_of(served[name], texts, lang) for name, texts, lang in asked])
    for (name, texts, language), probabilities in zip(asked, found, strict=True):
        alone = langalign.load(models.uri(f"models/{name}"), device="cpu")
        inputs = list(zip(texts, texts[::-1], strict=True)) if name == "pairs" else texts
        wanted = alone.predict_proba(inputs, language=language)
        np.testing.assert_allclose(probabilities, wanted, atol=1e-5)
    # Else a mix-up would not show.
    assert np.abs(found[1][0] - found[0][0]).max() > 1e-3


def test_models_of_one_encoder_share_it_and_its_passes(
    models: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = served_of(models, "one", "two")
    encoder = served["one"].model.encoder
    assert served["two"].model.encoder is encoder
    sizes: list[int] = []
    forward = encoder.forward

    def counted(ids: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        sizes.append(len(ids))
        return forward(ids, *rest)

    monkeypatch.setattr(encoder, "forward", counted)
    requests = [rows_of(served[name], ["a good film"], "en") for name in ("one", "two", "one")]
    Engine().run(requests)
    assert sizes == [3]


def test_threads_by_size_of_a_batch(models: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    served = served_of(models, "one")["one"]
    encoder = served.model.encoder
    used: list[int] = []
    forward = encoder.forward

    def counted(ids: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        used.append(torch.get_num_threads())
        return forward(ids, *rest)

    def threads_for(*requests: Rows) -> int:
        used.clear()
        engine.run(requests)
        (found,) = set(used)
        return found

    monkeypatch.setattr(encoder, "forward", counted)
    engine = Engine(threads=3, forward_tokens=1_000_000)
    few, more, long = (
        rows_of(served, texts, "xc") for texts in (["a good film"], TEXTS * 200, TEXTS * 1000)
    )
    assert (engine.is_small([few]), engine.is_small([few, more])) == (True, False)
    assert threads_for(few) == 1
    # Others ask besides: a core is left to reading them, unless the work is long.
    assert threads_for(few, more) == 2
    assert threads_for(more) == 3
    assert threads_for(few, long) == 3
    engine.threads = 1
    assert threads_for(few, more) == 1


def test_a_split_request_holds_the_same_rows(models: Storage) -> None:
    served = served_of(models, "one")["one"]
    whole = rows_of(served, TEXTS, "xc")
    first, rest = whole.split(1)
    assert (len(first), len(rest)) == (1, 3)
    assert first.token_count + rest.token_count == whole.token_count
    found = Engine().run([rest, first])
    (wanted,) = Engine().run([whole])
    np.testing.assert_allclose(np.concatenate(found[::-1]), wanted, atol=1e-5)


def test_rows_within_a_budget_are_whole_rows(models: Storage) -> None:
    rows = rows_of(served_of(models, "one")["one"], TEXTS, "xc")
    lengths = rows.tokens.lengths()
    assert rows.rows_within(int(lengths[0]) - 1) == 0
    assert rows.rows_within(int(lengths[:2].sum())) == 2
    assert rows.split(1)[1].rows_within(int(lengths[1])) == 1


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_come_close(models: Storage, precision: Precision) -> None:
    texts = [text for text in TEXTS if text] * 4
    found = {}
    for wanted in ("model", precision):
        loader = Loader(device="cpu", precision=wanted)
        served = loader.load(models, "one", "latest")
        (found[wanted],) = Engine().run([rows_of(served, texts, "xc")])
    assert served.precision == precision
    difference = np.abs(found[precision] - found["model"])
    assert 0 < difference.mean() < 0.05
    parts = {type(module).__module__ for module in served.model.encoder.model.modules()}
    assert any("quantized" in part for part in parts) == (precision == "int8")


def test_int8_needs_a_cpu() -> None:
    with pytest.raises(ConfigError, match="bf16"):
        Loader(device="cuda", precision="int8")
