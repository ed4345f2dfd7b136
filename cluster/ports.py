"""Ports of this machine that nothing listens on."""

import random
import socket

from langalign.errors import ClusterError

__all__ = ["free_ports", "is_free"]

# Below the ephemeral range, from which the system takes ports for connections at any moment.
RANGE = range(20_000, 22_000)


def free_ports(count: int, *, host: str = "127.0.0.1", partner_offset: int = 10_000) -> list[int]:
    """Ports that are free together with their partners, `partner_offset` above them.

    Raises:
        ClusterError: there are not as many.
    """
    found: list[int] = []
    for port in random.sample(RANGE, len(RANGE)):
        if is_free(port, host) and is_free(port + partner_offset, host):
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"fewer than {count} ports between {RANGE.start} and {RANGE.stop} are free")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
