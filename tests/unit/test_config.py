"""Configuration: defaults, then a file, then key=value; every mistake is one line with a remedy."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from langalign.config import PipelineConfig, ScoreConfig
from langalign.configfile import describe_keys, load_config
from langalign.errors import ConfigError


def pipeline(*overrides: str, path: Path | None = None) -> PipelineConfig:
    return load_config(PipelineConfig, path, overrides)


def refusal(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        pipeline(*overrides, path=path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def value_of(config: BaseModel, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_defaults_are_the_papers_where_it_speaks_with_one_voice() -> None:
    config = pipeline()
    assert config == PipelineConfig()
    rates = {
        part: value_of(config, f"{part}.learning_rate") for part in ("tune", "aligner", "head")
    }
    assert rates == {"tune": 1e-5, "aligner": 1e-4, "head": 1e-4}
    batches = {value_of(config, f"{part}.batch_size") for part in ("tune", "aligner", "head")}
    assert batches == {16}
    assert config.aligner.patience == 10
    assert config.data.validation_fraction == 0.1


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("aligner.kind=fc", "aligner.kind", "fc"),
        ("tune.learning_rate=1e-4", "tune.learning_rate", 1e-4),
        ("head.learning_rate=5E-5", "head.learning_rate", 5e-5),
        ("cluster.gpus_per_worker=0.5", "cluster.gpus_per_worker", 0.5),
        ("publish=false", "publish", False),
        ("head.train=[head, aligner]", "head.train", ["head", "aligner"]),
        ("task.labels=['no', 'yes']", "task.labels", ["no", "yes"]),
        ("storage=s3://bucket/prefix", "storage", "s3://bucket/prefix"),
        ("data.train=/data/a=b/rows.csv", "data.train", "/data/a=b/rows.csv"),
        ("data.train_rows=null", "data.train_rows", None),
        ("data.train_rows=", "data.train_rows", None),
    ],
)
def test_an_override_is_read_as_yaml(override: str, key: str, value: object) -> None:
    found = value_of(pipeline(override), key)
    assert found == value
    assert type(found) is type(value)


def test_the_last_of_two_overrides_wins_and_the_command_line_beats_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\naligner: {kind: fc, depth: 4}\n")
    assert pipeline("seed=2", "seed=3", path=path).seed == 3
    config = pipeline("aligner.kind=ae", path=path)
    assert (config.seed, config.aligner.kind, config.aligner.depth) == (1, "ae", 4)


@pytest.mark.parametrize(
    ("override", "key", "close"),
    [
        ("sede=1", "sede", "seed"),
        ("aligner.knd=fc", "aligner.knd", "aligner.kind"),
        ("tune.learningrate=1", "tune.learningrate", "tune.learning_rate"),
        ("learning_rate=1", "learning_rate", "tune.learning_rate"),
    ],
)
def test_an_unknown_key_gets_a_suggestion_and_the_list(override: str, key: str, close: str) -> None:
    message = refusal(override)
    assert message.startswith(f"unknown key {key!r}; did you mean {close!r}? valid keys: name, ")
    assert all(valid in message for valid, *_ in describe_keys(PipelineConfig))


def test_a_key_like_no_other_gets_the_list_alone() -> None:
    assert refusal("zzzz=1").startswith("unknown key 'zzzz'; valid keys: name, ")


def test_an_unknown_key_in_a_file_is_refused_too(tmp_path: Path) -> None:
    path = written(tmp_path, "aligner:\n  kinds: fc\n")
    assert "unknown key 'aligner.kinds'; did you mean 'aligner.kind'?" in refusal(path=path)


def test_each_job_lists_its_own_keys() -> None:
    with pytest.raises(ConfigError, match="unknown key 'aligner'") as caught:
        load_config(ScoreConfig, None, ["aligner.kind=fc"])
    assert "baselines" in str(caught.value)
    assert "tune.rows" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", ["'seed'", "key=value", "seed=1"]),
        ("=1", ["'=1'", "key=value"]),
        ("--seed=1", ["--seed"]),
        ("seed=-1", ["seed=-1", "greater than or equal to 0"]),
        ("seed=1.5", ["seed=1.5", "integer"]),
        ("aligner.kind=fcc", ["aligner.kind='fcc'", "'fc'", "'ae'", "'procrustes'"]),
        ("tune.learning_rate=0", ["tune.learning_rate=0", "greater than 0"]),
        ("tune.learning_rate=fast", ["tune.learning_rate='fast'", "number"]),
        ("name=My Run", ["name='My Run'", "pattern"]),
        ("data.validation_fraction=1", ["data.validation_fraction=1", "less than 1"]),
        ("seed.deeper=1", ["seed"]),
        ("name=[a", ["name='[a'", "quote"]),
        ("aligner=fc", ["aligner='fc'"]),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(override: str, words: list[str]) -> None:
    message = refusal(override)
    assert all(word in message for word in words), message


def test_a_value_is_no_section(tmp_path: Path) -> None:
    path = written(tmp_path, "aligner: fc\n")
    message = refusal("aligner.depth=4", path=path)
    assert "aligner.depth: 'aligner' is a value, not a section" in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["head.train=[aligner]"], ["head.train=['aligner']", "must hold `head`"]),
        (
            ["aligner.direction=reverse", "head.train=[head,aligner]"],
            ["aligner.direction=reverse", "head.train=[head]"],
        ),
        (
            ["head.residuals=true", "head.train=[head,aligner]"],
            ["head.residuals", "head.train=[head]"],
        ),
        (["cluster.workers=3"], ["tune.batch_size=16", "cluster.workers=3", "multiple"]),
        (
            ["cluster.workers=4", "head.batch_size=18"],
            ["head.batch_size=18", "cluster.workers=4"],
        ),
    ],
)
def test_values_that_cannot_work_together_are_refused(
    overrides: list[str], words: list[str]
) -> None:
    message = refusal(*overrides)
    assert all(word in message for word in words), message


def test_values_that_can_work_together_are_taken() -> None:
    assert pipeline("aligner.direction=reverse").head.train == ["head"]
    assert pipeline("cluster.workers=4").cluster.workers == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: [1", ["is not YAML", "line 1"]),
        ("- seed\n- name\n", ["`key: value`", "list"]),
        ("just words", ["`key: value`", "str"]),
        (b"name: \xff\xfe", ["is not YAML"]),
        ("seed: !!python/object/apply:os.getcwd []", ["is not YAML"]),
    ],
)
def test_a_file_that_is_no_config_is_refused(
    tmp_path: Path, text: str | bytes, words: list[str]
) -> None:
    path = written(tmp_path, text)
    message = refusal(path=path)
    assert all(word in message for word in [f"--config {path}", *words]), message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert (
        refusal(path=missing) == f"--config {missing}: No such file or directory; give a YAML file"
    )
    assert "Is a directory" in refusal(path=tmp_path)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert pipeline(path=written(tmp_path, "# nothing yet\n")) == PipelineConfig()


def test_a_small_number_in_a_file_is_a_number(tmp_path: Path) -> None:
    path = written(tmp_path, "tune: {learning_rate: 1e-4}\n")
    assert pipeline(path=path).tune.learning_rate == 1e-4


def rates(config: PipelineConfig) -> tuple[float, float, float]:
    return config.tune.learning_rate, config.aligner.learning_rate, config.head.learning_rate


def test_the_preset_takes_the_rates_of_table_2_and_gives_way_to_a_rate_given(
    tmp_path: Path,
) -> None:
    assert rates(pipeline("preset=table2")) == (1e-4, 1e-5, 1e-4)
    assert rates(pipeline("preset=table2", "aligner.learning_rate=3e-4")) == (1e-4, 3e-4, 1e-4)
    path = written(tmp_path, "preset: table2\ntune: {learning_rate: 2.0e-5, rows: both}\n")
    config = pipeline(path=path)
    assert rates(config) == (2e-5, 1e-5, 1e-4)
    assert config.tune.rows == "both"
    assert rates(pipeline("preset=null", "tune.learning_rate=2e-5", path=path)) == (
        2e-5,
        1e-4,
        1e-4,
    )


def test_an_unknown_preset_is_refused() -> None:
    assert "preset='table3'" in refusal("preset=table3")


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, value in model().model_dump().items():
        is_section = isinstance(value, dict)
        inner = getattr(model(), name)
        found |= leaves(type(inner), f"{prefix}{name}.") if is_section else {f"{prefix}{name}"}
    return found


@pytest.mark.parametrize("model", [PipelineConfig, ScoreConfig])
def test_help_describes_every_key_with_type_default_and_meaning(model: type[BaseModel]) -> None:
    rows = list(describe_keys(model))
    assert {key for key, *_ in rows} == leaves(model)
    assert len(rows) == len(leaves(model))
    assert all(kind and default and meaning for _, kind, default, meaning in rows)
    assert all("\n" not in "".join(row) for row in rows)


def test_help_shows_types_and_defaults_as_they_are_written() -> None:
    shown = {key: (kind, default) for key, kind, default, _ in describe_keys(PipelineConfig)}
    assert shown["seed"] == ("int", "0")
    assert shown["publish"] == ("bool", "true")
    assert shown["storage"] == ("str", "unset")
    assert shown["data.train_rows"] == ("int", "unset")
    assert shown["tune.learning_rate"] == ("float", "1e-05")
    kinds = "fc|ae|linear|procrustes|procrustes-uncentred|residual|none"
    assert shown["aligner.kind"] == (kinds, "ae")
    assert shown["head.train"] == ("list of head|aligner|encoder", "[head]")
    assert shown["task.labels"] == ("list of str", "unset")


def test_a_default_shown_in_help_can_be_given_back() -> None:
    given = [f"{key}={default}" for key, _, default, _ in describe_keys(PipelineConfig)]
    assert pipeline(*(item for item in given if not item.endswith("=unset"))) == PipelineConfig()


def test_a_config_cannot_change_after_it_was_checked() -> None:
    with pytest.raises(ValueError, match="frozen"):
        pipeline().seed = 1  # type: ignore[misc]
