"""What a model's card says of the versions that made it."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from cluster.publishing import LIBRARIES
from langalign.versions import recorded_versions

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_a_project_that_was_brought_along_and_not_installed_has_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = metadata.distribution

    def distribution(name: str) -> metadata.Distribution:
        if name == "langalign-on-ray":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    project = tomllib.loads(PROJECT.read_text())["project"]
    installed = {name: metadata.version(name) for name in LIBRARIES}
    assert recorded_versions(LIBRARIES) == {project["name"]: project["version"], **installed}
