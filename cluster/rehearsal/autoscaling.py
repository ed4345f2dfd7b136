"""The autoscaler's configuration of a rehearsal, as `ray up` leaves one on a head."""

from pathlib import Path
from typing import Any

from cluster.rehearsal.network import Network

__all__ = ["HEAD_NODE_ID", "HEAD_TYPE", "autoscaling_config"]

HEAD_NODE_ID = f"{0:05}".rjust(56, "f")  # as Ray's fake provider names it
HEAD_TYPE = "ray.head.default"
WORKER_TYPE = "worker"
# Sections that Ray wants in every configuration, and that say nothing where nothing is set up.
EMPTY_MAPPINGS = ("auth", "docker", "file_mounts")
EMPTY_LISTS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def autoscaling_config(
    address: str,
    folder: Path,
    network: Network,
    *,
    worker_cpus: int,
    max_workers: int,
    idle_s: float,
) -> dict[str, Any]:
    """A head without cores, and workers between none and `max_workers`.

    `address` is the head's control port, `folder` takes the workers' logs.
    """
    provider = {
        "type": "external",
        "module": "cluster.rehearsal.provider.LocalNodes",
        "gcs_address": address,
        "head_node_id": HEAD_NODE_ID,
        "launch_multiple": True,
        # There is nothing to set up on a node by SSH.
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "rehearsal": {"folder": str(folder), "network": network.settings()},
    }
    worker = {
        "resources": {"CPU": worker_cpus},
        "node_config": {},
        "min_workers": 0,
        "max_workers": max_workers,
    }
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "rehearsal",
        "max_workers": max_workers,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": provider,
        "available_node_types": {HEAD_TYPE: head, WORKER_TYPE: worker},
        "head_node_type": HEAD_TYPE,
        "file_mounts_sync_continuously": False,
        **{name: {} for name in EMPTY_MAPPINGS},
        **{name: [] for name in EMPTY_LISTS},
    }
