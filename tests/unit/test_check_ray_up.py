"""What `ray up cluster.yaml` would ask of EC2: Ray's AWS provider against moto's EC2 and IAM."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import pytest
from moto import mock_aws
from ray.autoscaler._private.aws import config as ray_aws
from ray.autoscaler._private.aws import utils as ray_aws_utils
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.yamlfiles import read_documents

# moto's EC2 takes some seconds to come up.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ADDRESS = "203.0.113.7/32"  # of the team; documentation's own range
AS_GIVEN = (
    "BlockDeviceMappings",
    "IamInstanceProfile",
    "ImageId",
    "InstanceType",
    "KeyName",
    "MetadataOptions",
)
TYPES = ("head", "gpu", "a100-spot", "a100", "cpu")


class Cloud:
    """An account as docs/cluster.md asks for it, and what Ray sent to it."""

    def __init__(self, region: str) -> None:
        self.ec2 = boto3.client("ec2", region_name=region)
        iam = boto3.client("iam", region_name=region)
        vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        # A subnet of moto gives no public addresses.
        subnet = self.ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")
        self.subnet = subnet["Subnet"]["SubnetId"]
        self.group = self.ec2.create_security_group(
            GroupName="langalign", Description="as in the documentation", VpcId=vpc
        )["GroupId"]
        self.ec2.authorize_security_group_ingress(
            GroupId=self.group,
            IpPermissions=[
                {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": self.group}]},
                {
                    "IpProtocol": "tcp",
                    "FromPort": 22,
                    "ToPort": 22,
                    "IpRanges": [{"CidrIp": ADDRESS}],
                },
            ],
        )
        self.ec2.create_key_pair(KeyName="example-key")
        for name in ("langalign-head", "langalign-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.bootstrap: list[tuple[str, dict[str, Any]]] = []

    def named(self, operation: str) -> list[dict[str, Any]]:
        """The parameters of every call of an operation so far."""
        return [parameters for name, parameters in self.calls if name == operation]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    caches = (ray_aws_utils.resource_cache, ray_aws_utils.client_cache, ray_aws._get_subnets_or_die)
    for cache in caches:
        cache.cache_clear()
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        # Keys for a signature that nobody reads.
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        account = Cloud("us-west-2")
        send = botocore.client.BaseClient._make_api_call

        def record(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
            account.calls.append((operation, parameters))
            return send(client, operation, parameters)

        patch.setattr(botocore.client.BaseClient, "_make_api_call", record)
        yield account
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def config(cloud: Cloud) -> Any:
    """cluster.yaml with subnet and group filled in, after Ray's bootstrap of it."""
    (document,) = read_documents(ROOT / "cluster.yaml")
    for node in document["available_node_types"].values():
        node["node_config"].update(SubnetIds=[cloud.subnet], SecurityGroupIds=[cloud.group])
    prepared = prepare_config(document)
    validate_config(prepared)
    bootstrapped = AWSNodeProvider.bootstrap_config(prepared)
    cloud.bootstrap = list(cloud.calls)
    return bootstrapped


def launched(config: Any, cloud: Cloud, name: str, count: int = 1) -> dict[str, Any]:
    """The parameters of RunInstances when Ray starts nodes of a type."""
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {"ray-user-node-type": name, "ray-node-kind": "worker"}
    provider.create_node(config["available_node_types"][name]["node_config"], tags, count)
    return cloud.named("RunInstances")[-1]


def test_the_bootstrap_makes_no_group_no_key_and_no_role(config: Any, cloud: Cloud) -> None:
    assert config["head_node"] == {}  # where Ray puts a role that it made
    changes = [
        name
        for name, _ in cloud.bootstrap
        if name.startswith(("Create", "Authorize", "Put", "Attach", "Add", "Modify"))
    ]
    assert cloud.bootstrap
    assert changes == []


@pytest.mark.parametrize("name", TYPES)
def test_a_node_is_asked_for_as_the_file_says(config: Any, cloud: Cloud, name: str) -> None:
    (document,) = read_documents(ROOT / "cluster.yaml")
    given = document["available_node_types"][name]["node_config"]
    sent = launched(config, cloud, name, count=2)
    for key in AS_GIVEN:
        assert sent[key] == given[key], key
    assert sent["SubnetId"] == cloud.subnet
    assert sent["SecurityGroupIds"] == [cloud.group]
    assert (sent["MinCount"], sent["MaxCount"]) == (1, 2)
    # Nothing runs on the machine but what SSH sends: no secret can lie in its user data.
    assert "UserData" not in sent
    assert "NetworkInterfaces" not in sent


def test_the_policy_of_the_head_knows_the_tag_that_ray_sends(config: Any, cloud: Cloud) -> None:
    (tags,) = launched(config, cloud, "gpu")["TagSpecifications"]
    assert tags["ResourceType"] == "instance"
    assert {"Key": "ray-cluster-name", "Value": "langalign"} in tags["Tags"]


def test_the_policy_of_the_head_allows_what_ray_calls_and_no_more(
    config: Any, cloud: Cloud
) -> None:
    before = len(cloud.calls)
    launched(config, cloud, "gpu")
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    called = {f"ec2:{name}" for name, _ in cloud.calls[before:]}
    policy = json.loads((ROOT / "cluster" / "iam" / "head.json").read_text())
    allowed = {action for one in policy["Statement"] for action in listed(one["Action"])}
    ec2 = {action for action in allowed if action.startswith("ec2:")}
    # RunInstances with tags needs the right to tag as well.
    assert ec2 == called | {"ec2:CreateTags"}
    assert allowed - ec2 == {"iam:PassRole", "ssm:GetParameters"}


def listed(value: Any) -> list[str]:
    """A policy gives one action as text, more as a list."""
    return [value] if isinstance(value, str) else value


def test_only_the_spot_type_is_on_spot_and_at_no_price_of_its_own(
    config: Any, cloud: Cloud
) -> None:
    markets = {name: launched(config, cloud, name).get("InstanceMarketOptions") for name in TYPES}
    spot = markets.pop("a100-spot")
    assert spot is not None
    assert spot["MarketType"] == "spot"
    assert "MaxPrice" not in spot["SpotOptions"]
    assert set(markets.values()) == {None}


def test_nothing_is_open_but_ssh_from_one_address(config: Any, cloud: Cloud) -> None:
    launched(config, cloud, "head")
    (group,) = cloud.ec2.describe_security_groups(GroupIds=[cloud.group])["SecurityGroups"]
    addresses = [
        (rule.get("FromPort"), range_["CidrIp"])
        for rule in group["IpPermissions"]
        for range_ in rule["IpRanges"]
    ]
    assert addresses == [(22, ADDRESS)]


def test_machines_get_no_public_address(config: Any, cloud: Cloud) -> None:
    launched(config, cloud, "head")
    machines = [
        machine
        for reservation in cloud.ec2.describe_instances()["Reservations"]
        for machine in reservation["Instances"]
    ]
    assert machines
    assert not any(machine.get("PublicIpAddress") for machine in machines)
    assert config["provider"]["use_internal_ips"] is True


def test_machines_are_ended_and_not_stopped(config: Any, cloud: Cloud) -> None:
    launched(config, cloud, "cpu")
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    nodes = provider.non_terminated_nodes({})
    provider.terminate_nodes(nodes)
    assert nodes
    assert cloud.named("TerminateInstances")[-1] == {"InstanceIds": nodes}
    assert cloud.named("StopInstances") == []
    assert AWSNodeProvider(config["provider"], "langalign").non_terminated_nodes({}) == []
