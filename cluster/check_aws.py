"""Check a `ray up` file for AWS offline: Ray's schema, EC2's service model, and rules of safety.

Ray checks names at the top level only and passes `node_config` on to EC2's RunInstances, where a
mistake shows first when a machine is wanted. botocore carries the full model of that call.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.prices import MACHINES
from cluster.problems import Problem, closest

__all__ = ["check_cluster"]

Finding = tuple[str, str]  # the path of a key, and what is wrong with its value

# Ray fills these in for each launch.
SET_BY_RAY = {"MinCount": 1, "MaxCount": 1}
# Not a parameter of EC2: Ray picks one of these for each launch.
RAY_SUBNETS = "SubnetIds"
# As `ray start` takes it: with a space or an equals sign, in quotes or not.
DASHBOARD_HOST = re.compile(r"""--dashboard-host(?:=|\s+)["']?([^\s"';&|]+)""")
# Of `docker`, for all nodes or for one type; Ray puts head's and workers' after the shared ones.
RUN_OPTIONS = ("run_options", "head_run_options", "worker_run_options")
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
AUTH_MODE = re.compile(r"""RAY_AUTH_MODE=["']?([^\s"']*)""")
LOOPBACK = re.compile(r"127(?:\.\d+){3}|localhost|::1|\[::1\]")
# In lower case they are keys of Ray's `provider.aws_credentials`.
SECRET = re.compile(
    r"\b(AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|RAY_AUTH_TOKEN|HF_TOKEN)\b",
    re.IGNORECASE,
)
KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "structure": (dict,),
    "map": (dict,),
}


def check_cluster(file: str, config: Any) -> list[Problem]:
    """Every mistake found in the content of a `ray up` file; an empty list if there is none."""
    findings = list(_by_schema(config))
    if not findings:
        # These need the form that the schema asks for.
        findings = [*_by_rules(config), *_node_configs(config)]
    return [Problem(file, key, message) for key, message in findings]


def _by_schema(config: Any) -> Iterator[Finding]:
    """What Ray itself refuses, in its words."""
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        yield "provider", "is missing; `ray up` needs `provider: {type: aws, region: …}`"
        return
    kind = config["provider"].get("type")
    if kind != "aws":
        yield "provider.type", f"is {kind!r}; only aws is checked here"
        return
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(config))
    for error in errors:
        yield _path(error.absolute_path), f"{error.message}; Ray's schema of `ray up` files"
    if errors:
        return  # defaults cannot be filled into a file of another form
    try:
        validate_config(prepare_config(config))
    except (AssertionError, RuntimeError, ValueError) as refusal:
        yield "", f"{' '.join(str(refusal).split())}; Ray refuses the file"


def _by_rules(config: dict[str, Any]) -> Iterator[Finding]:
    """What Ray accepts and would be regretted."""
    yield from _secrets(config, "")
    yield from _regions(config)
    for name, default in (("setup_commands", "another Ray"), ("head_setup_commands", "boto3")):
        if name not in config:
            yield name, f"is missing; Ray's default installs {default} over the image's: write []"
    if "head_start_ray_commands" not in config:
        yield (
            "head_start_ray_commands",
            "is missing; Ray's default opens the Jobs API with --dashboard-host=0.0.0.0: give own",
        )
    yield from _modes(config)
    if config["provider"].get("use_internal_ips") is not True:
        yield (
            "provider.use_internal_ips",
            "is not true; machines would need public addresses, and be reached by them: write true",
        )
    for number, command in enumerate(config.get("head_start_ray_commands", [])):
        for host in DASHBOARD_HOST.findall(command):
            if not LOOPBACK.fullmatch(host):
                yield (
                    f"head_start_ray_commands.{number}",
                    f"opens the Jobs API to the network with --dashboard-host {host}; use "
                    "127.0.0.1 and `ray dashboard`",
                )
    if "head_node_type" in config and "available_node_types" in config:
        for name, node in config["available_node_types"].items():
            for key, message in _node(node, config["provider"]):
                yield f"available_node_types.{name}.{key}", message


def _secrets(value: Any, key: str) -> Iterator[Finding]:
    """Credentials do not belong in a file that is shared; the value is not repeated."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if SECRET.search(str(name)):
                yield _join(key, name), "is a secret in a file; use a role or a mounted file"
            else:
                yield from _secrets(inner, _join(key, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _secrets(inner, _join(key, number))
    elif isinstance(value, str) and (found := SECRET.search(value) or KEY_ID.search(value)):
        what = found[1] if found.lastindex else "an AWS access key"
        yield key, f"holds {what}; credentials come from a role or a mounted file, not from here"


def _modes(config: dict[str, Any]) -> Iterator[Finding]:
    """Token mode, which options of head, workers or one type, that come later, may undo."""
    places = {"docker": config.get("docker") or {}}
    for name, node in config.get("available_node_types", {}).items():
        places[f"available_node_types.{name}.docker"] = node.get("docker") or {}
    asked = " ".join(map(str, places["docker"].get("run_options", [])))
    if "RAY_AUTH_MODE=token" not in asked:
        yield (
            "docker.run_options",
            "have no `--env RAY_AUTH_MODE=token`; without it whoever reaches the head runs code",
        )
        return
    said = {
        f"{place}.{key}": docker.get(key) or []
        for place, docker in places.items()
        for key in RUN_OPTIONS
    }
    said |= {key: config.get(key) or [] for key in START_COMMANDS}
    for place, words in said.items():
        for mode in AUTH_MODE.findall(" ".join(map(str, words))):
            if mode != "token":
                yield place, f"set RAY_AUTH_MODE={mode}, and the last one given counts; take it out"


def _regions(config: dict[str, Any]) -> Iterator[Finding]:
    provider = config["provider"]
    region = provider.get("region")
    if not region:
        yield "provider.region", "is missing; name the AWS region, as in us-west-2"
        return
    for zone in str(provider.get("availability_zone") or "").split(","):
        if zone.strip() and not zone.strip().startswith(region):
            yield "provider.availability_zone", f"{zone.strip()} is not a zone of {region}"
    options = " ".join(map(str, (config.get("docker") or {}).get("run_options", [])))
    for other in re.findall(r"AWS_(?:DEFAULT_)?REGION=(\S+)", options):
        if other != region:
            yield "docker.run_options", f"set region {other}, provider.region is {region}; use one"


def _node(node: dict[str, Any], provider: dict[str, Any]) -> Iterator[Finding]:
    """Rules on one node type; keys are relative to it."""
    launch, resources = node["node_config"], node["resources"]
    smallest, largest = node.get("min_workers", 0), node.get("max_workers")
    if largest is not None and smallest > largest:
        yield "min_workers", f"{smallest} is above max_workers {largest}; lower it"
    if "SecurityGroupIds" not in launch and "NetworkInterfaces" not in launch:
        yield (
            "node_config.SecurityGroupIds",
            "is missing; Ray would make a group that opens SSH to 0.0.0.0/0: name your own",
        )
    if "SubnetId" in launch:
        yield "node_config.SubnetId", f"is ignored by Ray; write {RAY_SUBNETS}: [subnet-…]"
    if "InstanceType" not in launch and "LaunchTemplate" not in launch:
        yield "node_config.InstanceType", "is missing; EC2 would choose a machine: name one"
    market = (launch.get("InstanceMarketOptions") or {}).get("MarketType")
    if market == "spot" and provider.get("cache_stopped_nodes", True):
        yield (
            "node_config.InstanceMarketOptions",
            "asks for spot, which cannot be stopped; set provider.cache_stopped_nodes: false",
        )
    machine = MACHINES.get(launch.get("InstanceType", ""))
    if machine is None:
        return
    held = {"CPU": machine.cpus, "GPU": machine.gpus}
    for resource, count in held.items():
        given = resources.get(resource, 0)
        # Fewer may be meant (CPU: 0 keeps tasks off the head); more never start.
        if given > count:
            yield (
                f"resources.{resource}",
                f"is {given}, but {launch['InstanceType']} has {count}; lower it",
            )
    if machine.gpus and "GPU" not in resources:
        yield "resources.GPU", f"is missing; {launch['InstanceType']} has {machine.gpus}: say so"


def _node_configs(config: dict[str, Any]) -> Iterator[Finding]:
    """Compare every `node_config` with the parameters of EC2's RunInstances."""
    shape = _run_instances()
    for name, node in config.get("available_node_types", {}).items():
        key = f"available_node_types.{name}.node_config"
        launch = {**node["node_config"], **SET_BY_RAY}
        subnets = launch.pop(RAY_SUBNETS, [])
        yield from _structure(shape, launch, key)
        if not isinstance(subnets, list) or not all(isinstance(one, str) for one in subnets):
            yield f"{key}.{RAY_SUBNETS}", f"is {subnets!r}; give a list, as [subnet-…]"


@cache
def _run_instances() -> Any:
    """botocore's model of what RunInstances takes; reading it takes a good part of a second."""
    model = botocore.session.Session().get_service_model("ec2")
    return model.operation_model("RunInstances").input_shape


def _value(shape: Any, value: Any, key: str) -> Iterator[Finding]:
    """Compare a value with botocore's shape of it: type, names and allowed words."""
    wanted = PYTHON_TYPES.get(shape.type_name)
    if wanted and (
        not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)
    ):
        yield key, f"is {value!r}, EC2 takes this type: {shape.type_name}"
    elif shape.type_name == "structure":
        yield from _structure(shape, value, key)
    elif shape.type_name == "list":
        for number, inner in enumerate(value):
            yield from _value(shape.member, inner, _join(key, number))
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        words = ", ".join(shape.enum) if len(shape.enum) <= 8 else f"one of {len(shape.enum)} words"
        yield key, f"is {value!r}{closest(value, shape.enum)}; EC2 takes {words}"


def _structure(shape: Any, values: dict[str, Any], key: str) -> Iterator[Finding]:
    for name, value in values.items():
        member = shape.members.get(name)
        if member is None:
            near = closest(str(name), shape.members)
            yield _join(key, name), f"is no parameter of EC2's RunInstances{near}; correct the name"
        else:
            yield from _value(member, value, _join(key, name))
    for name in shape.required_members:
        if name not in values:
            yield _join(key, name), "is missing; EC2 needs it"


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _path(parts: Any) -> str:
    return ".".join(map(str, parts))
