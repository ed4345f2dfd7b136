"""The doctor: an actor on every node, their reports, and what follows from them."""

import json
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.doctor import findings
from cluster.doctor.findings import Finding, Report
from cluster.doctor.probe import NodeProbe, packages, versions_of
from cluster.session import session
from langalign.errors import ClusterError
from langalign.storage import Storage

__all__ = ["examine", "run_doctor"]

ANSWER_LIMIT_S = 90.0
PINGS = 7
ROUNDS = 3
ATTEMPTS = 3
# Ray looks every 3 s, and takes a node for dead that did not answer five times.
GONE_WAIT_S = 20.0
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def run_doctor(address: str | None, root: str | None, *, mib: int, as_json: bool) -> int:
    """Examine and print; returns the exit status: 0 nothing failed, 1 something did.

    Raises:
        ConfigError: there is no cluster at the address, or it refuses the token.
        ClusterError: a node does not answer, or not as it should.
        StorageError: this machine does not reach the storage.
    """
    storage = Storage.from_environment(root)
    with session(address or "auto"):
        found = examine(storage, mib=mib)
    counts = {status: sum(each.status == status for each in found) for status in COLOURS}
    if as_json:
        rows = [asdict(each) for each in found]
        content = {"job": "doctor", "status": "failed" if counts["failed"] else "done"}
        sys.stdout.write(json.dumps({**content, "findings": rows}) + "\n")
    else:
        _print(found, counts)
    return 1 if counts["failed"] else 0


def examine(storage: Storage, *, mib: int) -> list[Finding]:
    """Every check on every node of the cluster that this process is connected to.

    Where a node leaves meanwhile, as idle ones do under an autoscaler, the others are examined
    anew, and a finding names it.

    Raises:
        ClusterError: a node does not answer, or nodes left in each attempt.
        StorageError: this machine does not reach the storage.
    """
    left: list[str] = []
    for attempt in range(1, ATTEMPTS + 1):
        nodes = _alive()
        try:
            found = _examine(nodes, storage, mib)
            gone = _gone(nodes) if any(map(_is_of_the_network, found)) else []
        except ClusterError as error:
            gone = _gone(nodes)
            if not gone:
                raise
            if attempt == ATTEMPTS:
                raise ClusterError(
                    f"nodes left in each of {ATTEMPTS} attempts ({', '.join(left + gone)}): {error}"
                ) from error
        left += gone
        if not gone:
            break
    return [*found, *findings.judge_left(left)]


def _alive() -> dict[str, Any]:
    """Ray's records of the nodes that run, by id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _is_of_the_network(finding: Finding) -> bool:
    """Whether it tells of an all-reduce that was not done, as when one of the nodes leaves."""
    return finding.check.endswith("all-reduce") and finding.status != "ok"


def _gone(nodes: dict[str, Any]) -> list[str]:
    """Names of those that run no more; Ray may hear of it after a caller."""
    deadline = time.monotonic() + GONE_WAIT_S
    while True:
        alive = _alive()
        gone = [_name(node) for node_id, node in nodes.items() if node_id not in alive]
        if gone or time.monotonic() > deadline:
            return gone
        time.sleep(0.2)


def _examine(nodes: dict[str, Any], storage: Storage, mib: int) -> list[Finding]:
    probes = {node_id: _start_probe(node_id) for node_id in nodes}
    with_gpu: dict[str, Any] = {}
    try:
        names = packages()
        reports = _reports(nodes, probes, storage, names)
        workers = [node_id for node_id, node in nodes.items() if _does_work(node)]
        found = [
            *findings.judge_versions(versions_of(names), reports),
            *findings.judge_gpus(reports),
            *findings.judge_clock(reports),
            *findings.judge_storage(storage.root, reports),
            *_judge_access(nodes, probes, reports),
            *_judge_network("gloo", workers, probes, mib),
        ]
        graphics = [node_id for node_id in workers if nodes[node_id]["Resources"].get("GPU")]
        if graphics:
            with_gpu |= {node_id: _start_probe(node_id, gpus=1) for node_id in graphics}
            found += _judge_network("nccl", graphics, with_gpu, mib)
        return found
    finally:
        # Some may still wait for a node that left, with a GPU that the next attempt asks for.
        for probe in (*probes.values(), *with_gpu.values()):
            ray.kill(probe)


def _start_probe(node_id: str, *, gpus: float = 0) -> Any:
    here = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    actor = ray.remote(num_cpus=0, num_gpus=gpus, scheduling_strategy=here)(NodeProbe)
    return actor.remote()


def _does_work(node: dict[str, Any]) -> bool:
    return bool(node["Resources"].get("CPU") or node["Resources"].get("GPU"))


def _reports(
    nodes: dict[str, Any], probes: dict[str, Any], storage: Storage, names: Sequence[str]
) -> list[Report]:
    """What each node says of itself; `names` are of packages."""
    key = f".langalign-driver-{uuid.uuid4().hex}"
    storage.write_bytes(key, key.encode())
    try:
        asked = {
            node_id: (
                *(probe.versions.remote(names), probe.gpus.remote(), probe.auth_mode.remote()),
                probe.storage.remote(storage, key),
            )
            for node_id, probe in probes.items()
        }
        reports = []
        for node_id, references in asked.items():
            node = nodes[node_id]
            name = _name(node)
            versions, gpus, mode, (problem, write, read) = _answers(name, references)
            reports.append(
                Report(
                    node=name,
                    versions=versions,
                    gpus_ray=node["Resources"].get("GPU", 0),
                    gpus_seen=gpus,
                    skew_s=_skew_s(name, probes[node_id]),
                    auth_mode=mode,
                    storage_problem=problem,
                    storage_write_bytes_per_s=write,
                    storage_read_bytes_per_s=read,
                )
            )
        return reports
    finally:
        storage.delete(key)


def _name(node: dict[str, Any]) -> str:
    """Address, and the beginning of the id: several nodes of a machine have one address."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][-6:]})"


def _answers(name: str, references: Sequence[Any]) -> list[Any]:
    try:
        found: list[Any] = ray.get(list(references), timeout=ANSWER_LIMIT_S)
        return found
    except ray.exceptions.RayTaskError as error:
        cause = " ".join(str(error.cause).split())[:200]
        raise ClusterError(
            f"node {name} cannot be examined: {type(error.cause).__name__}: {cause}; start it from "
            "the image that the others have"
        ) from error
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise ClusterError(
            f"node {name} does not answer: {reason}; look at its raylet's log, and whether "
            "langalign is installed there"
        ) from error


def _skew_s(name: str, probe: Any) -> float:
    """The node's clock less this one's, from the quickest of some answers."""
    quickest, skew = float("inf"), 0.0
    for _ in range(PINGS):
        before = time.time()
        (there,) = _answers(name, [probe.now.remote()])
        taken = time.time() - before
        if taken < quickest:
            quickest, skew = taken, there - (before + taken / 2)
    return skew


def _judge_access(
    nodes: dict[str, Any], probes: dict[str, Any], reports: Sequence[Report]
) -> list[Finding]:
    """Token and dashboard: asked from the head itself, and from the others."""
    url = ray.get_runtime_context().gcs_address
    head_host = url.rpartition(":")[0]
    dashboard = ray.worker.get_dashboard_url()
    if not dashboard:
        return findings.judge_token(reports, None)
    listens_on, _, port = dashboard.rpartition(":")
    heads = [node_id for node_id, node in nodes.items() if node["NodeManagerAddress"] == head_host]
    others = [node_id for node_id in nodes if nodes[node_id]["NodeManagerAddress"] != head_host]
    status = None
    if heads:
        asked = probes[heads[0]].status_without_token.remote(f"http://{dashboard}/api/jobs/")
        (status,) = _answers(head_host, [asked])
    reached = _answers(
        "of a worker", [probes[each].reaches.remote(head_host, int(port)) for each in others]
    )
    open_to = [_name(nodes[each]) for each, yes in zip(others, reached, strict=True) if yes]
    return [
        *findings.judge_token(reports, status),
        *findings.judge_dashboard(
            f"{head_host}:{port}",
            # Ray names the node's address where it listens on all of them.
            is_on_loopback=listens_on in LOOPBACK,
            asked=len(others),
            reached_by=open_to,
        ),
    ]


def _judge_network(
    backend: str, members: Sequence[str], probes: dict[str, Any], mib: int
) -> list[Finding]:
    """An all-reduce between nodes; as fast as the slowest of their connections."""
    world = len(members)
    if world < 2:
        problem = f"{world} nodes do work: there is nothing to measure between"
        return findings.judge_bandwidth(backend, {"problem": problem, "status": "ok"})
    first = probes[members[0]]
    try:
        port = ray.get(first.free_port.remote(), timeout=ANSWER_LIMIT_S)
        address = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        meet_at = f"{address[members[0]]}:{port}"
        seconds = ray.get(
            [
                probes[member].all_reduce.remote(backend, rank, world, meet_at, mib, ROUNDS)
                for rank, member in enumerate(members)
            ],
            timeout=ANSWER_LIMIT_S,
        )
    except ray.exceptions.GetTimeoutError:
        problem = (
            f"not done in {ANSWER_LIMIT_S:.0f} s: the GPUs are busy, or the nodes do not reach "
            "each other"
        )
        return findings.judge_bandwidth(backend, {"problem": problem, "status": "warning"})
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1][:200]
        problem = (
            f"{last}; nodes must reach each other on all ports, and where a name resolves to a "
            f"wrong address, {'NCCL' if backend == 'nccl' else 'GLOO'}_SOCKET_IFNAME names the "
            "network device"
        )
        return findings.judge_bandwidth(backend, {"problem": problem, "status": "failed"})
    slowest = max(seconds)
    # Of a ring: each node sends and receives its data 2 (n-1)/n times.
    bus = 2 * (world - 1) / world * mib * 2**20 / slowest
    measured = {"bus_bytes_per_s": bus, "nodes": world, "mib": mib, "seconds": slowest}
    return findings.judge_bandwidth(backend, measured)


def _print(found: Sequence[Finding], counts: dict[str, int]) -> None:
    table = Table()
    for column in ("check", "node", "", "finding"):
        table.add_column(column, overflow="fold")
    for each in found:
        mark = f"[{COLOURS[each.status]}]{each.status}[/]"
        table.add_row(each.check, escape(each.place), mark, escape(each.text))
    console = Console()
    console.print(table)
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
