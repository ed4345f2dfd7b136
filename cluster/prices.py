"""What machines hold and cost: a small table with its date, for bounds and not for bills.

On-demand prices of Linux machines in USD an hour, the same in the three regions named. Before a
budget depends on them, look at https://aws.amazon.com/ec2/pricing/on-demand/. Disks, traffic and
S3 are not in them; a spot machine costs at most its on-demand price.
"""

from dataclasses import dataclass
from typing import Any

from langalign.errors import ConfigError

__all__ = [
    "MACHINES",
    "PRICES_DATE",
    "PRICES_REGIONS",
    "CostRow",
    "Machine",
    "cost_bounds",
    "cost_rows",
]

PRICES_DATE = "2026-09"
PRICES_REGIONS = ("us-east-1", "us-east-2", "us-west-2")


@dataclass(frozen=True)
class Machine:
    """One EC2 instance type: virtual CPUs, GPUs, and USD an hour on demand."""

    cpus: int
    gpus: int
    usd_per_h: float


MACHINES = {
    "m6i.xlarge": Machine(4, 0, 0.192),
    "m6i.2xlarge": Machine(8, 0, 0.384),
    "m6i.4xlarge": Machine(16, 0, 0.768),
    "c6i.4xlarge": Machine(16, 0, 0.68),
    "c6i.8xlarge": Machine(32, 0, 1.36),
    "g4dn.xlarge": Machine(4, 1, 0.526),
    "g5.xlarge": Machine(4, 1, 1.006),
    "g5.2xlarge": Machine(8, 1, 1.212),
    "g6.xlarge": Machine(4, 1, 0.8048),
    "g6.2xlarge": Machine(8, 1, 0.9776),
    "p4d.24xlarge": Machine(96, 8, 21.957642),
    "p4de.24xlarge": Machine(96, 8, 27.44705),
    "p5.48xlarge": Machine(192, 8, 55.04),
}


@dataclass(frozen=True)
class CostRow:
    """One node type: its machine, fewest and most nodes, and what one costs in USD an hour."""

    name: str
    machine: str
    is_spot: bool
    fewest: int
    most: int
    usd_per_h: float


def cost_rows(config: dict[str, Any]) -> list[CostRow]:
    """The node types of a `ray up` file, head first.

    Raises:
        ConfigError: a type names no machine, or one that the table has no price for.
    """
    head, rows = config["head_node_type"], []
    for name, node in config["available_node_types"].items():
        launch = node["node_config"]
        machine = launch.get("InstanceType")
        if machine is None:
            raise ConfigError(f"{name} has no InstanceType; name one instead of a launch template")
        if machine not in MACHINES:
            raise ConfigError(f"the price table has no {machine!r}; add it to cluster/prices.py")
        is_spot = (launch.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
        fewest = 1 if name == head else node.get("min_workers", 0)
        most = 1 if name == head else node.get("max_workers", config["max_workers"])
        price = MACHINES[machine].usd_per_h
        rows.append(CostRow(name, machine, is_spot, fewest, most, price))
    return sorted(rows, key=lambda row: row.name != head)


def cost_bounds(rows: list[CostRow], max_workers: int) -> tuple[float, float]:
    """USD an hour with the fewest workers, and with the dearest `max_workers` that may run."""
    head, workers = rows[0], rows[1:]
    least = head.usd_per_h + sum(row.fewest * row.usd_per_h for row in workers)
    most, left = least, max(0, max_workers - sum(row.fewest for row in workers))
    for row in sorted(workers, key=lambda row: -row.usd_per_h):
        count = min(row.most - row.fewest, left)
        most += count * row.usd_per_h
        left -= count
    return least, most
