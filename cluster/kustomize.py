"""Build a kustomization offline: the part of Kustomize that cluster/kuberay uses.

Resources, a namespace, images and JSON patches (RFC 6902: add, copy, remove, replace). Anything
else is refused by name, so that what is checked is what `kubectl apply -k` would send.
"""

import copy
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.yamlfiles import read_documents
from langalign.errors import ConfigError

__all__ = ["KUSTOMIZATION", "Manifest", "build"]

KUSTOMIZATION = "kustomization.yaml"
KNOWN = ("apiVersion", "kind", "namespace", "resources", "images", "patches")
KNOWN_OF_PATCH = ("target", "patch")
KNOWN_OF_TARGET = ("group", "version", "kind", "name")
KNOWN_OF_IMAGE = ("name", "newName", "newTag")
# What may follow the name of an image: tag and digest.
TAG_OR_DIGEST = r"(:[\w.-]+)?(@.+)?"
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
    _only_known(f"{file}: ", rules, KNOWN)
    for number, image in enumerate(rules.get("images", [])):
        _only_known(f"{file}: images.{number}.", image, KNOWN_OF_IMAGE)
        if "name" not in image:
            raise ConfigError(f"{file}: images.{number}: has no name; write the name to replace")
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
    for number, patch in enumerate(rules.get("patches", [])):
        operations = _operations(f"{file}: patches.{number}", patch)
        _patch_matching(file, manifests, patch["target"], operations)
    for manifest in manifests:
        _set_images(manifest.document, rules.get("images", []))
        if "namespace" in rules and manifest.document.get("kind") not in WITHOUT_NAMESPACE:
            manifest.document.setdefault("metadata", {})["namespace"] = rules["namespace"]
    return manifests


def _only_known(place: str, given: Any, known: Collection[str]) -> None:
    """Refuse what Kustomize would act on and this does not."""
    if not isinstance(given, dict):
        raise ConfigError(f"{place.rstrip('.: ')}: holds {given!r}; write a mapping")
    for key in given:
        if key not in known:
            raise ConfigError(f"{place}{key}: is not read here; use one of {', '.join(known)}")


def _operations(place: str, patch: Any) -> list[dict[str, Any]]:
    """The operations of a JSON patch; files and merge patches are refused."""
    _only_known(f"{place}.", patch, KNOWN_OF_PATCH)
    for key in KNOWN_OF_PATCH:
        if not patch.get(key):
            raise ConfigError(f"{place}: has no {key}; write which object, and operations on it")
    _only_known(f"{place}.target.", patch["target"], KNOWN_OF_TARGET)
    try:
        operations = yaml.safe_load(patch["patch"])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{place}.patch: is not YAML ({reason}); correct it") from error
    if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
        raise ConfigError(
            f"{place}.patch: is no list of operations (RFC 6902), and merge patches are not read "
            "here; write {op: replace, path: …, value: …}"
        )
    return operations


def _patch_matching(
    file: Path,
    manifests: list[Manifest],
    target: dict[str, str],
    operations: list[dict[str, Any]],
) -> None:
    chosen = [one for one in manifests if _matches(one.document, target)]
    if not chosen:
        raise ConfigError(f"{file}: patches: no resource is {target}; correct the target")
    for manifest in chosen:
        for operation in operations:
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
        given = str(container.get("image"))
        if re.fullmatch(re.escape(image["name"]) + TAG_OR_DIGEST, given):
            name, tag = image.get("newName", image["name"]), image.get("newTag")
            rest = f":{tag}" if tag else given.removeprefix(image["name"])
            container["image"] = f"{name}{rest}"
