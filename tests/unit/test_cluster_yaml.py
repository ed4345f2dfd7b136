"""cluster.yaml as it is shipped: Ray takes it, EC2 would take it, and it keeps its promises."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.check_aws import check_cluster
from cluster.observability.exported import DASHBOARD
from cluster.prices import cost_bounds, cost_rows
from cluster.yamlfiles import read_documents

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> Any:
    (document,) = read_documents(ROOT / "cluster.yaml")
    return document


def test_ray_takes_it(config: Any) -> None:
    validate_config(prepare_config(config))


def test_the_check_finds_no_mistake(config: Any) -> None:
    assert check_cluster("cluster.yaml", config) == []


def test_the_head_is_on_demand_and_runs_no_training(config: Any) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_every_machine_has_a_role_a_group_encrypted_disks_and_tokens_for_metadata(
    config: Any,
) -> None:
    for node in config["available_node_types"].values():
        launch = node["node_config"]
        assert launch["IamInstanceProfile"]["Name"]
        assert launch["SecurityGroupIds"]
        assert launch["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in launch["BlockDeviceMappings"])


def test_only_the_head_may_start_machines(config: Any) -> None:
    names = {
        name: node["node_config"]["IamInstanceProfile"]["Name"]
        for name, node in config["available_node_types"].items()
    }
    head = names.pop(config["head_node_type"])
    assert head not in names.values()
    actions = {action for one in statements("worker.json") for action in listed(one["Action"])}
    assert {action.partition(":")[0] for action in actions} == {"s3", "ecr"}


def test_the_workers_read_and_write_below_one_prefix_of_one_bucket() -> None:
    on_bucket = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
    for one in statements("worker.json"):
        actions = {action for action in listed(one["Action"]) if action.startswith("s3:")}
        if actions <= on_bucket:
            continue
        assert one["Resource"] == "arn:aws:s3:::BUCKET/PREFIX/*"
        assert not actions & on_bucket


def test_the_head_starts_ends_and_tags_machines_of_this_cluster_only(config: Any) -> None:
    by_name = {one["Sid"]: one for one in statements("head.json")}
    name = "CLUSTER"  # docs/cluster.md fills it in, as BUCKET and PREFIX
    start = by_name["StartMachinesOfTheCluster"]["Condition"]["StringEquals"]
    assert start == {"aws:RequestTag/ray-cluster-name": name}
    end = by_name["TagAndEndMachinesOfTheCluster"]["Condition"]["StringEquals"]
    assert end == {"aws:ResourceTag/ray-cluster-name": name}
    role = config["metadata"]["worker_role"]["Name"]
    assert by_name["GiveMachinesTheWorkersRole"]["Resource"].endswith(f":role/{role}")


def test_the_cost_is_bounded_by_max_workers(config: Any) -> None:
    rows = cost_rows(config)
    least, most = cost_bounds(rows, config["max_workers"])
    assert least == pytest.approx(0.384)
    # head, 4 + 2 A100 machines, 4 CPU, 4 GPU: all 14 fit
    assert most == pytest.approx(0.384 + 6 * 21.957642 + 4 * 1.36 + 4 * 0.9776)
    _, five = cost_bounds(rows, 5)
    assert five == pytest.approx(0.384 + 5 * 21.957642)


def test_more_workers_that_always_run_than_may_make_nothing_cheaper(config: Any) -> None:
    config["available_node_types"]["cpu"]["min_workers"] = 4
    least, most = cost_bounds(cost_rows(config), max_workers=2)
    assert most == least == pytest.approx(0.384 + 4 * 1.36)


def test_the_image_has_every_package_and_the_folder_where_ray_starts(config: Any) -> None:
    lines = (ROOT / "cluster" / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # A package's folder brings the packages below it.
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages <= set(copied)
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in sent if line.startswith("!")} == set(copied)
    (folder,) = [line.split()[1] for line in lines if line.startswith("WORKDIR ")]
    for role in ("head", "worker"):
        assert config[f"{role}_start_ray_commands"][-1].startswith(f"cd {folder} && ")


def test_the_token_lies_where_the_container_looks_for_it(config: Any) -> None:
    lines = (ROOT / "cluster" / "Dockerfile").read_text().splitlines()
    (home,) = [word[5:] for line in lines for word in line.split() if word.startswith("HOME=")]
    (mounted,) = config["file_mounts"]
    assert mounted == f"{home}/.ray/auth_token"
    assert f"--env RAY_AUTH_TOKEN_PATH={mounted}" in config["docker"]["run_options"]


def test_whoever_reads_the_metrics_on_the_heads_machine_finds_rays_list_of_nodes(
    config: Any,
) -> None:
    scrape = yaml.safe_load(DASHBOARD.with_name("prometheus.yaml").read_text())
    (source,) = scrape["scrape_configs"][0]["file_sd_configs"]
    (file,) = source["files"]
    folder = Path(file).parent
    assert f"-v {folder}:{folder}" in config["docker"]["run_options"]
    assert f"mkdir -p -m 1777 {folder}" in config["initialization_commands"]


def statements(name: str) -> list[dict[str, Any]]:
    """The statements of a policy in cluster/iam."""
    document = json.loads((ROOT / "cluster" / "iam" / name).read_text())
    found: list[dict[str, Any]] = document["Statement"]
    return found


def listed(value: Any) -> list[str]:
    """A policy gives one action as text, more as a list."""
    return [value] if isinstance(value, str) else value
