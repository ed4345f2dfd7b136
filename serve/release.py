"""Which versions of a model answer: `models/NAME/serving.json`, and the command that writes it.

Without the file the service follows latest.json. The file pins a version, and may give a second
one, the canary, a share of the requests. Replicas look at it every `watch_s` seconds.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langalign import artifacts
from langalign.artifacts import LATEST, MODELS
from langalign.command import exit_status
from langalign.errors import ArtifactError, ConfigError, IntegrityError, ObjectMissing
from langalign.manifest import checked_name, first_fault
from langalign.storage import Storage

__all__ = [
    "Release",
    "candidates",
    "older_versions",
    "read_release",
    "release_key",
    "resolve",
    "write_canary",
    "write_rollback",
]

logger = logging.getLogger("ray.serve")

EXAMPLES = """\
examples:
  python -m serve.release pin reviews-ko v-0123456789ab     answer with this version only
  python -m serve.release canary reviews-ko v-ba9876543210 0.1
  python -m serve.release promote reviews-ko                the canary answers all requests
  python -m serve.release rollback reviews-ko               end the canary; without one, go
                                                            back to the version published before
  python -m serve.release follow reviews-ko                 follow latest.json again
  python -m serve.release show reviews-ko
"""


class Release(BaseModel):
    """What serving.json says; `version` may be "latest"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = LATEST
    canary: str | None = None
    share: float = Field(0.0, ge=0, le=1, description="of the requests, for the canary")

    def __str__(self) -> str:
        beside = f", and {self.canary} for {self.share:.1%} of requests" if self.canary else ""
        return f"{self.version}{beside}"


def release_key(name: str) -> str:
    """Storage key of a model's serving.json."""
    return f"{MODELS}/{checked_name(name)}/serving.json"


def read_release(storage: Storage, name: str) -> Release:
    """The release of a model; it follows latest.json where there is no file.

    Raises:
        ConfigError: the file breaks the schema.
        StorageError: it cannot be read now.
    """
    key = release_key(name)
    try:
        return Release.model_validate_json(storage.read_bytes(key))
    except ObjectMissing:
        return Release()
    except ValidationError as error:
        raise ConfigError(
            f"{storage.uri(key)}: {first_fault(error)}; write it with python -m serve.release"
        ) from error


def resolve(storage: Storage, name: str, release: Release) -> str:
    """The version that is to answer now, "latest" looked up; it may be damaged.

    Raises:
        ArtifactError: there is no such model or version.
    """
    return artifacts.find_version(storage, name, release.version)


def candidates(storage: Storage, name: str, version: str) -> Iterator[str]:
    """A version, and then those published before it, looked for only where it will not do."""
    yield version
    yield from older_versions(storage, name, version)


def older_versions(storage: Storage, name: str, version: str) -> list[str]:
    """Versions published before `version`, newest first, but for damaged manifests.

    Where that of `version` itself is damaged, nobody knows when it was published: every other
    one is older than the latest, and none is taken for older than another.
    """
    moments: dict[str, str] = {}
    for found in artifacts.list_versions(storage, name):
        try:
            moments[found] = artifacts.read_manifest(storage, name, found).created_at
        except (ArtifactError, ConfigError, IntegrityError) as error:
            logger.warning("model %s: version %s is passed over: %s", name, found, error)
    moment = moments.pop(version, None)
    if moment is not None:
        older = [found for found in moments if moments[found] < moment]
    else:
        older = list(moments) if version == artifacts.find_version(storage, name) else []
    return sorted(older, key=moments.__getitem__, reverse=True)


def write_pin(storage: Storage, name: str, version: str) -> Release:
    """Let one version, which must be whole, answer all requests."""
    return _write(storage, name, Release(version=artifacts.verify(storage, name, version).version))


def write_canary(storage: Storage, name: str, version: str, share: float) -> Release:
    """Give a version, which must be whole, a share of the requests beside the one serving.

    Where that very version already answers, as the latest does, the one before it takes over.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share {share} is not between 0 and 1, both excluded; give 0.1, say")
    canary = artifacts.verify(storage, name, version).version
    stable = resolve(storage, name, read_release(storage, name))
    if stable == canary:
        stable = _one_before(storage, name, canary)
    return _write(storage, name, Release(version=stable, canary=canary, share=share))


def write_promotion(storage: Storage, name: str) -> Release:
    """Let the canary answer all requests."""
    release = read_release(storage, name)
    if release.canary is None:
        raise ConfigError(f"model {name} has no canary to promote; start one with `canary`")
    return _write(storage, name, Release(version=release.canary))


def write_rollback(storage: Storage, name: str) -> Release:
    """End the canary; without one, pin the version published before the one serving."""
    release = read_release(storage, name)
    stable = resolve(storage, name, release)
    if release.canary is None:
        stable = _one_before(storage, name, stable)
    return _write(storage, name, Release(version=stable))


def write_following(storage: Storage, name: str) -> Release:
    """Follow latest.json."""
    return _write(storage, name, Release())


def _one_before(storage: Storage, name: str, version: str) -> str:
    older = older_versions(storage, name, version)
    if not older:
        raise ArtifactError(
            f"model {name} in {storage.root} has no version published before {version}; "
            "name the one you want with `pin`"
        )
    return older[0]


def _write(storage: Storage, name: str, release: Release) -> Release:
    storage.write_json(release_key(name), release.model_dump())
    return release


Verb = Literal["show", "pin", "canary", "promote", "rollback", "follow"]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 1 failed, 2 bad usage."""
    arguments = _parse(argv)
    return exit_status(lambda: _run(arguments, Storage.from_environment(arguments.storage)))


def _run(arguments: argparse.Namespace, storage: Storage) -> None:
    release = _changed(arguments, storage)
    version = resolve(storage, arguments.name, release)
    follows = f" (now {version})" if release.version == LATEST else ""
    print(f"{arguments.name}: {release}{follows}")


def _changed(arguments: argparse.Namespace, storage: Storage) -> Release:
    name: str = arguments.name
    verb: Verb = arguments.verb
    if verb == "pin":
        return write_pin(storage, name, arguments.version)
    if verb == "canary":
        return write_canary(storage, name, arguments.version, arguments.share)
    plain = {
        "show": read_release,
        "promote": write_promotion,
        "rollback": write_rollback,
        "follow": write_following,
    }
    return plain[verb](storage, name)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serve.release",
        description="Choose the versions of a model that the running service answers with.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--storage", help="folder or s3://bucket/prefix; unset: LANGALIGN_STORAGE")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("show", "pin", "canary", "promote", "rollback", "follow"):
        command = verbs.add_parser(verb)
        command.add_argument("name")
        if verb in ("pin", "canary"):
            command.add_argument("version")
        if verb == "canary":
            command.add_argument("share", type=float)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
