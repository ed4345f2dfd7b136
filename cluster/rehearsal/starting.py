"""How a node of a rehearsal is started; on one machine, so that nodes do not meet at any port."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PID_SUFFIX", "command_of_this_python", "ray_start", "resource_options"]

# A node would take a third of the machine's memory for objects; the demo's are small.
OBJECT_STORE_BYTES = 200 * 2**20
# Resources that `ray start` has an option of its own for, and refuses in --resources.
OPTIONS = {"CPU": "--num-cpus", "GPU": "--num-gpus", "memory": "--memory"}
# A file NODE_ID.pid in the cluster's folder has the process that `ray start` of a worker is.
PID_SUFFIX = ".pid"


def command_of_this_python(name: str) -> str:
    """A command that was installed beside this Python, as `ray`."""
    return str(Path(sys.executable).with_name(name))


def ray_start(*options: str) -> list[str]:
    """`ray start --block` with the options that every node has."""
    return [
        *(command_of_this_python("ray"), "start", "--block", "--disable-usage-stats"),
        *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        *options,
    ]


def resource_options(resources: Mapping[str, float]) -> list[str]:
    """Options of `ray start` for a node of these resources; unsaid, it has no CPU and no GPU."""
    given = {"CPU": 0, "GPU": 0, **resources}
    own = {name: count for name, count in given.items() if name not in OPTIONS}
    options = [f"{option}={int(given[name])}" for name, option in OPTIONS.items() if name in given]
    return [*options, f"--resources={json.dumps(own)}"] if own else options
