"""A disruption budget that would stop every drain of nodes is a mistake."""

from pathlib import Path
from typing import Any

import pytest

from cluster.check import check
from cluster.check_budgets import check_budgets
from cluster.kustomize import Manifest, build

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"
HEAD = {"app.kubernetes.io/component": "head"}


def manifests(spec: dict[str, Any]) -> list[Manifest]:
    """The base with another budget."""
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "mine"},
        "spec": spec,
    }
    return [*build(KUBERAY / "base"), Manifest(Path("mine.yaml"), budget)]


@pytest.mark.parametrize(
    "numbers", [{"maxUnavailable": 0}, {"maxUnavailable": "50%"}, {"minAvailable": "50%"}]
)
@pytest.mark.parametrize(
    "selector",
    [
        {"matchLabels": HEAD},
        {"matchLabels": {"ray.io/node-type": "worker"}},
        {"matchExpressions": [{"key": "app.kubernetes.io/component", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "ray.io/cluster", "operator": "In", "values": ["x"]}]},
        {
            "matchExpressions": [
                {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["worker"]}
            ]
        },
        {},
    ],
)
def test_a_budget_that_allows_no_eviction_is_named(
    numbers: dict[str, Any], selector: dict[str, Any]
) -> None:
    (problem,) = check_budgets(manifests({**numbers, "selector": selector}))
    (key,) = numbers
    assert problem.key == f"PodDisruptionBudget mine: spec.{key}"
    assert "write minAvailable with a number of pods" in problem.message


@pytest.mark.parametrize(
    "spec",
    [
        {"minAvailable": 1, "selector": {"matchLabels": HEAD}},
        {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        {
            "maxUnavailable": 1,
            "selector": {
                "matchExpressions": [
                    {"key": "app.kubernetes.io/component", "operator": "DoesNotExist"}
                ]
            },
        },
    ],
)
def test_a_number_of_pods_and_pods_of_others_are_none_of_its_business(spec: Any) -> None:
    assert check_budgets(manifests(spec)) == []


def test_the_check_of_a_folder_compares_budgets_with_its_clusters(tmp_path: Path) -> None:
    for source in (KUBERAY / "base").glob("*.yaml"):
        text = source.read_text().replace("minAvailable: 1", "maxUnavailable: 1")
        (tmp_path / source.name).write_text(text)
    (problem,) = check([tmp_path]).problems
    assert problem.file == str(tmp_path / "disruption.yaml")


@pytest.mark.parametrize("folder", ["base", "serving"])
def test_every_group_of_pods_that_must_stay_has_a_budget_it_can_keep(folder: str) -> None:
    built = [one.document for one in build(KUBERAY / folder)]
    (cluster,) = [one["spec"] for one in built if one["apiVersion"].startswith("ray.io/")]
    spec = cluster.get("rayClusterConfig", cluster)
    budgets = [one["spec"] for one in built if one["kind"] == "PodDisruptionBudget"]
    staying = [(spec["headGroupSpec"], 1)]
    staying += [(group, group["minReplicas"]) for group in spec["workerGroupSpecs"]]
    for group, pods in staying:
        labels = group["template"]["metadata"]["labels"].items()
        mine = [one for one in budgets if one["selector"]["matchLabels"].items() <= labels]
        assert len(mine) == (1 if pods else 0)
        # A head moves only when it is ended, a worker when another stands.
        assert all(one["minAvailable"] < pods or group is staying[0][0] for one in mine)
