"""Kustomizations are built here as Kustomize builds them, and what is not built is refused."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kustomize import build
from langalign.errors import ConfigError

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, for its Kustomize")
@pytest.mark.parametrize("folder", ["base", "overlays/a100", "serving"])
def test_kustomize_itself_builds_the_same(folder: str) -> None:
    # Without a kubeconfig it cannot talk to a cluster; building needs none.
    alone = {**os.environ, "KUBECONFIG": os.devnull}
    command = ["kubectl", "kustomize", str(KUBERAY / folder)]
    text = subprocess.run(command, env=alone, capture_output=True, text=True, check=True).stdout
    theirs = {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(text)}
    ours = {
        f"{one.document['kind']}/{one.document['metadata']['name']}": one.document
        for one in build(KUBERAY / folder)
    }
    assert ours == theirs


def written(folder: Path, rules: dict[str, Any]) -> Path:
    """A kustomization of one object that holds a list."""
    thing = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "t"}, "list": [1, {"a": 2}]}
    (folder / "thing.yaml").write_text(yaml.safe_dump(thing))
    content = {"resources": ["thing.yaml"], **rules}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"op": "add", "path": "/list/-", "value": 3}, [1, {"a": 2}, 3]),
        ({"op": "add", "path": "/list/0", "value": 3}, [3, 1, {"a": 2}]),
        ({"op": "add", "path": "/list/1/b~1c", "value": 3}, [1, {"a": 2, "b/c": 3}]),
        ({"op": "copy", "from": "/list/1", "path": "/list/2"}, [1, {"a": 2}, {"a": 2}]),
        ({"op": "remove", "path": "/list/0"}, [{"a": 2}]),
        ({"op": "replace", "path": "/list/1/a", "value": 3}, [1, {"a": 3}]),
    ],
)
def test_patches_follow_rfc_6902(tmp_path: Path, patch: Any, expected: Any) -> None:
    rules = {"patches": [{"target": {"kind": "Thing"}, "patch": yaml.safe_dump([patch])}]}
    (manifest,) = build(written(tmp_path, rules))
    assert manifest.document["list"] == expected


@pytest.mark.parametrize(
    "patch",
    [
        {"op": "add", "path": "/list/4", "value": 3},
        {"op": "replace", "path": "/list/1/b", "value": 3},
        {"op": "remove", "path": "/nothing"},
        {"op": "move", "from": "/list/0", "path": "/list/1"},
    ],
)
def test_a_patch_that_does_not_fit_is_named(tmp_path: Path, patch: Any) -> None:
    rules = {"patches": [{"target": {"kind": "Thing"}, "patch": yaml.safe_dump([patch])}]}
    with pytest.raises(ConfigError, match=f"{patch['op']} {patch['path']} does not fit"):
        build(written(tmp_path, rules))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"generators": []}, "generators: is not read here"),
        ({"patches": [{"target": {"name": "u"}, "patch": "[]"}]}, "no resource is"),
        ({"patches": [{"path": "p.yaml"}]}, r"patches\.0\.path: is not read here"),
        ({"patches": [{"patch": "[]"}]}, r"patches\.0: has no target"),
        ({"patches": [7]}, r"patches\.0: holds 7; write a mapping"),
        (
            {"patches": [{"target": {"labelSelector": "a=b"}, "patch": "[]"}]},
            r"patches\.0\.target\.labelSelector: is not read here",
        ),
        (
            {"patches": [{"target": {"kind": "Thing"}, "patch": "metadata: {name: t}"}]},
            r"patches\.0\.patch: is no list of operations",
        ),
        ({"patches": [{"target": {"kind": "Thing"}, "patch": "a: ["}]}, "patch: is not YAML"),
        ({"images": [{"newTag": "2"}]}, r"images\.0: has no name"),
        ({"images": [{"name": "a", "digest": "sha256:0"}]}, r"images\.0\.digest: is not read"),
        ({"resources": ["nothing.yaml"]}, "nothing.yaml: cannot be read"),
    ],
)
def test_a_kustomization_that_cannot_be_built_is_named(
    tmp_path: Path, rules: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build(written(tmp_path, rules))


@pytest.mark.parametrize(
    ("image", "rule", "expected"),
    [
        ("app", {"newName": "r/app", "newTag": "2"}, "r/app:2"),
        ("app:1", {"newTag": "2"}, "app:2"),
        ("app:1", {"newName": "r/app"}, "r/app:1"),
        ("app@sha256:0", {"newTag": "2"}, "app:2"),
        ("application", {"newTag": "2"}, "application"),
    ],
)
def test_images_are_renamed_as_kustomize_does(
    tmp_path: Path, image: str, rule: dict[str, str], expected: str
) -> None:
    rules = {
        "images": [{"name": "app", **rule}],
        "patches": [
            {
                "target": {"kind": "Thing"},
                "patch": yaml.safe_dump(
                    [{"op": "add", "path": "/containers", "value": [{"image": image}]}]
                ),
            }
        ],
    }
    (manifest,) = build(written(tmp_path, rules))
    assert manifest.document["containers"] == [{"image": expected}]
