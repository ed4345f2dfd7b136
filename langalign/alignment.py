"""How close the embeddings of two languages lie: every measure of alignment, in one place.

All take embeddings of parallel sentences, row i of one being the translation of row i of the
other. Shapes: N pairs, D embedding width.
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from langalign.errors import DataError

__all__ = [
    "Alignment",
    "cosine",
    "language_identifiability",
    "linear_cka",
    "measure_alignment",
    "retrieval",
]

FloatArray = npt.NDArray[np.floating]
FOLDS = 4
# Too few to fit a probe in each fold, or to say anything of a neighbour.
FEWEST_PAIRS = 8


@dataclass(frozen=True)
class Alignment:
    """Measures of one set of pairs, all in [0, 1] but `cosine`, which is in [-1, 1].

    `language_id` is the accuracy of a linear probe; 0.5 means it cannot tell the languages apart.
    """

    cosine: float
    retrieval_forward: float
    retrieval_backward: float
    cka: float
    language_id: float

    def values(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def measure_alignment(source: FloatArray, target: FloatArray) -> Alignment:
    """All measures of pairs (N, D), (N, D).

    Raises:
        DataError: fewer than 8 pairs, or sides of different length.
    """
    if len(source) != len(target) or len(source) < FEWEST_PAIRS:
        raise DataError(
            f"{len(source)} source and {len(target)} target embeddings: alignment is measured on "
            f"{FEWEST_PAIRS} pairs or more; hold out more of them"
        )
    forward, backward = retrieval(source, target)
    return Alignment(
        cosine(source, target),
        forward,
        backward,
        linear_cka(source, target),
        language_identifiability(source, target),
    )


def cosine(source: FloatArray, target: FloatArray) -> float:
    """Mean cosine similarity of the pairs (section 4.2.1)."""
    return float((_unit(source) * _unit(target)).sum(1).mean())


def retrieval(source: FloatArray, target: FloatArray) -> tuple[float, float]:
    """Share of rows whose nearest neighbour by cosine, among all N of the other side, is theirs.

    From source to target, and from target to source.
    """
    similarity = _unit(source) @ _unit(target).T
    own = np.arange(len(source))
    hits = [(similarity.argmax(axis) == own).mean() for axis in (1, 0)]
    return float(hits[0]), float(hits[1])


def linear_cka(source: FloatArray, target: FloatArray) -> float:
    """Linear centred kernel alignment (Kornblith et al., 2019, equation 3): 1 up to a rotation."""
    x = np.asarray(source, np.float64) - np.mean(source, 0, dtype=np.float64)
    y = np.asarray(target, np.float64) - np.mean(target, 0, dtype=np.float64)
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / own) if own else 0.0


def language_identifiability(source: FloatArray, target: FloatArray) -> float:
    """Accuracy of a logistic regression that tells the languages apart, cross-validated.

    Both sentences of a pair are in one fold, so that the probe cannot know the sentence.
    """
    rows = np.concatenate([source, target]).astype(np.float64)
    labels = np.repeat([0, 1], len(source))
    pairs = np.tile(np.arange(len(source)), 2)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, tol=1e-3))
    folds = GroupKFold(FOLDS)
    return float(cross_val_score(probe, rows, labels, groups=pairs, cv=folds).mean())


def _unit(rows: FloatArray) -> npt.NDArray[np.float64]:
    rows = np.asarray(rows, np.float64)
    lengths: FloatArray = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)
