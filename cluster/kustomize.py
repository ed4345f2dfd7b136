"""Build a kustomization offline: the part of Kustomize that cluster/kuberay uses.

Resources, a namespace, images and JSON patches (RFC 6902: add, copy, remove, replace). Anything
else is refused by name, so that what is checked is what `kubectl apply -k` would send.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.yamlfiles import read_documents
from langalign.errors import ConfigError

__all__ = ["KUSTOMIZATION", "Manifest", "build"]

KUSTOMIZATION = "kustomization.yaml"
KNOWN = ("apiVersion", "kind", "namespace", "resources", "images", "patches")
WITHOUT_NAMESPACE = ("Namespace",)


@dataclass
class Manifest:
    """One object for Kubernetes, and the file it came from."""

    file: Path
    document: Any


def build(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k folder` would send.

    Raises:
        ConfigError: a file cannot be read, a field is not known here, or a patch does not fit.
    """
    file = folder / KUSTOMIZATION
    documents = read_documents(file)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ConfigError(f"{file}: holds no kustomization; write one mapping")
    rules = documents[0]
    for key in rules:
        if key not in KNOWN:
            raise ConfigError(f"{file}: {key}: is not read here; use one of {', '.join(KNOWN)}")
    manifests: list[Manifest] = []
    for name in rules.get("resources", []):
        path = Path(os.path.normpath(folder / name))
        if path.is_dir():
            manifests += build(path)
        else:
            manifests += [Manifest(path, document) for document in read_documents(path)]
    for manifest in manifests:
        if not isinstance(manifest.document, dict):
            raise ConfigError(f"{manifest.file}: holds {manifest.document!r}; write a mapping")
    for patch in rules.get("patches", []):
        _patch_matching(file, manifests, patch)
    for manifest in manifests:
        _set_images(manifest.document, rules.get("images", []))
        if "namespace" in rules and manifest.document.get("kind") not in WITHOUT_NAMESPACE:
            manifest.document.setdefault("metadata", {})["namespace"] = rules["namespace"]
    return manifests


def _patch_matching(file: Path, manifests: list[Manifest], patch: dict[str, Any]) -> None:
    target = patch.get("target", {})
    chosen = [one for one in manifests if _matches(one.document, target)]
    if not chosen:
        raise ConfigError(f"{file}: patches: no resource is {target}; correct the target")
    for manifest in chosen:
        for operation in yaml.safe_load(patch["patch"]):
            try:
                _apply(manifest.document, operation)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"{file}: patches: {operation.get('op')} {operation.get('path')} does not fit "
                    f"{manifest.file} ({type(error).__name__}: {error}); correct the path"
                ) from error


def _matches(document: dict[str, Any], target: dict[str, Any]) -> bool:
    api = str(document.get("apiVersion", ""))
    group, _, version = api.rpartition("/")
    facts = {
        "group": group,
        "version": version,
        "kind": document.get("kind"),
        "name": document.get("metadata", {}).get("name"),
    }
    return all(facts[key] == value for key, value in target.items())


def _apply(document: Any, operation: dict[str, Any]) -> None:
    actions: dict[str, Callable[[], None]] = {
        "add": lambda: _insert(document, operation["path"], operation["value"]),
        "copy": lambda: _insert(
            document, operation["path"], copy.deepcopy(_find(document, operation["from"]))
        ),
        "remove": lambda: _remove(document, operation["path"]),
        "replace": lambda: _replace(document, operation["path"], operation["value"]),
    }
    actions[operation["op"]]()


def _insert(document: Any, pointer: str, value: Any) -> None:
    parent, key = _parent(document, pointer)
    if isinstance(parent, list):
        place = len(parent) if key == "-" else int(key)
        if not 0 <= place <= len(parent):
            raise IndexError(f"{place} is past the end of a list of {len(parent)}")
        parent.insert(place, value)
    else:
        parent[key] = value


def _replace(document: Any, pointer: str, value: Any) -> None:
    _find(document, pointer)  # replacing needs something that is there
    parent, key = _parent(document, pointer)
    parent[int(key) if isinstance(parent, list) else key] = value


def _remove(document: Any, pointer: str) -> None:
    parent, key = _parent(document, pointer)
    del parent[int(key) if isinstance(parent, list) else key]


def _parent(document: Any, pointer: str) -> tuple[Any, str]:
    rest, _, key = pointer.rpartition("/")
    return _find(document, rest), _unescape(key)


def _find(document: Any, pointer: str) -> Any:
    for key in pointer.split("/")[1:]:
        document = document[int(key) if isinstance(document, list) else _unescape(key)]
    return document


def _unescape(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")


def _set_images(value: Any, images: list[dict[str, Any]]) -> None:
    """Rename images of containers at any depth, as Kustomize does for custom kinds too."""
    if isinstance(value, list):
        for inner in value:
            _set_images(inner, images)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in ("containers", "initContainers") and isinstance(inner, list):
                for container in inner:
                    _rename(container, images)
            _set_images(inner, images)


def _rename(container: Any, images: list[dict[str, Any]]) -> None:
    if not isinstance(container, dict):
        return
    for image in images:
        if container.get("image") == image["name"]:
            name, tag = image.get("newName", image["name"]), image.get("newTag")
            container["image"] = f"{name}:{tag}" if tag else name
