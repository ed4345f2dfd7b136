"""The doctor's actor on a node: reports what is there, and takes part in an all-reduce."""

import datetime
import os
import platform
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import pairwise

import httpx2

from cluster.session import probe_storage
from langalign.errors import StorageError
from langalign.storage import Storage

__all__ = ["NodeProbe", "packages", "versions_of"]

PROJECT = "langalign-on-ray"
# Where the project is not installed, because the job brings it along.
LEAST = ("ray", "torch", "transformers")
STORAGE_BYTES = 8 * 2**20
CONNECT_LIMIT_S = 2.0
DRIVER_LIMIT_S = 30.0
JOIN_LIMIT_S = 60.0  # each imports torch first


def packages() -> list[str]:
    """Names of the packages that must be equal on all nodes: the project and what it needs."""
    try:
        needed = requires(PROJECT) or []
    except PackageNotFoundError:
        return [PROJECT, *LEAST]
    # As `ray[data,serve]<2.61,>=2.60`; a node need not have what an extra is for.
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in needed if "extra ==" not in text]
    return [PROJECT, *names]


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Versions here of Python and of these packages; `missing` where there is none."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


class NodeProbe:
    """One actor a node."""

    def now(self) -> float:
        """The node's clock."""
        return time.time()

    def versions(self, names: Iterable[str]) -> dict[str, str]:
        """As `versions_of`."""
        return versions_of(names)

    def auth_mode(self) -> str:
        """How Ray was started here; empty: not said."""
        return os.environ.get("RAY_AUTH_MODE", "")

    def gpus(self) -> list[str]:
        """Names of the GPUs that NVIDIA's driver lists; none where it fails or does not answer."""
        program = shutil.which("nvidia-smi")
        if program is None:
            return []
        command = [program, "--query-gpu=name", "--format=csv,noheader"]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=DRIVER_LIMIT_S, check=True
            )
        except (OSError, subprocess.SubprocessError):
            # The findings compare with the number that Ray was told.
            return []
        return ended.stdout.splitlines()

    def storage(self, storage: Storage, key: str) -> tuple[str, float, float]:
        """(problem, bytes a second written, read): see `probe_storage`."""
        problem = probe_storage(storage, key)
        if problem:
            return problem, 0.0, 0.0
        mine, data = f".langalign-doctor-{uuid.uuid4().hex}", os.urandom(STORAGE_BYTES)
        try:
            times = [time.monotonic()]
            storage.write_bytes(mine, data)
            times.append(time.monotonic())
            storage.read_bytes(mine)
            times.append(time.monotonic())
            storage.delete(mine)
        except StorageError as error:
            with suppress(StorageError):  # the first fault is the one to tell
                storage.delete(mine)
            return str(error), 0.0, 0.0
        written, read = (STORAGE_BYTES / (after - before) for before, after in pairwise(times))
        return "", written, read

    def status_without_token(self, url: str) -> int | None:
        """HTTP status of a GET without a token; None: nobody answers."""
        try:
            return httpx2.get(url, timeout=CONNECT_LIMIT_S).status_code
        except httpx2.HTTPError:
            return None

    def reaches(self, host: str, port: int) -> bool:
        """Whether a connection can be made."""
        try:
            with socket.create_connection((host, port), timeout=CONNECT_LIMIT_S):
                return True
        except OSError:
            return False

    def free_port(self) -> int:
        """A port for the others to meet at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def all_reduce(
        self, backend: str, rank: int, world: int, meet_at: str, mib: int, rounds: int
    ) -> float:
        """Seconds of the fastest of some all-reduces of `mib` MiB of float32.

        Raises:
            RuntimeError: the others were not reached in time.
        """
        import torch
        import torch.distributed as dist

        dist.init_process_group(
            backend,
            init_method=f"tcp://{meet_at}",
            rank=rank,
            world_size=world,
            timeout=datetime.timedelta(seconds=JOIN_LIMIT_S),
        )
        try:
            device = "cuda" if backend == "nccl" else "cpu"
            values = torch.ones(mib * 2**18, device=device)
            taken = []
            for _ in range(rounds + 1):  # the first makes connections
                start = time.monotonic()
                dist.all_reduce(values)
                if backend == "nccl":
                    torch.cuda.synchronize()
                taken.append(time.monotonic() - start)
            return min(taken[1:])
        finally:
            dist.destroy_process_group()
