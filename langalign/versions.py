"""Versions that results name as what made them."""

from collections.abc import Iterable
from importlib.metadata import version

from langalign import __version__

__all__ = ["recorded_versions"]


def recorded_versions(packages: Iterable[str]) -> dict[str, str]:
    """Of the project and of installed packages, by name.

    The project's own is from its source: a job that brought it along has it without metadata.
    """
    return {"langalign-on-ray": __version__} | {name: version(name) for name in packages}
