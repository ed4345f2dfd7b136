"""Files that only their owner can read, also where they or their folder existed before."""

import os
from pathlib import Path

__all__ = ["private_file", "private_folder"]


def private_file(path: Path) -> Path:
    """Make an empty file that only its owner can read, or take others' rights to one that is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return path


def private_folder(path: Path) -> Path:
    """The same for a folder."""
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    return path
