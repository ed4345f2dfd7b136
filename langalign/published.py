"""The paper's own figures (arXiv 2503.18603), in points, to stand beside ours on the same data.

Read off its tables 3, 4, 9, 10 and 11. Tables 7 and 8 and figure 4 are not in the text that was at
hand. Keys are (method, aligner, pairs); values are by task rows.
"""

from collections.abc import Mapping

__all__ = ["COSINES", "SCORES", "published_score"]

Row = tuple[str, str, int | None]
_SMALL = (5_000, 10_000, 15_000, 20_000)
_ALL = (*_SMALL, 30_000, 40_000, 50_000)


def _points(sizes: tuple[int, ...], *values: float) -> dict[int, float]:
    return dict(zip(sizes, (round(100 * value, 2) for value in values), strict=True))


_SENTIMENT: dict[Row, dict[int, float]] = {
    ("english", "none", None): _points(_ALL, 0.742, 0.742, 0.747, 0.748, 0.749, 0.753, 0.754),
    ("native", "none", None): _points(_SMALL, 0.830, 0.851, 0.849, 0.857),
    ("translated", "none", None): _points(_SMALL, 0.772, 0.788, 0.782, 0.787),
    ("translated-local", "none", 20_000): _points(_SMALL, 0.680, 0.657, 0.681, 0.634),
    ("langalign", "ae", 5_000): _points(_ALL, 0.764, 0.780, 0.790, 0.797, 0.801, 0.802, 0.806),
    ("langalign", "ae", 15_000): _points(_ALL, 0.781, 0.790, 0.795, 0.803, 0.811, 0.811, 0.820),
    ("langalign", "fc", 5_000): _points(_ALL, 0.744, 0.763, 0.775, 0.779, 0.777, 0.789, 0.784),
    ("langalign", "fc", 15_000): _points(_ALL, 0.766, 0.768, 0.782, 0.795, 0.801, 0.813, 0.810),
    ("lora", "none", None): _points(_SMALL, 0.746, 0.759, 0.759, 0.753),
    ("simcse", "none", None): _points(_SMALL, 0.614, 0.541, 0.465, 0.597),
    ("rev-langalign", "ae", 5_000): _points((20_000, 50_000), 0.7489, 0.743),
    ("rev-langalign", "ae", 10_000): _points((20_000, 50_000), 0.7597, 0.757),
    ("rev-langalign", "ae", 15_000): _points((20_000, 50_000), 0.7581, 0.786),
    ("rev-langalign", "ae", 20_000): _points((20_000, 50_000), 0.766, 0.797),
    ("rev-langalign", "fc", 5_000): _points((20_000, 50_000), 0.7446, 0.734),
    ("rev-langalign", "fc", 10_000): _points((20_000, 50_000), 0.7584, 0.734),
    ("rev-langalign", "fc", 15_000): _points((20_000, 50_000), 0.7552, 0.772),
    ("rev-langalign", "fc", 20_000): _points((20_000, 50_000), 0.7619, 0.777),
}
_REVERSE_SIZES = (20_000, 50_000, 300_000)
_NLI: dict[Row, dict[int, float]] = {
    ("english", "none", None): _points(
        (*_ALL, 300_000), 0.688, 0.709, 0.713, 0.724, 0.723, 0.724, 0.731, 0.761
    ),
    ("native", "none", None): _points(_SMALL, 0.739, 0.792, 0.795, 0.812),
    ("translated", "none", None): _points(_SMALL, 0.726, 0.785, 0.766, 0.774),
    ("translated-local", "none", 20_000): _points(_SMALL, 0.614, 0.598, 0.650, 0.579),
    ("langalign", "ae", 5_000): _points(_ALL, 0.714, 0.764, 0.718, 0.783, 0.766, 0.788, 0.777),
    ("langalign", "ae", 15_000): _points(_ALL, 0.700, 0.775, 0.744, 0.756, 0.799, 0.799, 0.801),
    ("langalign", "fc", 5_000): _points(_ALL, 0.666, 0.737, 0.719, 0.736, 0.764, 0.754, 0.776),
    ("langalign", "fc", 15_000): _points(_ALL, 0.680, 0.710, 0.776, 0.762, 0.781, 0.778, 0.781),
    ("lora", "none", None): _points(_SMALL, 0.714, 0.733, 0.741, 0.738),
    ("simcse", "none", None): _points(_SMALL, 0.688, 0.701, 0.699, 0.700),
    ("rev-langalign", "ae", 5_000): _points(_REVERSE_SIZES, 0.7335, 0.7318, 0.751),
    ("rev-langalign", "ae", 10_000): _points(_REVERSE_SIZES, 0.7188, 0.7639, 0.768),
    ("rev-langalign", "ae", 15_000): _points(_REVERSE_SIZES, 0.7475, 0.7546, 0.798),
    ("rev-langalign", "ae", 20_000): _points(_REVERSE_SIZES, 0.7619, 0.7661, 0.812),
    ("rev-langalign", "fc", 5_000): _points(_REVERSE_SIZES, 0.7029, 0.7493, 0.737),
    ("rev-langalign", "fc", 10_000): _points(_REVERSE_SIZES, 0.7191, 0.7501, 0.739),
    ("rev-langalign", "fc", 15_000): _points(_REVERSE_SIZES, 0.7245, 0.7552, 0.776),
    ("rev-langalign", "fc", 20_000): _points(_REVERSE_SIZES, 0.7489, 0.752, 0.819),
}
# By the names of the studies in jobs/configs/benchmark-paper.yaml.
SCORES: Mapping[str, Mapping[Row, Mapping[int, float]]] = {"sa-ko": _SENTIMENT, "nli-ko": _NLI}

# Table 9: (measure, aligner) to the mean cosine by parallel corpus size.
COSINES: Mapping[str, Mapping[tuple[str, str], Mapping[int, float]]] = {
    "sa-ko": {
        ("before", "none"): dict(zip(_SMALL, (0.879, 0.868, 0.849, 0.887), strict=True)),
        ("moved", "ae"): dict(zip(_SMALL, (0.885, 0.881, 0.870, 0.903), strict=True)),
        ("moved", "fc"): dict(zip(_SMALL, (0.887, 0.878, 0.872, 0.903), strict=True)),
        ("after", "ae"): dict(zip(_SMALL, (0.952, 0.953, 0.948, 0.951), strict=True)),
        ("after", "fc"): dict(zip(_SMALL, (0.953, 0.942, 0.952, 0.958), strict=True)),
    },
    "nli-ko": {
        ("before", "none"): dict(zip(_SMALL, (0.889, 0.831, 0.869, 0.882), strict=True)),
        ("moved", "ae"): dict(zip(_SMALL, (0.899, 0.836, 0.887, 0.894), strict=True)),
        ("moved", "fc"): dict(zip(_SMALL, (0.883, 0.839, 0.884, 0.895), strict=True)),
        ("after", "ae"): dict(zip(_SMALL, (0.975, 0.920, 0.955, 0.961), strict=True)),
        ("after", "fc"): dict(zip(_SMALL, (0.969, 0.928, 0.954, 0.967), strict=True)),
    },
}


def published_score(
    study: str, method: str, aligner: str, pairs: int | None, rows: int
) -> float | None:
    """The paper's figure for a cell, in points; None where it gives none."""
    return SCORES.get(study, {}).get((method, aligner, pairs), {}).get(rows)
