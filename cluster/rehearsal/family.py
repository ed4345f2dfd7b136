"""Processes below this one, those included whose own parents have died."""

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress

import psutil

from langalign.errors import ClusterError

__all__ = ["adopt_orphans", "below", "end_all", "orphans"]

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>


def adopt_orphans() -> None:
    """From now on a process below this one whose parent dies becomes this one's child.

    Ray's agents outlive their node when it is killed, and nothing else tells whose they are: they
    write their titles over their command lines and environments.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(SUBREAPER, 1, 0, 0, 0):
        raise ClusterError(f"processes cannot be followed: {os.strerror(ctypes.get_errno())}")


def below(pid: int) -> list[psutil.Process]:
    """A process and all below it; none if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def orphans(title: str, *, since: float) -> list[psutil.Process]:
    """Adopted processes, and all below them, whose titles begin so and that began after a time."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            is_one = " ".join(process.cmdline()).startswith(title)
            if is_one and process.create_time() >= since:
                found += below(process.pid)
    return found


def end_all(processes: Iterable[psutil.Process], *, limit_s: float) -> list[psutil.Process]:
    """SIGKILL, and wait; returns those that are left."""
    family = list(processes)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    left: list[psutil.Process] = psutil.wait_procs(family, timeout=limit_s)[1]
    return left
