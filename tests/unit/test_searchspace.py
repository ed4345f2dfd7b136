"""What a sweep draws: conditions on the aligner's kind, the paper's points, and bad spaces."""

from statistics import median

import optuna
import pytest

from langalign.aligners import build_aligner, deepest
from langalign.config import PipelineConfig
from langalign.configfile import load_config
from langalign.errors import ConfigError
from langalign.searchspace import SweepConfig, paper_points, pipeline_values, suggest


def sweep(*overrides: str) -> SweepConfig:
    return load_config(SweepConfig, overrides=overrides)


def drawn(config: SweepConfig, trials: int = 60) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), config.space, config.aligner) for _ in range(trials)]


def test_a_dropout_is_drawn_only_for_kinds_that_have_one() -> None:
    for values in drawn(sweep("space.kind=[fc, ae, linear]")):
        kind = values["aligner.kind"]
        assert ("aligner.dropout" in values) == (kind == "fc")
        assert ("aligner.depth" in values) == (kind != "linear")
        assert ("aligner.learning_rate" in values) == (kind != "linear")


def test_kinds_of_a_range_narrow_it_further() -> None:
    config = sweep("space.depth={low: 2, high: 4, kinds: [ae]}")
    found = {(v["aligner.kind"], "aligner.depth" in v) for v in drawn(config)}
    assert found == {("fc", False), ("ae", True)}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("depth", 2, 3),
        ("hidden", 16, 64),
        ("batch_size", 8, 16),
        ("dropout", 0.1, 0.2),
        ("learning_rate", 0.001, 0.01),
        ("weight_decay", 0.01, 0.1),
        ("identity_weight", 0.5, 2.0),
        ("head_learning_rate", 0.001, 0.01),
    ],
)
def test_every_key_takes_a_range_or_choices_for_some_kinds_or_all(
    name: str, low: float, high: float
) -> None:
    key = "head.learning_rate" if name == "head_learning_rate" else f"aligner.{name}"

    def found(domain: str) -> set[tuple[object, object]]:
        config = sweep("space.kind=[fc, residual]", f"space.{name}={domain}")
        return {(v["aligner.kind"], v[key]) for v in drawn(config) if key in v}

    everywhere = {(kind, value) for kind in ("fc", "residual") for value in (low, high)}
    assert found(f"[{low}, {high}]") == everywhere
    assert found(f"{{choices: [{low}, {high}]}}") == everywhere
    assert found(f"{{choices: [{low}, {high}], kinds: [fc]}}") == {("fc", low), ("fc", high)}
    ranged = found(f"{{low: {low}, high: {high}, log: true, kinds: [fc]}}")
    assert len(ranged) > 1
    assert all(kind == "fc" and low <= float(str(value)) <= high for kind, value in ranged)


def test_log_draws_the_exponent_of_whole_numbers_too() -> None:
    def middle(log: str) -> float:
        config = sweep(f"space.hidden={{low: 16, high: 1024, log: {log}}}")
        return median(int(str(values["aligner.hidden"])) for values in drawn(config, 200))

    assert middle("true") < 250 < 400 < middle("false")


def test_a_space_has_the_form_by_which_studies_on_storage_are_told_apart() -> None:
    space = sweep("space.hidden=[64, 128]", "space.weight_decay={low: 0, high: 1}").space
    assert space.model_dump() == {
        "kind": ["fc", "ae"],
        "depth": {"kinds": None, "low": 2, "high": 8},
        "dropout": {"kinds": None, "low": 0.0, "high": 0.6, "log": False},
        "learning_rate": {"kinds": None, "low": 1e-5, "high": 1e-2, "log": True},
        "hidden": [64, 128],
        "batch_size": None,
        "weight_decay": {"kinds": None, "low": 0.0, "high": 1.0, "log": False},
        "identity_weight": None,
        "head_learning_rate": None,
        "pooling": None,
    }
    ranged = sweep("space.hidden={low: 8, high: 64, log: true}").space
    assert ranged.model_dump()["hidden"] == {"kinds": None, "low": 8, "high": 64, "log": True}
    some = sweep("space.hidden={choices: [64], kinds: [fc]}").space
    assert some.model_dump()["hidden"] == {"kinds": ["fc"], "choices": [64]}


def test_every_drawn_shape_can_be_built() -> None:
    config = sweep("space.kind=[fc, ae, residual]", "space.hidden=[16, 64, 512]")
    for values in drawn(config, 200):
        names = {k.removeprefix("aligner."): v for k, v in values.items()}
        shape = {k: names.get(k) for k in ("depth", "hidden", "dropout")}
        build_aligner(str(names["kind"]), 8, **shape)  # type: ignore[arg-type]


def test_the_same_seed_draws_the_same_trials() -> None:
    assert drawn(sweep()) == drawn(sweep())


def test_deepest_is_the_last_depth_that_can_be_built() -> None:
    for kind, hidden in [("fc", 64), ("ae", 512), ("ae", 8)]:
        depth = deepest(kind, hidden)
        build_aligner(kind, 8, depth=depth, hidden=hidden)
        with pytest.raises(ConfigError, match="fewer than 4 units"):
            build_aligner(kind, 8, depth=depth + 2, hidden=hidden)


def test_the_first_trials_are_the_papers() -> None:
    config = sweep()
    assert paper_points(config.space, config) == [
        {"aligner.kind": "ae", "aligner.depth": 3, "aligner.learning_rate": 1e-4},
        {
            "aligner.kind": "fc",
            "aligner.depth": 6,
            "aligner.dropout": 0.5,
            "aligner.learning_rate": 1e-4,
        },
    ]


@pytest.mark.parametrize("kind", ["fc", "ae", "residual"])
def test_a_sweep_of_one_trial_has_the_configs_own_kind(kind: str) -> None:
    config = sweep(f"aligner.kind={kind}", "space.kind=[fc, ae, residual]")
    points = paper_points(config.space, config)
    assert points[0]["aligner.kind"] == kind
    assert {point["aligner.kind"] for point in points} == {"fc", "ae", "residual"}


def test_a_default_outside_its_range_moves_to_the_nearest_end() -> None:
    config = sweep("space.kind=", "aligner.kind=fc", "space.depth={low: 2, high: 4}")
    assert paper_points(config.space, config)[0]["aligner.depth"] == 4


def test_a_trials_values_make_a_pipeline_without_the_configured_kinds_shape() -> None:
    config = sweep("aligner.kind=fc", "aligner.dropout=0.3", "aligner.depth=4")
    values = pipeline_values(config, {"aligner.kind": "ae", "aligner.learning_rate": 0.01})
    aligner = PipelineConfig.model_validate(values).aligner
    assert (aligner.kind, aligner.dropout, aligner.depth) == ("ae", None, None)
    assert aligner.learning_rate == 0.01


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space.detph={low: 2, high: 3}", r"unknown key 'space.detph'; did you mean 'space.depth'"),
        ("space.depth={low: 5, high: 3}", "low=5 is over high=3"),
        ("space.learning_rate={low: 0, high: 1, log: true}", "has no logarithm"),
        ("space.kind=[fx]", "space.kind"),
        ("head.train=[head, aligner]", "frozen embeddings"),
        ("stop_after=embed", "stop_after"),
        ("space.dropout={low: 0, high: 6}", r"space.dropout holds 6.0, which aligner.dropout cann"),
        ("space.learning_rate={low: 0, high: 1}", "space.learning_rate holds 0.0, .* greater than"),
        ("space.identity_weight={low: 0, high: 1}", "space.identity_weight holds 0.0"),
        ("space.head_learning_rate={low: 0, high: 1}", "which head.learning_rate cannot be"),
        ("space.hidden=[64, 4]", "space.hidden holds 4, .* greater than or equal to 8"),
        ("space.batch_size=[16, 0]", "space.batch_size holds 0, .* greater than 0"),
        ("space.batch_size=[]", "space.batch_size.choices=.*at least 1 item"),
        ("space.batch_size=16", r"space.batch_size=16: give a range {low, high} or a list"),
        ("space.hidden={low: 4, high: 64}", "space.hidden holds 4, .* greater than or equal to 8"),
        ("space.dropout=[0.1, 1.5]", "space.dropout holds 1.5, which aligner.dropout cannot be"),
        ("space.depth={low: 2}", "a range needs low and high"),
        ("space.depth={choices: [2], low: 1}", "choices have no low, high or log"),
        ("space.depth=[2, 12]", "space.depth holds 12, but aligner.kind=ae is 8 deep at most"),
    ],
)
def test_a_bad_space_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(override)


def test_values_have_to_fit_the_cluster_too() -> None:
    sweep("space.batch_size=[16, 32]", "cluster.workers=2")
    with pytest.raises(ConfigError, match=r"space.batch_size holds 15, .* cluster.workers=2"):
        sweep("space.batch_size=[16, 15]", "cluster.workers=2")


def test_a_range_of_batch_sizes_has_to_fit_the_cluster_between_its_ends_too() -> None:
    sweep("space.batch_size={low: 16, high: 32}")
    with pytest.raises(ConfigError, match=r"space.batch_size holds 17, .* cluster.workers=2"):
        sweep("space.batch_size={low: 16, high: 32}", "cluster.workers=2")


def test_a_choice_of_depth_is_held_to_the_narrowest_width_of_the_kinds_that_draw_it() -> None:
    assert sweep("space.depth={choices: [2, 12], kinds: [fc]}").space.depth
    assert sweep("space.depth=[2, 8]").space.depth
    with pytest.raises(ConfigError, match=r"space.depth holds 8, but aligner.kind=ae is 3 d"):
        sweep("space.depth=[2, 8]", "space.hidden={low: 16, high: 512, kinds: [ae]}")


def test_a_range_is_held_to_the_kinds_that_draw_from_it() -> None:
    beyond = "space.dropout={low: 0, high: 6}"
    assert sweep("space.kind=[ae]", beyond).space.dropout
    with pytest.raises(ConfigError, match=r"space.dropout holds 6.0"):
        sweep("space.kind=[ae, residual]", beyond)


def test_an_empty_space_is_named() -> None:
    names = ("kind", "depth", "dropout", "learning_rate")
    with pytest.raises(ConfigError, match="space is empty"):
        sweep(*(f"space.{name}=" for name in names))
