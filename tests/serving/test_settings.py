"""Settings as the command line gives them, and the deployment file that names every one."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from serve.settings import Limits, Settings

CONFIG = Path(__file__).parents[2] / "serve" / "config.yaml"


def test_the_command_line_gives_strings() -> None:
    settings = Settings.model_validate(
        {"model": "one, s3://b/models/two", "inputs": "8", "watch_s": "0.5", "auth": "off"}
    )
    assert settings.model == ["one", "s3://b/models/two"]
    assert (settings.inputs, settings.watch_s, settings.auth) == (8, 0.5, "off")
    assert settings.limits() == Limits(inputs=8)


def test_off_is_off_however_yaml_reads_it() -> None:
    assert Settings.model_validate(yaml.safe_load("auth: off")).auth == "off"


@pytest.mark.parametrize(
    ("key", "value"), [("modle", "x"), ("inputs", "0"), ("auth", "no"), ("precision", "fp8")]
)
def test_what_cannot_work_is_refused_by_its_key(key: str, value: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Settings.model_validate({key: value})


def test_the_cores_are_divided_among_the_replicas_of_all_encoders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)))
    assert Settings().threads_of_replica() == 12
    assert Settings(replicas=2).threads_of_replica(encoders=3) == 2
    assert Settings(replicas=8).threads_of_replica(encoders=3) == 1
    assert Settings(replicas=2, threads=5).threads_of_replica(encoders=3) == 5


def test_the_deployment_file_is_valid_and_names_every_setting() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    (application,) = config.applications
    assert application.import_path == "serve.app:build"
    assert set(application.args) == set(Settings.model_fields)
    # The file shows the defaults, so that it can be read as their reference.
    assert Settings.model_validate(application.args) == Settings()
    assert config.http_options.host == "127.0.0.1"
    # Serve's own time-out answers in plain text, so it comes after those with problem details.
    limits = Limits()
    assert config.http_options.request_timeout_s > limits.body_s + limits.request_s
