"""What the doctor concludes from what the nodes report; no Ray here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Finding",
    "Report",
    "judge_bandwidth",
    "judge_clock",
    "judge_dashboard",
    "judge_gpus",
    "judge_left",
    "judge_storage",
    "judge_token",
    "judge_versions",
]

Status = Literal["ok", "warning", "failed"]
# A log of several machines is hard to read beyond the first, and S3 refuses requests that were
# signed 15 minutes off.
SKEW_WARNING_S = 1.0
SKEW_FAILED_S = 300.0


@dataclass(frozen=True)
class Finding:
    """The outcome of a check at a place: a node's name, or `cluster`."""

    check: str
    place: str
    status: Status
    text: str


@dataclass(frozen=True)
class Report:
    """What one node says of itself.

    `skew_s` is its clock less the driver's, `gpus_ray` what Ray was told at the node's start,
    `gpus_seen` the names the driver program of the GPUs lists.
    """

    node: str
    versions: Mapping[str, str]
    gpus_ray: float
    gpus_seen: Sequence[str]
    skew_s: float
    auth_mode: str
    storage_problem: str
    storage_write_bytes_per_s: float
    storage_read_bytes_per_s: float


def judge_versions(driver: Mapping[str, str], reports: Sequence[Report]) -> list[Finding]:
    """Every node has the driver's versions of Python and the packages."""
    found = []
    for report in reports:
        wrong = [
            f"{name} {report.versions.get(name)}, here {version}"
            for name, version in driver.items()
            if report.versions.get(name) != version
        ]
        if wrong:
            text = f"{'; '.join(wrong)}: start the node from the image that the others have"
            found.append(Finding("versions", report.node, "failed", text))
    if found:
        return found
    text = ", ".join(f"{name} {version}" for name, version in driver.items())
    return [Finding("versions", "cluster", "ok", f"the same everywhere: {text}")]


def judge_gpus(reports: Sequence[Report]) -> list[Finding]:
    """As many GPUs as Ray was told; a table of kinds where there are any."""
    found = []
    for report in reports:
        seen = len(report.gpus_seen)
        if seen != report.gpus_ray:
            text = (
                f"Ray counts {report.gpus_ray:g} GPUs, nvidia-smi {seen}: look at the node's "
                "driver, and at `resources` where the node is described"
            )
            status: Status = "failed" if seen < report.gpus_ray else "warning"
            found.append(Finding("GPUs", report.node, status, text))
    kinds = Counter(name for report in reports for name in report.gpus_seen)
    text = ", ".join(f"{count} × {name}" for name, count in kinds.items()) or "none"
    return found or [Finding("GPUs", "cluster", "ok", text)]


def judge_left(names: Sequence[str]) -> list[Finding]:
    """Nodes that went while they were looked at."""
    text = (
        "it left while it was looked at: where no autoscaler takes idle nodes away, look at its "
        "raylet's log"
    )
    return [Finding("nodes", name, "warning", text) for name in names]


def judge_clock(reports: Sequence[Report]) -> list[Finding]:
    """Clocks near the driver's."""
    found = []
    for report in reports:
        off = abs(report.skew_s)
        if off > SKEW_WARNING_S:
            status: Status = "failed" if off > SKEW_FAILED_S else "warning"
            text = f"{report.skew_s:+.1f} s from the driver's: run a time service (chrony) there"
            found.append(Finding("clock", report.node, status, text))
    most = max(abs(report.skew_s) for report in reports)
    return found or [Finding("clock", "cluster", "ok", f"at most {1000 * most:.0f} ms apart")]


def judge_storage(root: str, reports: Sequence[Report]) -> list[Finding]:
    """Every node reads, writes and deletes, and sees what the driver wrote."""
    found = []
    for report in reports:
        if report.storage_problem:
            found.append(Finding("storage", report.node, "failed", report.storage_problem))
        else:
            write, read = report.storage_write_bytes_per_s, report.storage_read_bytes_per_s
            text = f"{root}: {write / 1e6:.0f} MB/s written, {read / 1e6:.0f} MB/s read"
            found.append(Finding("storage", report.node, "ok", text))
    return found


def judge_token(reports: Sequence[Report], status_without: int | None) -> list[Finding]:
    """Nodes are in token mode, and the Jobs API refuses a caller without one.

    `status_without` is its HTTP status for such a caller; None: it was not reached.
    """
    found = [
        Finding(
            "token",
            report.node,
            "failed",
            f"RAY_AUTH_MODE={report.auth_mode or 'unset'}: set it to token before `ray start`",
        )
        for report in reports
        if report.auth_mode != "token"
    ]
    if status_without is None:
        found.append(Finding("token", "cluster", "warning", "the Jobs API cannot be asked"))
    elif status_without in (401, 403):
        text = f"the Jobs API refuses a caller without it ({status_without})"
        found.append(Finding("token", "cluster", "ok", text))
    else:
        text = (
            f"the Jobs API answers {status_without} to a caller without a token: whoever reaches "
            "it runs code here (CVE-2023-48022); start the cluster anew with RAY_AUTH_MODE=token"
        )
        found.append(Finding("token", "cluster", "failed", text))
    return found


def judge_dashboard(
    address: str, *, is_on_loopback: bool, asked: int, reached_by: Sequence[str]
) -> list[Finding]:
    """Whether nodes other than the head, of which `asked` tried, reach the dashboard's port."""
    if not reached_by and (is_on_loopback or asked):
        why = "it listens on the head's loopback" if is_on_loopback else "a rule forbids it"
        return [Finding("dashboard", "cluster", "ok", f"no other node reaches it: {why}")]
    if not reached_by:
        text = (
            f"it listens on {address}, and no other node is there to say whether it gets "
            "through: --dashboard-host=127.0.0.1 closes it"
        )
        return [Finding("dashboard", "cluster", "warning", text)]
    text = (
        f"{address} is open to {len(reached_by)} other nodes, so nothing but the token and your "
        "network's rules keeps others out: --dashboard-host=127.0.0.1 closes it"
    )
    return [Finding("dashboard", "cluster", "warning", text)]


def judge_bandwidth(backend: str, measured: dict[str, Any]) -> list[Finding]:
    """The result of an all-reduce; `problem` says why there is none."""
    check = f"{backend} all-reduce"
    if measured.get("problem"):
        return [Finding(check, "cluster", measured["status"], measured["problem"])]
    text = (
        f"{measured['bus_bytes_per_s'] * 8 / 1e9:.1f} Gbit/s between {measured['nodes']} nodes "
        f"({measured['mib']} MiB in {1000 * measured['seconds']:.0f} ms)"
    )
    return [Finding(check, "cluster", "ok", text)]
