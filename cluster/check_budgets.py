"""Disruption budgets that Kubernetes cannot reckon for Ray's pods.

A budget with `maxUnavailable`, or with a percentage, needs the number of pods that there should be,
which the controller reads from the scale of what owns them. A RayCluster has no scale: such a
budget allows no eviction at all, and every drain of nodes waits for ever.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.kustomize import Manifest
from cluster.problems import Problem

__all__ = ["check_budgets"]

BUDGET = "PodDisruptionBudget"
# KubeRay gives these labels to every pod that it makes.
LABELS_OF_KUBERAY = "ray.io/"


def check_budgets(manifests: Sequence[Manifest]) -> list[Problem]:
    """Every budget that selects pods of a Ray cluster among these objects and cannot work.

    The objects are valid: `check_manifest` finds no mistake in them.
    """
    pods = [labels for one in manifests for labels in _labels_of_ray_pods(one.document)]
    found = []
    for one in manifests:
        if one.document["kind"] != BUDGET:
            continue
        spec = one.document.get("spec") or {}
        key = "maxUnavailable" if "maxUnavailable" in spec else "minAvailable"
        is_countable = key == "minAvailable" and not isinstance(spec.get(key), str)
        if is_countable or not any(_selects(spec.get("selector") or {}, pod) for pod in pods):
            continue
        name = (one.document.get("metadata") or {}).get("name", "without name")
        message = (
            f"is {spec[key]}; a RayCluster has no scale to reckon it from, so no pod could be "
            "evicted: write minAvailable with a number of pods"
        )
        found.append(Problem(str(one.file), f"{BUDGET} {name}: spec.{key}", message))
    return found


def _labels_of_ray_pods(document: dict[str, Any]) -> Iterator[Mapping[str, str]]:
    """Labels of each pod template of a KubeRay object."""
    if document["apiVersion"].startswith("ray.io/"):
        yield from _labels_of_templates(document)


def _labels_of_templates(value: Any) -> Iterator[Mapping[str, str]]:
    if isinstance(value, dict):
        template = value.get("template")
        if isinstance(template, dict):
            yield (template.get("metadata") or {}).get("labels") or {}
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, (dict, list)):
            yield from _labels_of_templates(inner)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes a pod; labels of KubeRay's own are taken to fit."""
    wanted = [(key, "In", [value]) for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or []:
        wanted.append((one["key"], one["operator"], one.get("values") or []))
    return all(
        key.startswith(LABELS_OF_KUBERAY) or _fits(labels.get(key), operator, values)
        for key, operator, values in wanted
    )


def _fits(value: str | None, operator: str, values: Sequence[str]) -> bool:
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) == (operator == "Exists")
    return (value in values) == (operator == "In")
