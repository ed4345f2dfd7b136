"""Errors raised on purpose, one tree, so that a caller catches what it can mend.

LangAlignError
├── ConfigError          a key, value or combination that cannot work (the jobs exit 2)
├── DataError            rows that break the schema, or a file that cannot be read
├── EncoderError         an encoder or tokenizer that cannot be loaded
├── StorageError         storage missing, refused, full or out of reach
│   └── ObjectMissing    a key that holds no object
├── ArtifactError        a model version that does not exist or cannot be published
├── IntegrityError       stored bytes whose sha256 is not the recorded one
├── TrainingError        a step that cannot go on (a loss that is not finite, a lost worker group)
├── TranslationError     a text that no translation can be had of
└── ServingError         a service that does not start, or lacks what it needs to load a model now

Every message names the value, the rule it breaks and the remedy.
"""

__all__ = [
    "ArtifactError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "EncoderError",
    "IntegrityError",
    "LangAlignError",
    "ObjectMissing",
    "ServingError",
    "StorageError",
    "TrainingError",
    "TranslationError",
]


class LangAlignError(Exception):
    """Base of every error that LangAlign raises on purpose."""


class ConfigError(LangAlignError):
    """A configuration key, value or combination that cannot work."""


class DataError(LangAlignError):
    """Rows that break the schema, or a data file that cannot be read."""


class EncoderError(LangAlignError):
    """An encoder or tokenizer that cannot be loaded."""


class StorageError(LangAlignError):
    """Storage that is missing, refuses access, is full or out of reach."""


class ObjectMissing(StorageError):
    """A key that holds no object."""


class ArtifactError(LangAlignError):
    """A model version that does not exist or cannot be published."""


class IntegrityError(LangAlignError):
    """Stored bytes whose sha256 or size differs from the recorded one.

    `folder` is the storage prefix of the step output that has to be built again, if it is one.
    """

    def __init__(self, message: str, folder: str | None = None) -> None:
        super().__init__(message)
        self.folder = folder


class TrainingError(LangAlignError):
    """A training step that cannot go on."""


class ServingError(LangAlignError):
    """A service that does not start, or lacks what it needs to load a model now."""


class ClusterError(LangAlignError):
    """A cluster or server that does not start, answer or end as it should."""


class TranslationError(LangAlignError):
    """A text that no translation can be had of."""
