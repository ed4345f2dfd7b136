"""Which machines Ray's autoscaler would start for a demand, from the files as they are shipped.

Ray's own scheduler decides here, without a cluster: the one that the head runs.
"""

from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as derived_from,
)
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from cluster.kustomize import build
from cluster.yamlfiles import read_documents

ROOT = Path(__file__).parents[2]
Demand = dict[str, float]


def launched(config: AutoscalingConfig, demand: Demand, count: int) -> dict[str, int]:
    """Node type → how many would start for so many tasks of a demand, where no worker runs."""
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_worker_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(demand)] * count
        ),
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return {one.instance_type: one.count for one in reply.to_launch}


def autoscaling(ray_cluster: dict[str, Any]) -> AutoscalingConfig:
    """What Ray's autoscaler makes of a RayCluster."""
    config = derived_from(ray_cluster)
    validate_config(config)
    return AutoscalingConfig(config)


@pytest.fixture
def on_aws(tmp_path: Path) -> AutoscalingConfig:
    (config,) = read_documents(ROOT / "cluster.yaml")
    key = tmp_path / "key.pem"  # Ray reads it for a digest
    key.touch()
    config["auth"]["ssh_private_key"] = str(key)
    return AutoscalingConfig(prepare_config(config))


def ray_cluster(folder: str) -> dict[str, Any]:
    manifests = build(ROOT / "cluster" / "kuberay" / folder)
    found: list[dict[str, Any]] = [
        one.document for one in manifests if one.document["kind"] == "RayCluster"
    ]
    return found[0]


@pytest.mark.parametrize(
    ("demand", "count", "expected"),
    [
        # Text work starts CPU machines, and no GPU.
        ({"CPU": 1}, 1, {"cpu": 1}),
        ({"CPU": 1}, 40, {"cpu": 2}),
        # Trials share the one GPU of the cheap type.
        ({"CPU": 1, "GPU": 0.1}, 8, {"gpu": 1}),
        ({"CPU": 1, "GPU": 1}, 4, {"gpu": 4}),
        # Eight workers fill an A100 machine, on spot first and on demand when spot is at its limit.
        ({"CPU": 8, "GPU": 1}, 8, {"a100-spot": 1}),
        ({"CPU": 8, "GPU": 8}, 5, {"a100-spot": 4, "a100": 1}),
        # No more than the file allows, whatever is asked for.
        ({"CPU": 1, "GPU": 1}, 99, {"a100-spot": 4, "a100": 2, "gpu": 4}),
    ],
)
def test_ray_up_starts_the_type_that_fits(
    on_aws: AutoscalingConfig, demand: Demand, count: int, expected: dict[str, int]
) -> None:
    assert launched(on_aws, demand, count) == expected


def test_only_types_with_a_gpu_hand_gpus_to_the_container(on_aws: AutoscalingConfig) -> None:
    for name, node in on_aws.get_node_type_configs().items():
        options = on_aws.get_docker_config(name).get("worker_run_options", [])
        assert ("--gpus all" in options) == ("GPU" in node.resources), name


@pytest.mark.parametrize(
    ("folder", "demand", "count", "expected"),
    [
        ("base", {"CPU": 1}, 20, {"cpu": 2}),
        ("base", {"CPU": 1, "GPU": 1}, 2, {"gpu": 2}),
        ("base", {"CPU": 8, "GPU": 8}, 1, {}),
        ("overlays/a100", {"CPU": 8, "GPU": 8}, 1, {"a100": 1}),
        ("overlays/a100", {"CPU": 8, "GPU": 1}, 99, {"a100": 2}),
    ],
)
def test_kuberay_starts_the_group_that_fits(
    folder: str, demand: Demand, count: int, expected: dict[str, int]
) -> None:
    assert launched(autoscaling(ray_cluster(folder)), demand, count) == expected


def test_no_head_takes_tasks(on_aws: AutoscalingConfig) -> None:
    heads = [
        on_aws.get_node_type_configs()["head"],
        autoscaling(ray_cluster("base")).get_node_type_configs()["headgroup"],
    ]
    assert [head.resources["CPU"] for head in heads] == [0, 0]
