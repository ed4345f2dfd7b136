"""A cluster on this machine with everything that a real one has: `python -m cluster rehearse`."""

from pathlib import Path

__all__ = ["DEFAULT_FOLDER"]

# Where a rehearsal leaves its results.
DEFAULT_FOLDER = Path("rehearsal")
