"""Machines for Ray's autoscaler: `ray start` processes of this machine.

Runs inside the autoscaler, which finds it by the name in the cluster's configuration. Ray's fake
provider keeps the books; here is what starts and ends a node, in its own network namespace.
"""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from cluster.rehearsal.family import below, end_all
from cluster.rehearsal.network import Network
from cluster.rehearsal.starting import PID_SUFFIX, ray_start, resource_options

__all__ = ["LocalNodes"]

END_LIMIT_S = 10.0


class LocalNodes(FakeMultiNodeProvider):  # type: ignore[misc]
    """Starts and ends workers; `rehearsal` of the provider's section has folder and network."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._folder = Path(provider_config["rehearsal"]["folder"])
        self._network = Network(**provider_config["rehearsal"]["network"])

    def _create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        with self.lock:
            node_id = self._next_hex_node_id()
            number = self._next_node_id
            address, prefix = self._network.add(number)
            command = ray_start(
                f"--address={self._gcs_address}",
                f"--node-ip-address={address}",
                # Of its own, as on a machine of its own: a node writes the folder of a job anew
                # when it first needs it, and would take it away from under the driver.
                f"--temp-dir={self._folder / f'w{number}'}",
                *resource_options(resources),
            )
            variables = {
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id,
                "RAY_CLOUD_INSTANCE_ID": node_id,
                "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
                "RAY_OVERRIDE_LABELS": json.dumps(labels),
                **self._network.variables(number),
            }
            with (self._folder / f"worker-{number}.log").open("ab") as log:
                process = subprocess.Popen(
                    [*prefix, *command],
                    env={**os.environ, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            # Under its name when it is whole: the rehearsal may read it at any moment.
            written = self._folder / f"{node_id}.part"
            written.write_text(str(process.pid))
            written.replace(written.with_suffix(PID_SUFFIX))
            self._nodes[node_id] = {"tags": dict(tags), "process": process, "number": number}

    def _terminate_node(self, node: dict[str, Any]) -> None:
        process: subprocess.Popen[bytes] = node["process"]
        family = below(process.pid)
        # `ray start --block` ends its node in order.
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_LIMIT_S)
        end_all(family, limit_s=END_LIMIT_S)
        process.wait()
        self._network.remove(node["number"])
