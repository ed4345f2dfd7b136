"""Check Kubernetes manifests offline: Kubernetes' OpenAPI schema, KubeRay's kinds, and rules.

Built-in kinds and the pods inside KubeRay's kinds go through `kubernetes-validate`, which carries
the schemas; KubeRay's own fields through `cluster.kuberay_schema`.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import ray
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from cluster.kuberay_schema import KUBERAY_KINDS, KUBERAY_VERSION
from cluster.kustomize import Manifest
from cluster.problems import Problem, closest
from langalign.errors import ConfigError

__all__ = ["KUBERNETES_VERSION", "check_manifest"]

KUBERNETES_VERSION = "1.34"
KUBERAY_API = "ray.io/v1"

Finding = tuple[str, str]  # the path of a key, and what is wrong with its value


def check_manifest(manifest: Manifest) -> list[Problem]:
    """Every mistake found in one object for Kubernetes.

    Raises:
        ConfigError: the package with Kubernetes' schemas is not installed.
    """
    document = manifest.document
    if not isinstance(document, dict) or not {"apiVersion", "kind"} <= document.keys():
        return [
            Problem(str(manifest.file), "", "has no apiVersion and kind; every object has both")
        ]
    metadata = document.get("metadata") or {}
    name = metadata.get("name") or metadata.get("generateName") or "without name"
    finder = _kuberay if str(document["apiVersion"]).startswith("ray.io/") else _built_in
    place = f"{document['kind']} {name}"
    return [
        Problem(str(manifest.file), f"{place}: {key}" if key else place, message)
        for key, message in finder(document)
    ]


def _built_in(document: dict[str, Any]) -> Iterator[Finding]:
    """Compare a built-in kind with Kubernetes' schema; unknown fields are mistakes too."""
    try:
        import kubernetes_validate
    except ImportError as error:
        raise ConfigError(
            "kubernetes-validate is not installed, which holds Kubernetes' schemas; "
            "pip install -c constraints.txt '.[dev]'"
        ) from error
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield "kind", f"is no kind of {document['apiVersion']} in Kubernetes {KUBERNETES_VERSION}"
    except jsonschema.ValidationError as error:
        yield _path(error.path), f"{error.message}; Kubernetes {KUBERNETES_VERSION}"


def _kuberay(document: dict[str, Any]) -> Iterator[Finding]:
    kind = document["kind"]
    if kind not in KUBERAY_KINDS:
        yield "kind", f"{kind} is not checked{closest(kind, KUBERAY_KINDS)}"
        return
    errors = list(jsonschema.Draft7Validator(KUBERAY_KINDS[kind]).iter_errors(document))
    for error in errors:
        yield _path(error.path), f"{error.message}; KubeRay {KUBERAY_VERSION}"
    if errors:
        return  # the rules read fields that are not as they should be
    spec = document["spec"]
    for key in ("rayClusterSpec", "rayClusterConfig"):
        if key in spec:
            yield from _cluster(spec[key], f"spec.{key}")
    if kind == "RayCluster":
        yield from _cluster(spec, "spec")
    elif kind == "RayJob":
        yield from _job(spec)
    else:
        yield from _serve_config(spec["serveConfigV2"])


def _cluster(spec: dict[str, Any], key: str) -> Iterator[Finding]:
    """Rules on a Ray cluster, and its pods."""
    if spec.get("rayVersion") != ray.__version__:
        yield f"{key}.rayVersion", f"is {spec.get('rayVersion')}, the image has {ray.__version__}"
    if spec.get("authOptions", {}).get("mode") != "token":
        yield (
            f"{key}.authOptions.mode",
            "is not token; without it every pod that reaches the head runs code on the cluster",
        )
    if spec["headGroupSpec"].get("serviceType", "ClusterIP") != "ClusterIP":
        yield (
            f"{key}.headGroupSpec.serviceType",
            "opens the Jobs API outside Kubernetes; use ClusterIP and `kubectl port-forward`",
        )
    groups = {f"{key}.headGroupSpec": spec["headGroupSpec"]}
    for number, group in enumerate(spec.get("workerGroupSpecs", [])):
        place = f"{key}.workerGroupSpecs.{number}"
        groups[place] = group
        fewest, most = group["minReplicas"], group["maxReplicas"]
        if not fewest <= group.get("replicas", fewest) <= most:
            yield f"{place}.replicas", f"is not between minReplicas {fewest} and maxReplicas {most}"
    for place, group in groups.items():
        yield from _pod(group["template"], f"{place}.template")


def _pod(template: dict[str, Any], key: str) -> Iterator[Finding]:
    """A pod template as Kubernetes would see it, and limits on every container."""
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    found = [(f"{key}.{inner}", message) for inner, message in _built_in(pod)]
    yield from found
    if found:
        return
    for number, container in enumerate(template["spec"]["containers"]):
        limits = container.get("resources", {}).get("limits", {})
        for resource in ("cpu", "memory"):
            if resource not in limits:
                yield (
                    f"{key}.spec.containers.{number}.resources.limits.{resource}",
                    "is missing; Ray takes the limits for the size of its node: write one",
                )


def _job(spec: dict[str, Any]) -> Iterator[Finding]:
    if ("clusterSelector" in spec) == ("rayClusterSpec" in spec):
        yield "spec", "needs either clusterSelector or rayClusterSpec; write one of them"
    if "clusterSelector" in spec and spec.get("shutdownAfterJobFinishes"):
        yield (
            "spec.shutdownAfterJobFinishes",
            "would end a cluster that others use; KubeRay refuses it with clusterSelector",
        )


def _serve_config(text: str) -> Iterator[Finding]:
    """The YAML inside `serveConfigV2`, as Ray Serve reads it; keys it would ignore are mistakes."""
    try:
        config = yaml.safe_load(text)
        ServeDeploySchema.model_validate(config)
    except yaml.YAMLError as error:
        yield "spec.serveConfigV2", f"is not YAML: {' '.join(str(error).split())}"
        return
    except ValidationError as error:
        for fault in error.errors():
            place = _path(("spec.serveConfigV2", *fault["loc"]))
            yield place, f"{' '.join(fault['msg'].split())}; Ray Serve's schema"
        return
    levels = [("spec.serveConfigV2", config, ServeDeploySchema)]
    for number, application in enumerate(config["applications"]):
        place = f"spec.serveConfigV2.applications.{number}"
        levels.append((place, application, ServeApplicationSchema))
    for place, given, schema in levels:
        for key in given.keys() - schema.model_fields.keys():
            yield f"{place}.{key}", f"is ignored by Ray Serve{closest(key, schema.model_fields)}"


def _path(parts: Any) -> str:
    return ".".join(map(str, parts))
