"""The fields of KubeRay's kinds that cluster/kuberay uses, as a JSON schema.

Written from the CRD reference of KubeRay v1.6.2 (docs.ray.io, "KubeRay CRD API reference"), the
first minor version whose `authOptions` take a secret. A field that is not here may be right all
the same: look it up there and add it. Pod templates are checked against Kubernetes' own schema.
"""

from typing import Any

__all__ = ["KUBERAY_KINDS", "KUBERAY_VERSION"]

KUBERAY_VERSION = "1.6.2"

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_ANY: Schema = {"type": "object"}


def _only(required: list[str] | None = None, **properties: Schema) -> Schema:
    """A mapping of these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


_AUTH = _only(mode={"enum": ["token", "disabled"]}, secretName=_TEXT)

_AUTOSCALER = _only(
    version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=_COUNT,
    image=_TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    resources=_ANY,
    securityContext=_ANY,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)

_HEAD = _only(
    ["template"],
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    enableIngress=_FLAG,
    headService=_ANY,
    rayStartParams=_TEXTS,
    template=_ANY,
)

_WORKERS = _only(
    ["groupName", "minReplicas", "maxReplicas", "template"],
    groupName={**_TEXT, "minLength": 1},
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    numOfHosts={"type": "integer", "minimum": 1},
    idleTimeoutSeconds=_COUNT,
    suspend=_FLAG,
    rayStartParams=_TEXTS,
    template=_ANY,
)

_CLUSTER = _only(
    ["headGroupSpec"],
    rayVersion=_TEXT,
    authOptions=_AUTH,
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_AUTOSCALER,
    gcsFaultToleranceOptions=_ANY,
    headServiceAnnotations=_TEXTS,
    suspend=_FLAG,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)

_JOB = _only(
    ["entrypoint"],
    entrypoint={**_TEXT, "minLength": 1},
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    clusterSelector=_TEXTS,
    rayClusterSpec=_CLUSTER,
    runtimeEnvYAML=_TEXT,
    metadata=_TEXTS,
    jobId=_TEXT,
    suspend=_FLAG,
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_COUNT,
    activeDeadlineSeconds=_COUNT,
    backoffLimit=_COUNT,
    submitterPodTemplate=_ANY,
)

_SERVICE = _only(
    ["serveConfigV2", "rayClusterConfig"],
    serveConfigV2={**_TEXT, "minLength": 1},
    rayClusterConfig=_CLUSTER,
    serveService=_ANY,
    upgradeStrategy=_only(type={"enum": ["NewCluster", "None"]}),
    excludeHeadPodFromServeSvc=_FLAG,
)


def _kind(name: str, spec: Schema) -> Schema:
    return _only(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": name},
        metadata=_ANY,
        spec=spec,
    )


KUBERAY_KINDS: dict[str, Schema] = {
    "RayCluster": _kind("RayCluster", _CLUSTER),
    "RayJob": _kind("RayJob", _JOB),
    "RayService": _kind("RayService", _SERVICE),
}
