"""manifest.json of a model version: its schema, and the checks a file must pass to be in it."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open

from langalign.errors import ArtifactError, ConfigError, IntegrityError
from langalign.storage import checked_key, sha256_file

MANIFEST = "manifest.json"
RESERVED_NAMES = ("latest", "latest.json")
PICKLE_SUFFIXES = frozenset(
    (".bin", ".ckpt", ".dill", ".joblib", ".npz", ".pickle", ".pkl", ".pt", ".pth")
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PICKLE_OR_ZIP = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")  # torch.save and .npz write zips


def checked_name(name: str) -> str:
    """`name` itself if it may name a model or a version, else ArtifactError."""
    if _NAME.fullmatch(name) is None or name in RESERVED_NAMES:
        raise ArtifactError(
            f"model or version name {name!r} is not allowed: 1 to 64 of a-z 0-9 . _ -, starting "
            f"with a letter or digit, and not {' or '.join(RESERVED_NAMES)}; choose another"
        )
    return name


def _file_name(name: str) -> str:
    try:
        return checked_key(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileRecord(_Record):
    """What a stored file must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class ManifestDraft(_Record):
    """What the caller of `publish` knows about a model; publish adds the rest of the Manifest."""

    seed: int
    task: dict[str, JsonValue]
    labels: list[str] = Field(min_length=1)
    source_language: str
    target_language: str
    direction: Literal["forward", "reverse"]
    aligner: dict[str, JsonValue]
    encoder: dict[str, JsonValue]  # pooling, max_length, precision, digest, ...
    metrics: list[dict[str, JsonValue]] = Field(default_factory=list)
    parents: dict[str, str] = Field(default_factory=dict)  # step name -> digest


class Manifest(ManifestDraft):
    """The whole record of one model version; `created_at` is ISO 8601 in UTC."""

    schema_version: Literal[1] = 1
    name: str
    version: str
    created_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00$")
    files: dict[Annotated[str, AfterValidator(_file_name)], FileRecord]

    def content(self) -> dict[str, object]:
        """All but the moment of publishing: equal for two publications of the same thing."""
        return self.model_dump(exclude={"created_at"})

    def to_json(self) -> bytes:
        """The bytes of manifest.json."""
        return f"{self.model_dump_json(indent=2)}\n".encode()


def first_fault(error: ValidationError) -> str:
    """The first finding of pydantic in one line, without the input."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return ": ".join([".".join(str(part) for part in fault["loc"]) or "text", fault["msg"]])


def check_file(path: Path, name: str, record: FileRecord, place: str) -> None:
    """Compare a local file with its record; `name` is the manifest's, `place` is for messages.

    Raises IntegrityError for another size or hash, ArtifactError for a pickle.
    """
    size_bytes = path.stat().st_size
    if size_bytes != record.size_bytes:
        raise IntegrityError(
            f"{place} has {size_bytes} bytes, the manifest says {record.size_bytes}: "
            "truncated or altered; publish the model again under another version"
        )
    found = sha256_file(path)
    if found != record.sha256:
        raise IntegrityError(
            f"{place} has sha256 {found}, the manifest says {record.sha256}: "
            "altered; publish the model again under another version"
        )
    check_format(path, name, place)


def check_format(path: Path, name: str, place: str) -> None:
    """Refuse pickles, by suffix and by content, and broken safetensors, with ArtifactError."""
    suffix = Path(name).suffix.lower()
    if suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="np"):
                return
        except SafetensorError as error:
            raise ArtifactError(f"{place}: not safetensors ({error}): save it again") from error
    with path.open("rb") as file:
        start = file.read(4)
    if suffix in PICKLE_SUFFIXES or _PICKLE_OR_ZIP.match(start):
        raise ArtifactError(
            f"{place}: may hold a pickle, which can run code when loaded: save weights as "
            "safetensors and remove this file"
        )
