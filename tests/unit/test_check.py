"""`python -m cluster check` finds each mistake and says one clear line with the key."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.__main__ import main
from cluster.check_aws import check_cluster
from cluster.yamlfiles import read_documents
from langalign.errors import ConfigError

ROOT = Path(__file__).parents[2]
REMOVED = object()
GPU = "available_node_types.gpu"
LAUNCH = f"{GPU}.node_config"


def changed(document: Any, key: str, value: Any) -> Any:
    """The document with the value at `a.b.0` replaced, added or removed."""
    *path, last = key.split(".")
    parent = document
    for part in path:
        parent = parent[int(part) if isinstance(parent, list) else part]
    place: Any = int(last) if isinstance(parent, list) else last
    if value is REMOVED:
        del parent[place]
    else:
        parent[place] = value
    return document


@pytest.fixture
def config() -> Any:
    (document,) = read_documents(ROOT / "cluster.yaml")
    return document


@pytest.mark.parametrize(
    ("key", "value", "place", "words"),
    [
        # Ray's schema
        ("max_worker", 3, "", "'max_worker' was unexpected"),
        ("upscaling_speed", "fast", "upscaling_speed", "'fast' is not of type 'number'"),
        (f"{GPU}.minimum", 1, GPU, "'minimum' was unexpected"),
        (f"{GPU}.resources.GPU", 0.5, f"{GPU}.resources.GPU", "0.5 is not of type 'integer'"),
        ("available_node_types", ["gpu"], "available_node_types", "is not of type 'object'"),
        ("head_node_type", "boss", "", "`head_node_type` must be one of"),
        ("max_workers", -1, "max_workers", "-1 is less than the minimum"),
        ("provider.type", "gcp", "provider.type", "'gcp'; only aws is checked"),
        ("provider", REMOVED, "provider", "is missing"),
        # EC2's parameters
        (f"{LAUNCH}.Imageid", "ami-1", f"{LAUNCH}.Imageid", "did you mean ImageId?"),
        (f"{LAUNCH}.InstanceType", "g6.2xlrage", f"{LAUNCH}.InstanceType", "mean g6.2xlarge?"),
        (f"{LAUNCH}.EbsOptimized", "yes", f"{LAUNCH}.EbsOptimized", "takes this type: boolean"),
        (f"{LAUNCH}.KeyName", 7, f"{LAUNCH}.KeyName", "is 7, EC2 takes this type: string"),
        (f"{LAUNCH}.SubnetIds", "subnet-1", f"{LAUNCH}.SubnetIds", "give a list"),
        (
            f"{LAUNCH}.MetadataOptions.HttpTokens",
            "always",
            f"{LAUNCH}.MetadataOptions.HttpTokens",
            "'always'; EC2 takes optional, required",
        ),
        (
            f"{LAUNCH}.MetadataOptions.HttpPutResponseHopLimit",
            True,
            f"{LAUNCH}.MetadataOptions.HttpPutResponseHopLimit",
            "is True, EC2 takes this type: integer",
        ),
        (
            f"{LAUNCH}.BlockDeviceMappings.0.Ebs.VolumeTyp",
            "gp3",
            f"{LAUNCH}.BlockDeviceMappings.0.Ebs.VolumeTyp",
            "did you mean VolumeType?",
        ),
        (
            f"{LAUNCH}.InstanceMarketOptions",
            {"MarketType": "spott"},
            f"{LAUNCH}.InstanceMarketOptions.MarketType",
            "did you mean spot?",
        ),
        (
            f"{LAUNCH}.CreditSpecification",
            {},
            f"{LAUNCH}.CreditSpecification.CpuCredits",
            "is missing; EC2 needs it",
        ),
        # rules
        (f"{LAUNCH}.SecurityGroupIds", REMOVED, f"{LAUNCH}.SecurityGroupIds", "0.0.0.0/0"),
        (f"{LAUNCH}.SubnetId", "subnet-1", f"{LAUNCH}.SubnetId", "is ignored by Ray"),
        (f"{GPU}.min_workers", 5, f"{GPU}.min_workers", "5 is above max_workers 4"),
        (f"{GPU}.resources.GPU", 2, f"{GPU}.resources.GPU", "is 2, but g6.2xlarge has 1"),
        (f"{GPU}.resources.GPU", REMOVED, f"{GPU}.resources.GPU", "g6.2xlarge has 1: say so"),
        ("provider.region", REMOVED, "provider.region", "is missing"),
        ("provider.region", "us-east-1", "docker.run_options", "set region us-west-2"),
        ("provider.availability_zone", "eu-west-1a", "provider.availability_zone", "is not a zone"),
        ("setup_commands", REMOVED, "setup_commands", "installs another Ray"),
        ("docker.run_options", [], "docker.run_options", "RAY_AUTH_MODE=token"),
        (
            "docker.worker_run_options",
            ["--env RAY_AUTH_MODE=disabled"],
            "docker.worker_run_options",
            "set RAY_AUTH_MODE=disabled",
        ),
        (
            f"{GPU}.docker.worker_run_options",
            ["--gpus all", "--env", "RAY_AUTH_MODE="],
            f"{GPU}.docker.worker_run_options",
            "the last one given counts",
        ),
        (
            "worker_start_ray_commands.0",
            "export RAY_AUTH_MODE=disabled && ray stop",
            "worker_start_ray_commands",
            "set RAY_AUTH_MODE=disabled",
        ),
        ("head_start_ray_commands", REMOVED, "head_start_ray_commands", "opens the Jobs API"),
        ("provider.use_internal_ips", False, "provider.use_internal_ips", "public addresses"),
        ("provider.use_internal_ips", REMOVED, "provider.use_internal_ips", "write true"),
        (f"{LAUNCH}.InstanceType", REMOVED, f"{LAUNCH}.InstanceType", "EC2 would choose"),
        (
            "provider.cache_stopped_nodes",
            True,
            "available_node_types.a100-spot.node_config.InstanceMarketOptions",
            "cannot be stopped",
        ),
    ],
)
def test_a_mistake_in_a_file_for_ray_up_is_named(
    config: Any, key: str, value: Any, place: str, words: str
) -> None:
    (problem,) = check_cluster("c.yaml", changed(config, key, value))
    assert problem.key == place
    assert words in problem.message
    assert str(problem).startswith("c.yaml: ")
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    "option",
    ["=0.0.0.0", " 0.0.0.0", "='0.0.0.0'", ' "0.0.0.0"', "=::", "=[::]", "=$HOST", " 10.0.0.7"],
)
def test_a_dashboard_that_others_reach_is_named(config: Any, option: str) -> None:
    command = f"ray start --head --dashboard-host{option} --port=6379; true"
    key = "head_start_ray_commands.1"
    (problem,) = check_cluster("c.yaml", changed(config, key, command))
    assert problem.key == key
    assert "opens the Jobs API" in problem.message


@pytest.mark.parametrize("option", ["=127.0.0.1", " '127.0.0.1'", "=localhost", "=::1", "=[::1]"])
def test_a_dashboard_on_loopback_is_none(config: Any, option: str) -> None:
    command = f"ray start --head --dashboard-host{option}"
    assert check_cluster("c.yaml", changed(config, "head_start_ray_commands.1", command)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("docker.run_options.1", "--env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN=0123abcd"),
        ("metadata.AWS_SECRET_ACCESS_KEY", "0123abcd"),
        ("initialization_commands.0", "export AWS_ACCESS_KEY_ID=0123abcd"),
        ("initialization_commands.0", "configure AKIA0123ABCD0123ABCD"),
    ],
)
def test_a_secret_is_found_and_not_repeated(config: Any, key: str, value: str) -> None:
    (problem,) = check_cluster("c.yaml", changed(config, key, value))
    assert problem.key == key
    assert "0123abcd" not in str(problem)


def test_a_secret_where_ray_itself_takes_one_is_found(config: Any) -> None:
    given = {"aws_access_key_id": "0123abcd"}
    (problem,) = check_cluster("c.yaml", changed(config, "provider.aws_credentials", given))
    assert problem.key == "provider.aws_credentials.aws_access_key_id"
    assert "is a secret in a file" in problem.message


def test_all_mistakes_are_reported_at_once(config: Any) -> None:
    changed(config, f"{LAUNCH}.Imageid", "ami-1")
    changed(config, f"{LAUNCH}.KeyName", 7)
    changed(config, f"{GPU}.min_workers", 5)
    assert len(check_cluster("c.yaml", config)) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", "line 1: "),
        ("a: 1\nb: {c: 1, c: 2}\n", "line 2: key c stands twice"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_text_that_is_not_yaml_is_named_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_documents(file)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `python -m cluster`."""
    monkeypatch.setattr(sys, "argv", ["cluster", *arguments])
    try:
        status = main()
    except SystemExit as stop:  # argparse ends bad usage so
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_the_project_as_it_is_shipped_is_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    status, out, err = run(monkeypatch, capsys, "check")
    assert (status, err) == (0, "")
    assert "at least 0.38, at most 141.48 USD an hour" in out
    assert "fill in: cluster.yaml: metadata.key_name: example-key" in out
    assert ", 0 mistakes" in out


def test_mistakes_exit_2_with_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("max_workers: 14", "max_workers: many"))
    status, out, err = run(monkeypatch, capsys, "check", str(file), str(tmp_path / "none.yaml"))
    assert status == 2
    first, second = err.splitlines()
    assert first == (
        f"error: {file}: max_workers: 'many' is not of type 'integer'; "
        "Ray's schema of `ray up` files"
    )
    assert second.startswith(f"error: {tmp_path}/none.yaml: cannot be read")
    assert "USD" not in out


def test_a_region_or_machine_without_a_price_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("us-west-2", "ap-northeast-2"))
    assert "not ap-northeast-2" in run(monkeypatch, capsys, "check", str(file))[1]
    file.write_text(text.replace("c6i.8xlarge", "c7i.8xlarge"))
    assert "no 'c7i.8xlarge'" in run(monkeypatch, capsys, "check", str(file))[1]
    launch = "LaunchTemplate: {LaunchTemplateName: mine}"
    file.write_text(text.replace("InstanceType: c6i.8xlarge", launch))
    status, out, err = run(monkeypatch, capsys, "check", str(file))
    assert (status, err) == (0, "")
    assert "no cost: cpu has no InstanceType" in out


def test_bad_usage_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys)[0] == 2
    assert run(monkeypatch, capsys, "chekc")[0] == 2
    status, out, _ = run(monkeypatch, capsys, "check", "--help")
    assert (status, "cluster.yaml and cluster/kuberay" in out) == (0, True)


def test_a_folder_of_manifests_is_checked_with_its_cluster_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "cluster" / "kuberay", tmp_path / "kuberay")
    shutil.copy(ROOT / "cluster.yaml", tmp_path)
    base = tmp_path / "kuberay" / "base" / "raycluster.yaml"
    base.write_text(base.read_text().replace("maxReplicas: 4", "maxReplica: 4", 1))
    status, _, err = run(monkeypatch, capsys, "check", str(tmp_path))
    assert status == 2
    # once in the base, once in the overlay that is built on it
    assert len(err.splitlines()) == 4
    assert err.count("'maxReplica' was unexpected") == 2
    assert err.count("'maxReplicas' is a required property") == 2
