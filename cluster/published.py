"""A published model, and the heads that its training run left beside it."""

from dataclasses import dataclass

from cluster.embed import ENCODER_FOLDER
from cluster.encoders import weights_digest
from cluster.prepare import DEMO
from langalign import artifacts
from langalign.errors import ArtifactError, ConfigError
from langalign.manifest import Manifest
from langalign.outputs import StepOutput, digest_of
from langalign.storage import Storage

__all__ = ["PublishedPlace", "asked_version", "find_model", "model_name", "usable_baselines"]

LATEST = "latest"
BASELINES = ("english", "omission")


@dataclass(frozen=True)
class PublishedPlace:
    """One model version: the storage it lies in, and its manifest."""

    storage: Storage
    manifest: Manifest

    @property
    def uri(self) -> str:
        """ROOT/models/NAME/VERSION."""
        return self.storage.uri(f"models/{self.manifest.name}/{self.manifest.version}")

    @property
    def method(self) -> str:
        """What the results table calls the model."""
        if self.manifest.aligner["kind"] == "none":
            return "omission"
        return "langalign" if self.manifest.direction == "forward" else "rev-langalign"

    @property
    def encoder_digest(self) -> str:
        """The `weights_digest` of the encoder in the model."""
        files = self.manifest.files.items()
        return digest_of({k: v.sha256 for k, v in files if k.startswith(f"{ENCODER_FOLDER}/")})


def find_model(storage: Storage, model: str, version: str = LATEST) -> PublishedPlace:
    """A model by its name in `storage`, or by its address ROOT/models/NAME[/VERSION].

    Raises:
        ArtifactError: it does not exist.
        ConfigError: the address and `version` name two versions.
        IntegrityError: its manifest is damaged.
    """
    place, name, wanted = storage, model, asked_version(model, version)
    if "/" in model:
        place, name, _ = artifacts.parse_model_uri(model)
    elif name == DEMO and not artifacts.list_versions(place, name):
        raise ArtifactError(f"no model {DEMO} in {place.root}: run python jobs/train.py first")
    return PublishedPlace(place, artifacts.read_manifest(place, name, wanted))


def asked_version(model: str, version: str = LATEST) -> str:
    """The version that an address or `version` names, LATEST where none does.

    Raises:
        ConfigError: they name two.
    """
    found = artifacts.parse_model_uri(model)[2] if "/" in model else LATEST
    if LATEST not in (found, version) and found != version:
        raise ConfigError(
            f"version={version}: model={model} names version {found}; give one of them"
        )
    return version if found == LATEST else found


def model_name(model: str) -> str:
    """The name in `model`, which may be an address."""
    return artifacts.parse_model_uri(model)[1] if "/" in model else model


def usable_baselines(model: PublishedPlace) -> tuple[dict[str, str], list[str]]:
    """Heads to count beside the model's, {method: step output}, and notes on those left out."""
    heads, notes = {}, []
    for method in BASELINES:
        if method == model.method:
            continue
        reason = _unusable(model, method)
        if reason:
            notes.append(f"{method}: left out, because {reason}")
        else:
            heads[method] = model.manifest.parents[method]
    return heads, notes


def _unusable(model: PublishedPlace, method: str) -> str:
    prefix = model.manifest.parents.get(method)
    if prefix is None:
        return "the training run of the model left no such head"
    output = StepOutput(model.storage, prefix)
    if not output.is_done():
        return f"{model.storage.uri(prefix)} is gone; train again to have it"
    # Step 1 leaves an encoder with its head; a head of step 3 is for the encoder of the run.
    has_encoder = any(name.startswith(f"{ENCODER_FOLDER}/") for name in output.manifest()["files"])
    read = weights_digest(output) if has_encoder else model.manifest.encoder["weights"]
    return "" if read == model.encoder_digest else "its encoder is not the model's"
