"""A cluster of this machine with its storage, for whoever wants to try something on one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.rehearsal.network import Network, open_network
from cluster.rehearsal.nodes import LocalCluster
from cluster.s3 import BUCKET, new_identity
from cluster.seaweed import Seaweed, seaweed_ports
from langalign.storage import STORAGE_VARIABLE

__all__ = ["PREFIX", "Stage", "open_stage", "open_store", "variables_of"]

PREFIX = "storage"


@dataclass
class Stage:
    """A network, a store on it, and a cluster that may be replaced by a new one."""

    network: Network
    store: Seaweed
    project: Path
    cluster: LocalCluster

    def variables(self) -> dict[str, str]:
        """What leads a process of this machine to the store."""
        return variables_of(self.store)

    def replace(self, **options: Any) -> None:
        """End the cluster, and start another with these options of LocalCluster."""
        self.cluster.close()
        self.cluster = LocalCluster(self.network, self.variables(), project=self.project, **options)
        self.cluster.start()


def open_store(network: Network, stack: ExitStack) -> Seaweed:
    """A started store on the network; its end and the end of its data go onto the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3-")))
    ports = seaweed_ports(network.head)
    store = Seaweed(folder, [new_identity()], bucket=BUCKET, ports=ports, host=network.head)
    stack.callback(store.stop)
    store.start()
    return store


def variables_of(store: Seaweed) -> dict[str, str]:
    """Variables of a node or job that uses the store."""
    return {**store.environment(), STORAGE_VARIABLE: f"s3://{store.bucket}/{PREFIX}"}


@contextmanager
def open_stage(project: Path, *, with_namespaces: bool = True, **options: Any) -> Iterator[Stage]:
    """All of it, started; `options` are LocalCluster's."""
    with ExitStack() as stack:
        network = open_network(os.getpid())[0] if with_namespaces else Network()
        stack.callback(network.close)
        store = open_store(network, stack)
        cluster = LocalCluster(network, variables_of(store), project=project, **options)
        stage = Stage(network, store, project, cluster)
        stack.callback(lambda: stage.cluster.close())
        cluster.start()
        yield stage
