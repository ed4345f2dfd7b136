"""The models in service, by name, and how their versions change while requests go on.

A new version is loaded beside the old one and checked; only then do requests go to it. What is in
service is one value per name, replaced at once: a request keeps the version it started with, and
the memory of an old version is free when its last request ends.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from langalign.artifacts import LATEST, parse_model_uri
from langalign.errors import (
    ArtifactError,
    ConfigError,
    LangAlignError,
    ServingError,
    StorageError,
)
from langalign.storage import Storage
from serve.choosing import choose_model
from serve.engine import Engine
from serve.loading import Loader, ServedModel, is_passing
from serve.release import Release, candidates, read_release, resolve
from serve.schemas import ModelCard, Refusal
from serve.smoke import SmokeSet, check, read_smoke_set
from serve.telemetry import Observer

__all__ = ["Registry", "Source", "parse_sources"]

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Source:
    """A model to serve; with a `version` other than "latest" it never changes."""

    storage: Storage
    name: str
    version: str = LATEST


@dataclass(frozen=True)
class InService:
    """The versions of one model that answer; `refused` maps versions to why they do not."""

    stable: ServedModel
    canary: ServedModel | None = None
    share: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        canary = self.canary.version if self.canary else None
        return str(Release(version=self.stable.version, canary=canary, share=self.share))


def parse_sources(models: Sequence[str], storage: str | None) -> list[Source]:
    """Sources of names under a storage, or of ROOT/models/NAME[/VERSION].

    Raises:
        ConfigError: two models with one name.
        ArtifactError: no such model, or not the address of one.
    """
    sources: dict[str, Source] = {}
    for given in models:
        uri = given if "/" in given else Storage.from_environment(storage).uri(f"models/{given}")
        source = Source(*parse_model_uri(uri))
        if source.name in sources:
            raise ConfigError(
                f"model={given}: the name {source.name} stands for another model already; "
                "publish one of them under another name"
            )
        sources[source.name] = source
    return list(sources.values())


class Registry:
    """Loads the sources and keeps them up to date; `refresh` is called by one thread at a time."""

    def __init__(
        self, sources: Sequence[Source], loader: Loader, engine: Engine, observer: Observer
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._loader = loader
        self._engine = engine
        self._observer = observer
        self._serving: dict[str, InService] = {}

    def load(self) -> None:
        """Bring every model into service.

        Where the latest version fails its checks, the newest one that passes answers.

        Raises:
            LangAlignError: a model of which no version can be served.
        """
        for source in self._sources.values():
            self._swap(source.name, self._first(source))
        self.refresh()

    def refresh(self) -> None:
        """Look for new releases and versions, once; what is wrong with them is logged."""
        for name, source in self._sources.items():
            if source.version != LATEST:
                continue
            try:
                self._swap(name, self._next(source, self._serving[name]))
            except LangAlignError as error:
                # The storage may be down, a file half edited, or memory short: serving goes on,
                # and the next look comes soon.
                logger.warning("model %s stays as it is: %s", name, error)

    def name_of(self, name: str | None, language: str) -> str:
        """The model to answer one request with.

        Raises:
            ProblemError: 404 for an unknown model, 422 for an unknown or ambiguous language.
        """
        languages = {known: item.stable.languages for known, item in self._serving.items()}
        return choose_model(name, language, languages)

    def choose(self, name: str | None, language: str) -> ServedModel:
        """The version to answer one request with.

        Raises:
            ProblemError: as for `name_of`.
        """
        serving = self._serving[self.name_of(name, language)]
        if serving.canary is not None and random.random() < serving.share:  # noqa: S311 (a share)
            return serving.canary
        return serving.stable

    def cards(self) -> list[ModelCard]:
        """What is in service, sorted by name."""
        return [_card(self._serving[name]) for name in sorted(self._serving)]

    def _first(self, source: Source) -> InService:
        if source.version != LATEST:
            smoke = read_smoke_set(source.storage, source.name)
            return InService(self._checked(source, source.version, smoke))
        release = read_release(source.storage, source.name)
        wanted = resolve(source.storage, source.name, release)
        smoke = read_smoke_set(source.storage, source.name)
        refused: dict[str, str] = {}
        for version in candidates(source.storage, source.name, wanted):
            try:
                return InService(self._checked(source, version, smoke), refused=refused)
            except (StorageError, ServingError):
                raise
            except LangAlignError as error:
                refused[version] = self._refuse(source.name, version, error)
        raise ArtifactError(
            f"model {source.name} in {source.storage.root} has no version that can be served: "
            f"{refused[wanted]}"
        )

    def _next(self, source: Source, now: InService) -> InService:
        """What is to be in service after a look at the storage."""
        release = read_release(source.storage, source.name)
        refused = dict(now.refused)
        wanted = resolve(source.storage, source.name, release)
        stable = self._either(source, wanted, now, refused) or now.stable
        canary = None
        if release.canary is not None:
            canary = self._either(source, release.canary, now, refused)
        share = release.share if canary is not None else 0.0
        return InService(stable, canary, share, refused)

    def _either(
        self, source: Source, version: str, now: InService, refused: dict[str, str]
    ) -> ServedModel | None:
        """A version that is loaded already, or loaded now; None for one that is refused."""
        for loaded in (now.stable, now.canary):
            if loaded is not None and loaded.version == version:
                return loaded
        if version in refused:
            return None
        # Read before, because a smoke set that is half edited is no fault of the version.
        smoke = read_smoke_set(source.storage, source.name)
        try:
            return self._checked(source, version, smoke, like=now.stable)
        except (StorageError, ServingError):
            raise
        except LangAlignError as error:
            refused[version] = self._refuse(source.name, version, error)
            return None

    def _checked(
        self,
        source: Source,
        version: str,
        smoke: SmokeSet | None,
        like: ServedModel | None = None,
    ) -> ServedModel:
        """A version that is fit to answer.

        Raises:
            StorageError: the storage fails, which says nothing about the version.
            ServingError: this machine does.
            LangAlignError: the version is at fault.
        """
        try:
            served = self._loader.load(source.storage, source.name, version)
            if like is not None:
                _check_same_contract(served, like)
            check(served, smoke, self._engine)
        except StorageError:
            raise
        except Exception as error:
            place = f"model {source.name} version {version}"
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if is_passing(error):
                raise ServingError(f"{place} cannot be loaded now: {reason}") from error
            if isinstance(error, LangAlignError):
                raise
            # Whole by its hashes, and yet no model: a config.json of another release, weights
            # of other shapes. Whatever it is, it must not reach the models in service.
            raise ArtifactError(f"{place} cannot be loaded: {reason}") from error
        return served

    def _swap(self, name: str, new: InService) -> None:
        """Let versions answer, and log it where they are others than before."""
        versions = str(new)
        if versions != str(self._serving.get(name)):
            # As text: a record of the log must not keep a model in memory.
            logger.info("model %s in service: %s", name, versions)
        self._serving[name] = new

    def _refuse(self, name: str, version: str, error: LangAlignError) -> str:
        logger.error("model %s version %s is refused: %s", name, version, error)
        self._observer.refused(model=name)
        return str(error)


def _check_same_contract(served: ServedModel, like: ServedModel) -> None:
    """A new version may answer better, not other questions: clients rely on what they know."""
    for what, new, known in (
        ("labels", served.model.labels, like.model.labels),
        ("languages", served.languages, like.languages),
        ("is_pair_task", served.model.is_pair_task, like.model.is_pair_task),
    ):
        if new != known:
            raise ArtifactError(
                f"model {served.name} version {served.version} has {what} {new}, and clients know "
                f"{known}; publish it under another name"
            )


def _card(serving: InService) -> ModelCard:
    served, canary = serving.stable, serving.canary
    return ModelCard(
        name=served.name,
        version=served.version,
        source_language=served.model.source_language,
        target_language=served.model.target_language,
        labels=list(served.model.labels),
        inputs="pair" if served.model.is_pair_task else "text",
        max_tokens=served.model.encoder.tokenize.max_length,
        encoder=served.encoder_digest,
        precision=served.precision,
        published_at=served.manifest.created_at,
        metrics=served.manifest.metrics,
        canary_version=canary.version if canary else None,
        canary_share=serving.share,
        refused=[Refusal(version=v, reason=reason) for v, reason in serving.refused.items()],
    )
