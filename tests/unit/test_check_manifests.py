"""The manifests of cluster/kuberay: what they promise, and which mistakes the check finds."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.check_manifests import check_manifest
from cluster.kustomize import Manifest, build
from cluster.yamlfiles import read_documents
from langalign.errors import ConfigError
from serve.settings import Settings

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"
PROMETHEUS = KUBERAY.parent / "observability" / "prometheus-kubernetes.yaml"
FOLDERS = ("base", "overlays/a100", "serving")
CLUSTERS = (("base", "RayCluster/langalign"), ("serving", "RayService/langalign-serving"))
WORKER = "spec.workerGroupSpecs.1.template.spec"


def built(folder: str) -> dict[str, Any]:
    """`kind/name` → object of a kustomization."""
    return {
        f"{one.document['kind']}/{one.document['metadata']['name']}": one.document
        for one in build(KUBERAY / folder)
    }


def place(document: Any, key: str) -> tuple[Any, Any]:
    """The container and the index or name that `a.b.0` stands for."""
    *path, last = key.split(".")
    for part in path:
        document = document[int(part) if isinstance(document, list) else part]
    return document, int(last) if isinstance(document, list) else last


def problems(document: Any) -> list[str]:
    return [str(one) for one in check_manifest(Manifest(Path("m.yaml"), document))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_kustomization_is_clean(folder: str) -> None:
    assert [one for manifest in build(KUBERAY / folder) for one in check_manifest(manifest)] == []


@pytest.mark.parametrize("name", ["sweep.yaml", "secrets.example.yaml"])
def test_every_file_outside_a_kustomization_is_clean(name: str) -> None:
    documents = read_documents(KUBERAY / name)
    assert [one for document in documents for one in problems(document)] == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("spec.enableInTreeAutoscaling", "yes", "'yes' is not of type 'boolean'; KubeRay 1.6.2"),
        ("spec.autoscaling", True, "'autoscaling' was unexpected"),
        ("spec.autoscalerOptions.upscalingMode", "Fast", "'Fast' is not one of"),
        ("spec.workerGroupSpecs.1.groupName", "", "spec.workerGroupSpecs.1.groupName"),
        ("spec.headGroupSpec.rayStartParams", {"num-cpus": 0}, "0 is not of type 'string'"),
        ("apiVersion", "ray.io/v1alpha1", "'ray.io/v1' was expected"),
        ("kind", "RayClutser", "did you mean RayCluster?"),
        ("spec.rayVersion", "2.40.0", "is 2.40.0, the image has 2."),
        ("spec.authOptions.mode", "disabled", "authOptions.mode: is not token"),
        ("spec.headGroupSpec.serviceType", "LoadBalancer", "opens the Jobs API"),
        ("spec.workerGroupSpecs.1.replicas", 9, "is not between minReplicas 0 and maxReplicas 4"),
        (f"{WORKER}.containers.0.image", 7, "7 is not of type 'string'"),
        (f"{WORKER}.containers.0.envFrm", [], "'envFrm' was unexpected"),
        (f"{WORKER}.containers.0.resources", {}, "limits.cpu: is missing"),
        (f"{WORKER}.containers.0.resources.limits.cpu", {}, "Kubernetes 1.34"),
    ],
)
def test_a_mistake_in_a_ray_cluster_is_named(key: str, value: Any, words: str) -> None:
    document = built("base")["RayCluster/langalign"]
    parent, last = place(document, key)
    parent[last] = value
    found = problems(document)
    assert any(words in one for one in found), found
    assert all(one.startswith("m.yaml: ") and "\n" not in one for one in found)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("spec.podSelectors", {}, "'podSelectors' was unexpected"),
        ("spec.ingress.1.ports.0.port", [8265], "spec.ingress.1.ports.0.port: "),
        ("apiVersion", "networking.k8s.io/v9", "is no kind of networking.k8s.io/v9"),
    ],
)
def test_a_mistake_in_a_built_in_kind_is_named(key: str, value: Any, words: str) -> None:
    document = built("base")["NetworkPolicy/langalign-ray"]
    parent, last = place(document, key)
    parent[last] = value
    (found,) = problems(document)
    assert words in found


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("applications: [", "is not YAML"),
        ("applications: [{name: a}]", "import_path"),
        ("applications: []\nhttp_options: {port: many}", "http_options.port: "),
        ("applications: []\nhttp_option: {}", "http_option: is ignored by Ray Serve (did"),
        ("applications: [{import_path: a:b, arg: {}}]", "applications.0.arg: is ignored"),
        ("7", "Ray Serve's schema"),
    ],
)
def test_a_mistake_in_the_serve_config_is_named(config: str, words: str) -> None:
    document = built("serving")["RayService/langalign-serving"]
    document["spec"]["serveConfigV2"] = config
    found = problems(document)
    assert any(words in one for one in found), found


def test_a_job_needs_one_cluster_and_may_not_end_a_shared_one() -> None:
    (document,) = read_documents(KUBERAY / "sweep.yaml")
    document["spec"]["shutdownAfterJobFinishes"] = True
    assert "KubeRay refuses it with clusterSelector" in problems(document)[0]
    del document["spec"]["clusterSelector"]
    assert "needs either clusterSelector or rayClusterSpec" in problems(document)[0]


def test_what_is_no_object_for_kubernetes_is_said() -> None:
    assert problems(["a"]) == ["m.yaml: has no apiVersion and kind; every object has both"]


def test_without_the_schemas_of_kubernetes_the_remedy_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes_validate", None)
    with pytest.raises(ConfigError, match=r"pip install -c constraints.txt '\.\[dev\]'"):
        problems(built("base")["ConfigMap/langalign-settings"])


def test_the_service_gets_settings_that_the_application_knows() -> None:
    config = yaml.safe_load(
        built("serving")["RayService/langalign-serving"]["spec"]["serveConfigV2"]
    )
    (application,) = config["applications"]
    assert Settings(**application["args"]).gpus == 1
    ours = yaml.safe_load((KUBERAY.parents[1] / "serve/config.yaml").read_text())
    assert config["http_options"] == ours["http_options"] | {"host": "0.0.0.0"}
    assert config["logging_config"] == ours["logging_config"]


def test_the_job_runs_on_the_cluster_of_the_base() -> None:
    (job,) = read_documents(KUBERAY / "sweep.yaml")
    cluster = built("base")["RayCluster/langalign"]["metadata"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["name"]}
    assert job["metadata"]["namespace"] == cluster["namespace"]


def test_the_overlay_adds_machines_with_eight_a100_and_changes_nothing_else() -> None:
    base, overlay = built("base"), built("overlays/a100")
    *groups, a100 = overlay["RayCluster/langalign"]["spec"]["workerGroupSpecs"]
    assert groups == base["RayCluster/langalign"]["spec"]["workerGroupSpecs"]
    assert (a100["groupName"], a100["minReplicas"], a100["maxReplicas"]) == ("a100", 0, 2)
    (container,) = a100["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["image"] == "registry.example/langalign:0.1.0"
    assert overlay.keys() == base.keys()


def test_no_two_clusters_of_a_namespace_have_one_name() -> None:
    # KubeRay would give both head services one name, and the RayService would take it.
    clusters = {
        (one["kind"], one["metadata"]["namespace"], one["metadata"]["name"])
        for folder in FOLDERS
        for one in built(folder).values()
        if one["apiVersion"] == "ray.io/v1"
    }
    assert len(clusters) == len(CLUSTERS)
    assert len({(namespace, name) for _, namespace, name in clusters}) == len(CLUSTERS)


def test_all_pods_are_one_account_and_only_heads_have_its_token() -> None:
    account = built("base")["ServiceAccount/langalign-pods"]
    assert "automountServiceAccountToken" not in account  # the autoscaler in the head needs it
    for folder, name in CLUSTERS:
        document = built(folder)[name]
        assert document["metadata"]["namespace"] == account["metadata"]["namespace"]
        head, *workers = pods(document)
        assert {pod["serviceAccountName"] for pod in (head, *workers)} == {"langalign-pods"}
        assert "automountServiceAccountToken" not in head
        assert all(pod["automountServiceAccountToken"] is False for pod in workers)


def test_no_secret_and_no_privilege_is_in_a_pod() -> None:
    for folder in ("overlays/a100", "serving"):
        for document in built(folder).values():
            assert document["kind"] != "Secret"
            for pod in pods(document):
                assert pod["securityContext"]["runAsNonRoot"] is True
                for container in pod["containers"]:
                    assert container["securityContext"]["allowPrivilegeEscalation"] is False
                    names = {one["name"] for one in container.get("env", [])}
                    assert not {"AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"} & names


def pods(value: Any) -> list[dict[str, Any]]:
    """Every pod specification inside an object."""
    if isinstance(value, list):
        return [pod for inner in value for pod in pods(inner)]
    if not isinstance(value, dict):
        return []
    here = [value] if "containers" in value else []
    return here + [pod for inner in value.values() for pod in pods(inner)]


def test_the_dashboard_is_open_to_the_operator_and_the_cluster_only() -> None:
    objects = built("base")
    assert objects["NetworkPolicy/langalign-deny"]["spec"]["podSelector"] == {}
    to_dashboard = [
        source
        for document in objects.values()
        if document["kind"] == "NetworkPolicy"
        for rule in document["spec"].get("ingress", [])
        if 8265 in [port["port"] for port in rule.get("ports", [{"port": 8265}])]
        for source in rule["from"]
    ]
    labels = [source["podSelector"]["matchLabels"] for source in to_dashboard]
    assert labels == [
        {"app.kubernetes.io/part-of": "langalign"},
        {"app.kubernetes.io/name": "kuberay-operator"},
    ]


def policies(kind: str) -> list[tuple[dict[str, Any], list[Any]]]:
    """(peer, ports) of each rule of the base's network policies; kind: `from` or `to`."""
    direction = {"from": "ingress", "to": "egress"}[kind]
    return [
        (peer, [port["port"] for port in rule.get("ports", [])])
        for document in built("base").values()
        if document["kind"] == "NetworkPolicy"
        for rule in document["spec"].get(direction, [])
        for peer in rule[kind]
    ]


def test_prometheus_reaches_the_ports_that_it_is_told_to_read() -> None:
    (job,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    (ports,) = [one["regex"].split("|") for one in job["relabel_configs"] if "port" in str(one)]
    for folder, name in CLUSTERS:
        document = built(folder)[name]
        (discovery,) = job["kubernetes_sd_configs"]
        assert discovery["namespaces"]["names"] == [document["metadata"]["namespace"]]
        cluster = document["spec"].get("rayClusterConfig", document["spec"])
        (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
        named = {port["name"]: port["containerPort"] for port in head["ports"]}
        label = {"app.kubernetes.io/name": "prometheus"}
        (opened,) = [
            given for peer, given in policies("from") if label in peer["podSelector"].values()
        ]
        assert sorted(opened) == sorted(named[port] for port in ports)


@pytest.mark.parametrize(
    ("address", "ports"), [("169.254.170.23/32", [80]), ("169.254.20.10/32", [53, 53])]
)
def test_pods_reach_the_agents_of_their_own_node(address: str, ports: list[int]) -> None:
    assert [
        given for peer, given in policies("to") if peer.get("ipBlock") == {"cidr": address}
    ] == [ports]


@pytest.mark.parametrize(("folder", "name"), CLUSTERS)
def test_the_autoscaler_writes_its_logs_where_the_head_has_them(folder: str, name: str) -> None:
    spec = built(folder)[name]["spec"]
    cluster = spec.get("rayClusterConfig", spec)
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (logs,) = [one for one in head["volumeMounts"] if one["mountPath"] == "/tmp/ray"]
    assert cluster["autoscalerOptions"]["volumeMounts"] == [logs]


def test_a_drain_can_take_one_serving_worker_while_another_answers() -> None:
    spec = built("serving")["RayService/langalign-serving"]["spec"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert min(group["minReplicas"], group["replicas"], application["args"]["replicas"]) >= 2
