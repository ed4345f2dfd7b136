"""What the doctor concludes from nodes' reports."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.doctor.findings import (
    Finding,
    Report,
    judge_bandwidth,
    judge_clock,
    judge_dashboard,
    judge_gpus,
    judge_storage,
    judge_token,
    judge_versions,
)

VERSIONS = {"python": "3.11.7", "ray": "2.60.0"}
HEALTHY = Report(
    node="10.0.0.1",
    versions=VERSIONS,
    gpus_ray=0,
    gpus_seen=(),
    skew_s=0.002,
    auth_mode="token",
    storage_problem="",
    storage_write_bytes_per_s=20e6,
    storage_read_bytes_per_s=40e6,
)


def sick(**changes: Any) -> list[Report]:
    """A healthy node, and one that is not."""
    return [HEALTHY, replace(HEALTHY, node="10.0.0.2", **changes)]


def outcome(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.place, finding.status) for finding in found]


def test_equal_versions_are_one_line() -> None:
    (finding,) = judge_versions(VERSIONS, [HEALTHY, HEALTHY])
    assert finding.status == "ok"
    assert "ray 2.60.0" in finding.text


def test_another_version_names_node_package_and_both_versions() -> None:
    (finding,) = judge_versions(VERSIONS, sick(versions={**VERSIONS, "ray": "2.59.1"}))
    assert (finding.place, finding.status) == ("10.0.0.2", "failed")
    assert "ray 2.59.1, here 2.60.0" in finding.text


@pytest.mark.parametrize(
    ("counted", "seen", "status"),
    [(8, ["A100"] * 8, "ok"), (8, ["A100"] * 7, "failed"), (0, ["A100"], "warning")],
)
def test_gpus_are_those_that_ray_counts(counted: float, seen: list[str], status: str) -> None:
    found = judge_gpus([replace(HEALTHY, gpus_ray=counted, gpus_seen=seen)])
    assert [finding.status for finding in found] == [status]


@pytest.mark.parametrize(
    ("skew_s", "status"), [(0.5, "ok"), (-2.0, "warning"), (301.0, "failed"), (-301.0, "failed")]
)
def test_a_clock_that_is_off_is_told_by_how_much(skew_s: float, status: str) -> None:
    found = judge_clock(sick(skew_s=skew_s))
    assert [finding.status for finding in found] == [status]
    if status != "ok":
        assert f"{skew_s:+.1f} s" in found[0].text
        assert found[0].place == "10.0.0.2"


def test_each_node_has_its_storage_line() -> None:
    found = judge_storage("s3://b/p", sick(storage_problem="access denied; allow the role"))
    assert outcome(found) == [("10.0.0.1", "ok"), ("10.0.0.2", "failed")]
    assert "20 MB/s written, 40 MB/s read" in found[0].text


@pytest.mark.parametrize(
    ("status_without", "outcome_"), [(401, "ok"), (403, "ok"), (200, "failed"), (None, "warning")]
)
def test_a_jobs_api_that_answers_without_token_fails(
    status_without: int | None, outcome_: str
) -> None:
    assert outcome(judge_token([HEALTHY], status_without)) == [("cluster", outcome_)]


def test_a_node_without_token_mode_fails() -> None:
    found = judge_token(sick(auth_mode=""), 401)
    assert outcome(found) == [("10.0.0.2", "failed"), ("cluster", "ok")]


def test_a_dashboard_that_others_reach_is_a_warning() -> None:
    others = ["10.0.0.2"]
    (finding,) = judge_dashboard("10.0.0.1:8265", is_on_loopback=False, asked=1, reached_by=others)
    assert finding.status == "warning"
    assert "10.0.0.1:8265 is open to 1 other" in finding.text


@pytest.mark.parametrize(
    ("is_on_loopback", "asked", "status", "words"),
    [
        (True, 0, "ok", "loopback"),
        (True, 2, "ok", "loopback"),
        (False, 2, "ok", "a rule forbids it"),
        (False, 0, "warning", "listens on 10.0.0.1:8265"),
    ],
)
def test_a_dashboard_that_nobody_reaches_is_fine_unless_nobody_was_asked(
    is_on_loopback: bool, asked: int, status: str, words: str
) -> None:
    (finding,) = judge_dashboard(
        "10.0.0.1:8265", is_on_loopback=is_on_loopback, asked=asked, reached_by=[]
    )
    assert finding.status == status
    assert words in finding.text


def test_bandwidth_is_told_in_bits() -> None:
    measured = {"bus_bytes_per_s": 1.25e9, "nodes": 2, "mib": 64, "seconds": 0.0537}
    (finding,) = judge_bandwidth("gloo", measured)
    assert finding.text == "10.0 Gbit/s between 2 nodes (64 MiB in 54 ms)"
    (finding,) = judge_bandwidth("nccl", {"problem": "GPUs are busy", "status": "warning"})
    assert (finding.check, finding.status) == ("nccl all-reduce", "warning")
