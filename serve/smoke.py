"""The last check before a version answers requests: it has to classify a stored smoke set.

`models/NAME/smoke.json`, which its owner writes once for all versions:

    {"min_accuracy": 0.9, "rows": [{"language": "ko", "input": "정말 좋았다", "label": "positive"}]}

Without that file a few fixed texts show that the version computes at all.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langalign.artifacts import MODELS
from langalign.errors import ArtifactError, ConfigError, ObjectMissing
from langalign.manifest import first_fault
from langalign.storage import Storage
from serve.engine import Engine, Rows
from serve.inputs import columns
from serve.loading import ServedModel
from serve.schemas import PairInput

__all__ = ["SmokeRow", "SmokeSet", "check", "read_smoke_set", "smoke_key"]

FloatArray = npt.NDArray[np.float32]
FIXED_TEXTS = ("a", "1 2 3", "A longer text, with signs; and a second half.")


class SmokeRow(BaseModel):
    """One input and the label it has to get."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: str
    input: str | PairInput
    label: str


class SmokeSet(BaseModel):
    """Inputs that a version has to get right, but for a share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_accuracy: float = Field(1.0, ge=0, le=1)
    rows: list[SmokeRow] = Field(min_length=1, max_length=1000)


def smoke_key(name: str) -> str:
    """Storage key of a model's smoke set."""
    return f"{MODELS}/{name}/smoke.json"


def read_smoke_set(storage: Storage, name: str) -> SmokeSet | None:
    """The stored smoke set, None where there is none.

    Raises:
        ConfigError: the file breaks the schema.
    """
    key = smoke_key(name)
    try:
        return SmokeSet.model_validate_json(storage.read_bytes(key))
    except ObjectMissing:
        return None
    except ValidationError as error:
        raise ConfigError(f"{storage.uri(key)}: {first_fault(error)}; mend the file") from error


def check(served: ServedModel, smoke: SmokeSet | None, engine: Engine) -> None:
    """Classify the smoke set.

    Raises:
        ArtifactError: a result is not finite, a language is unknown, or too few rows are right.
        DataError: a row is a text where the model wants pairs, or the other way round.
    """
    place = f"model {served.name} version {served.version}"
    if smoke is None:
        fixed: Sequence[str | PairInput] = FIXED_TEXTS
        if served.model.is_pair_task:
            fixed = [PairInput(premise=text, hypothesis=text) for text in FIXED_TEXTS]
        _classify(served, served.model.target_language, fixed, engine)
        return
    right = 0
    for language in sorted({row.language for row in smoke.rows}):
        rows = [row for row in smoke.rows if row.language == language]
        if language not in served.languages:
            raise ArtifactError(f"{place} does not know {language!r}, a language of its smoke set")
        probabilities = _classify(served, language, [row.input for row in rows], engine)
        found = [served.model.labels[best] for best in probabilities.argmax(1)]
        right += sum(label == row.label for label, row in zip(found, rows, strict=True))
    accuracy = right / len(smoke.rows)
    if accuracy < smoke.min_accuracy:
        raise ArtifactError(
            f"{place} gets {right} of the {len(smoke.rows)} rows of its smoke set right, "
            f"{accuracy:.3f}, and needs {smoke.min_accuracy}; publish a better version"
        )


def _classify(
    served: ServedModel, language: str, inputs: Sequence[str | PairInput], engine: Engine
) -> FloatArray:
    texts, pairs = columns(inputs, is_pair_task=served.model.is_pair_task)
    tokens = served.model.encoder.tokenize(texts, pairs)
    of_target = language == served.model.target_language
    (probabilities,) = engine.run([Rows(served.model, of_target, tokens)])
    if not np.isfinite(probabilities).all():
        raise ArtifactError(
            f"model {served.name} version {served.version} gives probabilities that are not finite"
        )
    return probabilities
