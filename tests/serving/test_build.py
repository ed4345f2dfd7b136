"""What the application is made of: the demo's model, and one deployment for each encoder."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from published import publish, write_encoder

from langalign.errors import ArtifactError, ConfigError, TrainingError
from langalign.storage import STORAGE_VARIABLE, Storage
from serve import demo
from serve.app import build
from serve.release import write_pin
from serve.settings import Settings


def bound_deployments(application: Any) -> Iterator[Any]:
    """The deployments of an application, the one that takes HTTP first."""
    bound = application._bound_deployment
    yield bound
    models = bound.init_args[1]
    for inner in models.values() if isinstance(models, dict) else ():
        yield from bound_deployments(inner)


def deployments(application: Any) -> dict[str, list[str]]:
    """Names of deployments → the models that each loads."""
    return {
        bound.name: [] if isinstance(bound.init_args[1], dict) else list(bound.init_args[1])
        for bound in bound_deployments(application)
    }


def test_models_of_one_encoder_take_http_themselves(models: Storage) -> None:
    settings = Settings(model=["one", "two"], storage=models.root)
    assert deployments(build(settings)) == {"Classifier": ["one", "two"]}


def test_each_encoder_is_a_deployment_behind_one_gateway(tmp_path: Path, encoder: Path) -> None:
    root, scratch = tmp_path / "store", tmp_path / "scratch"
    other = write_encoder(tmp_path / "other", seed=3)
    publish(root, encoder, scratch, name="one", seed=1)
    publish(root, encoder, scratch, name="two", seed=2)
    publish(root, other, scratch, name="far", seed=3)
    application = build(Settings(model=["one", "two", "far"], storage=str(root), replicas=2))
    assert {bound.num_replicas for bound in bound_deployments(application)} == {2}
    # Known from the start, whatever encoder is away when the gateway starts.
    languages = dict.fromkeys(("one", "two", "far"), ("en", "xc"))
    assert application._bound_deployment.init_args[2] == languages
    found = deployments(application)
    assert found.pop("Gateway") == []
    assert sorted(found.values()) == [["far"], ["one", "two"]]
    assert all(name.startswith("Encoder-") for name in found)


def test_a_pinned_version_says_who_shares_an_encoder_and_which_languages(
    tmp_path: Path, encoder: Path
) -> None:
    root, scratch = tmp_path / "store", tmp_path / "scratch"
    publish(root, encoder, scratch, name="one", seed=1)
    pinned = publish(root, encoder, scratch, name="two", seed=2)
    later = write_encoder(tmp_path / "later", seed=3)
    publish(root, later, scratch, name="two", seed=3, target="xd")
    settings = Settings(model=["one", "two"], storage=str(root))
    assert "Gateway" in deployments(build(settings))
    write_pin(Storage(str(root)), "two", pinned.version)
    assert deployments(build(settings)) == {"Classifier": ["one", "two"]}


@pytest.mark.parametrize(
    ("names", "share"), [(["one"], set()), (["one", "far"], {4}), (["one", "far", "further"], {2})]
)
def test_the_limits_of_ray_leave_room_for_those_of_the_application(
    tmp_path: Path, encoder: Path, names: list[str], share: set[int]
) -> None:
    root, scratch = tmp_path / "store", tmp_path / "scratch"
    publish(root, encoder, scratch, name="one", seed=1)
    for seed, name in ((3, "far"), (4, "further")):
        publish(root, write_encoder(tmp_path / name, seed=seed), scratch, name=name, seed=seed)
    settings = Settings(model=names, storage=str(root), ongoing_requests=8)
    ingress, *encoders = bound_deployments(build(settings))
    assert ingress.max_queued_requests >= 2 * 8
    for deployment in (ingress, *encoders):
        assert deployment.max_ongoing_requests >= 2 * 8
    # Those that are away must not fill the ingress with what waits for them.
    assert {deployment.max_queued_requests for deployment in encoders} == share


def test_what_cannot_be_served_is_said_before_anything_starts(
    tmp_path: Path, models: Storage
) -> None:
    with pytest.raises(ArtifactError, match="choose from one, pairs, two"):
        build(Settings(model=["none"], storage=models.root))
    twice = ["one", models.uri("models/one")]
    with pytest.raises(ConfigError, match="stands for another model already"):
        build(Settings(model=twice, storage=models.root))
    with pytest.raises(ArtifactError, match="expected ROOT/models/NAME"):
        build(Settings(model=[str(tmp_path / "folder")]))


def test_without_a_model_the_demo_is_trained_once(
    tmp_path: Path,
    encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs: list[list[str]] = []

    def trained(command: list[str], *, env: dict[str, str], **options: Any) -> Any:
        jobs.append(command)
        publish(Path(env[STORAGE_VARIABLE]), encoder, tmp_path / "scratch", name="demo")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", trained)
    settings = Settings(storage=str(tmp_path / "store"))
    assert deployments(build(settings)) == {"Classifier": ["demo"]}
    assert jobs == [[sys.executable, "-m", "jobs.train"]]
    assert "training it now" in capsys.readouterr().err
    build(settings)
    assert len(jobs) == 1


def test_a_demo_that_cannot_be_trained_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1))
    with pytest.raises(TrainingError, match="name a published model"):
        demo.ensure_demo(Storage(str(tmp_path)))
