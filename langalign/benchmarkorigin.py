"""What a benchmark was made with: its whole configuration, and the versions of packages."""

import platform
from functools import cache

import yaml

from langalign.benchmarkgrid import BenchmarkConfig
from langalign.jsontext import dump_json
from langalign.versions import recorded_versions

__all__ = ["CONFIG_FILE", "VERSIONS_FILE", "origin_files", "package_versions"]

CONFIG_FILE = "config.yaml"
VERSIONS_FILE = "versions.json"
# Those that numbers come from.
_PACKAGES = (
    *("ray", "torch", "transformers", "tokenizers", "peft"),
    *("numpy", "scipy", "scikit-learn", "pyarrow"),
)


@cache
def package_versions() -> dict[str, str]:
    """Of Python and of the packages that numbers come from, by name."""
    return {"python": platform.python_version()} | recorded_versions(_PACKAGES)


def origin_files(config: BenchmarkConfig) -> dict[str, bytes]:
    """The files beside a report by name; `CONFIG_FILE` with every key is a `--config` again.

    No key of a benchmark is a secret: those of services are read from the environment.
    """
    whole = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    versions = dump_json(package_versions(), indent=2)
    return {CONFIG_FILE: whole.encode(), VERSIONS_FILE: f"{versions}\n".encode()}
