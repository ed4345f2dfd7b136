"""The network of a rehearsal: a namespace for each worker where root allows, else loopback.

Namespaces hang on a bridge of this machine, whose address the head and the S3 store have, so that
each worker is a host of its own: its loopback is not the head's, and its cable can be pulled.
"""

import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from typing import Any

from langalign.errors import ClusterError

__all__ = ["Network", "open_network"]

GONE_LIMIT_S = 10.0


@dataclass(frozen=True)
class Network:
    """Where nodes live: addresses below `subnet` (198.18.7) on the bridge `name`, or loopback."""

    name: str = ""
    subnet: str = ""

    @property
    def has_namespaces(self) -> bool:
        """Whether each worker has a namespace."""
        return bool(self.name)

    @property
    def head(self) -> str:
        """Address of the head and of the S3 store."""
        return f"{self.subnet}.1" if self.has_namespaces else "127.0.0.1"

    def settings(self) -> dict[str, Any]:
        """What makes the same network in another process."""
        return asdict(self)

    def variables(self, number: int = 0) -> dict[str, str]:
        """Variables of the nodes of worker `number`, or of the head (0): the host's name, which
        torch.distributed would look up, is that of the whole machine."""
        device = "eth0" if number else self.name
        return {"GLOO_SOCKET_IFNAME": device} if self.has_namespaces else {}

    def create(self) -> None:
        """Make the bridge.

        Raises:
            ClusterError: this user or machine may not.
        """
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"{self.head}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def add(self, number: int) -> tuple[str, list[str]]:
        """Make the place of worker `number` (from 1); returns its address and how to run in it."""
        if not self.has_namespaces:
            return self.head, []
        space, address = f"{self.name}-{number}", f"{self.subnet}.{number + 1}"
        _ip("netns", "add", space)
        _ip("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", space, "master", self.name, "up")
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", space, "link", "set", device, "up")
        return address, [_command(), "netns", "exec", space]

    def plug(self, number: int, *, is_in: bool) -> None:
        """Put the cable of worker `number` in, or pull it."""
        _ip("link", "set", f"{self.name}-{number}", "up" if is_in else "down")

    def remove(self, number: int) -> None:
        """Delete the namespace of worker `number`, and with it the cable.

        Raises:
            ClusterError: the cable stays.
        """
        if self.has_namespaces:
            _ip("netns", "del", f"{self.name}-{number}")
            self._wait_until_gone({f"{self.name}-{number}"})

    def exists(self) -> bool:
        """Whether the bridge does."""
        return any(name == self.name for name in self._devices())

    def clear(self) -> None:
        """Delete the namespaces of all workers.

        Raises:
            ClusterError: a device stays.
        """
        if not self.has_namespaces:
            return
        names = [line.split()[0] for line in _ip("netns", "list").splitlines()]
        mine = {name for name in names if name.startswith(f"{self.name}-")}
        for space in mine:
            _ip("netns", "del", space)
        self._wait_until_gone(mine)

    def close(self) -> None:
        """Delete all of it.

        Raises:
            ClusterError: a device stays.
        """
        if self.has_namespaces:
            self.clear()
            # Also those whose namespace was deleted while a process was in it.
            of_workers = {name for name in self._devices() if name.startswith(f"{self.name}-")}
            self._wait_until_gone(of_workers)
            _ip("link", "del", self.name)

    def _wait_until_gone(self, names: set[str]) -> None:
        """The kernel takes devices away a little later than their namespace, and not at all while
        a process is in it."""
        deadline = time.monotonic() + GONE_LIMIT_S
        while left := names.intersection(self._devices()):
            if time.monotonic() > deadline:
                raise ClusterError(f"network devices are left: {', '.join(left)}")
            time.sleep(0.1)

    def _devices(self) -> list[str]:
        """Names of this machine's network devices."""
        return [line.split(":")[1].strip().split("@")[0] for line in _ip("-o", "link").splitlines()]


def open_network(number: int) -> tuple[Network, str]:
    """Namespaces if this machine allows them; else loopback, and why in words.

    `number` tells this network from others of the machine.
    """
    if not shutil.which("ip"):
        return Network(), "there is no command `ip` (iproute2)"
    # 198.18.0.0/15 is set aside for tests of networks, so no real host has such an address.
    network = Network(f"lar{number % 10_000}", f"198.18.{number % 250 + 1}")
    try:
        network.create()
        _, prefix = network.add(1)
        _run([*prefix, "true"])
        network.remove(1)
    except ClusterError as error:
        if network.exists():
            network.close()
        return Network(), str(error)
    return network, ""


def _ip(*arguments: str) -> str:
    return _run([_command(), *arguments])


def _command() -> str:
    return shutil.which("ip") or "ip"


def _run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        reason = " ".join(ended.stderr.split()) or f"status {ended.returncode}"
        raise ClusterError(f"`{' '.join(command[1:])}` failed: {reason}")
    return ended.stdout
