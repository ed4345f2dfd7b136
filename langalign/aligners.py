"""Aligners A(.): (B, D) sentence embeddings to (B, D), between the encoder and the task head.

`fc` and `ae` at their defaults are the paper's Listings 1 and 2 (appendix A). `linear` and
`procrustes` have closed forms and are the baselines a learned aligner has to beat; `residual` is
A(x) = x + f(x) with f starting at zero; `none` leaves embeddings alone (the omission ablation).

Shapes: B rows of a batch, N pairs, D embedding width.
"""

import itertools
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from langalign.dropout import Dropout
from langalign.errors import ConfigError

__all__ = [
    "LEARNED_KINDS",
    "Aligner",
    "AutoEncoderAligner",
    "FullyConnectedAligner",
    "LinearAligner",
    "NoAligner",
    "ProcrustesAligner",
    "ResidualAligner",
    "UncentredProcrustesAligner",
    "build_aligner",
    "deepest",
    "fit_closed_form",
]

Direction = Literal["forward", "reverse"]
LEARNED_KINDS = ("fc", "ae", "residual")
FEWEST_UNITS = 4
# Depth and widest hidden layer at their defaults: Listings 1 and 2, and ours for `residual`.
_SHAPES = {"fc": (6, 1024), "ae": (3, 512), "residual": (2, 512)}
RIDGE_STRENGTHS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


class Aligner(nn.Module):
    """Maps embeddings of one language into the embedding space of another.

    `maps_own_space` says whether A was also trained on identity pairs (section 3.2), so that an
    embedding that already lies in the output space may pass through A as well.
    """

    kind: str
    maps_own_space: bool

    def __init__(self, *, maps_own_space: bool) -> None:
        super().__init__()
        self.maps_own_space = maps_own_space

    def keep(self, x: Tensor) -> Tensor:
        """Bring embeddings (B, D) of the output space into the form A's outputs have."""
        return x

    def head_input(self, x: Tensor, *, direction: Direction, of_target: bool) -> Tensor:
        """What the task head reads for embeddings (B, D) of one language.

        Forward (section 3.2): English passes A, and target-language input passes A too where
        identity pairs taught A to keep it. Reverse (section 4.2.3): the head is trained on plain
        English embeddings and target-language input passes A.
        """
        is_mapped = of_target if direction == "reverse" else (not of_target or self.maps_own_space)
        return cast(Tensor, self(x)) if is_mapped else self.keep(x)


class FullyConnectedAligner(Aligner):
    """FC LangAlign, Listing 1: `depth` linear layers whose widths halve to the middle and return.

    ReLU between layers; dropout after every hidden layer but the narrowest and the last one,
    which for six layers is after layers 1, 2 and 4.
    """

    kind = "fc"

    def __init__(
        self,
        width: int,
        *,
        depth: int = 6,
        hidden: int = 1024,
        dropout: float = 0.5,
        maps_own_space: bool = True,
    ) -> None:
        super().__init__(maps_own_space=maps_own_space)
        inner = depth - 1
        widths = [hidden >> min(i, inner - 1 - i) for i in range(inner)]
        dropped = set(range(inner)) - {inner // 2, inner - 1}
        self.layers = _mlp([width, *widths, width], dropped_after=dropped, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return cast(Tensor, self.layers(x))


class AutoEncoderAligner(Aligner):
    """AE LangAlign, Listing 2: `depth` layers down, each half as wide, and as many up again."""

    kind = "ae"

    def __init__(
        self,
        width: int,
        *,
        depth: int = 3,
        hidden: int = 512,
        dropout: float = 0.0,
        maps_own_space: bool = True,
    ) -> None:
        super().__init__(maps_own_space=maps_own_space)
        down = [hidden >> i for i in range(depth)]
        widths = [*down, *down[-2::-1]]
        dropped = set(range(len(widths))) - {depth - 1, len(widths) - 1}
        self.layers = _mlp([width, *widths, width], dropped_after=dropped, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return cast(Tensor, self.layers(x))


class ResidualAligner(Aligner):
    """A(x) = x + f(x), f an MLP of `depth` linear layers whose last one starts at zero."""

    kind = "residual"

    def __init__(
        self,
        width: int,
        *,
        depth: int = 2,
        hidden: int = 512,
        dropout: float = 0.1,
        maps_own_space: bool = True,
    ) -> None:
        super().__init__(maps_own_space=maps_own_space)
        inner = depth - 1
        widths = [width, *[hidden] * inner, width]
        self.layers = _mlp(widths, dropped_after=set(range(inner)), dropout=dropout)
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return x + cast(Tensor, self.layers(x))


class LinearAligner(Aligner):
    """A(x) = x W + b by least squares; the ridge strength is chosen on held-out pairs."""

    kind = "linear"
    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, *, maps_own_space: bool = True) -> None:
        super().__init__(maps_own_space=maps_own_space)
        self.register_buffer("weight", torch.eye(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return x @ self.weight + self.bias

    def fit(self, source: Tensor, target: Tensor, held_out: tuple[Tensor, Tensor]) -> None:
        """Solve for W and b on pairs (N, D); `held_out` pairs choose the ridge strength."""
        x, y = source.double(), target.double()
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        eigenvalues, vectors = torch.linalg.eigh(x.T @ x)
        rotated = vectors.T @ (x.T @ y)
        floor = eigenvalues.max().clamp_min(1e-300) * 1e-12
        best = float("inf")
        for strength in RIDGE_STRENGTHS:
            damped = eigenvalues.clamp_min(0) + strength * eigenvalues.mean()
            inverse = torch.where(damped > floor, 1 / damped, 0.0)
            weight = vectors @ (inverse[:, None] * rotated)
            bias = y_mean - x_mean @ weight
            error = (held_out[0].double() @ weight + bias - held_out[1].double()).square().mean()
            if error.item() < best:
                best = error.item()
                self.weight.copy_(weight)
                self.bias.copy_(bias)


class ProcrustesAligner(Aligner):
    """Orthogonal map between unit-length, centred embeddings (as VecMap does for words).

    A rotation cannot also be the identity on its output space, so target-language embeddings
    are only brought to unit length.
    """

    kind = "procrustes"
    rotation: Tensor
    source_mean: Tensor
    target_mean: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(maps_own_space=False)
        self.register_buffer("rotation", torch.eye(width))
        self.register_buffer("source_mean", torch.zeros(width))
        self.register_buffer("target_mean", torch.zeros(width))

    def keep(self, x: Tensor) -> Tensor:
        """(B, D) to unit length."""
        return nn.functional.normalize(x, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return (self.keep(x) - self.source_mean) @ self.rotation + self.target_mean

    def fit(self, source: Tensor, target: Tensor) -> None:
        """Solve the orthogonal Procrustes problem on pairs (N, D)."""
        x, y = self.keep(source.double()), self.keep(target.double())
        x_mean, y_mean = x.mean(0), y.mean(0)
        left, _, right = torch.linalg.svd((x - x_mean).T @ (y - y_mean))
        self.rotation.copy_(left @ right)
        self.source_mean.copy_(x_mean)
        self.target_mean.copy_(y_mean)


class UncentredProcrustesAligner(ProcrustesAligner):
    """As `procrustes`, without taking the means off first: a pure rotation of unit vectors."""

    kind = "procrustes-uncentred"

    def fit(self, source: Tensor, target: Tensor) -> None:
        """Solve the orthogonal Procrustes problem on pairs (N, D)."""
        x, y = self.keep(source.double()), self.keep(target.double())
        left, _, right = torch.linalg.svd(x.T @ y)
        self.rotation.copy_(left @ right)


class NoAligner(Aligner):
    """Leaves embeddings alone: LangAlign omission (section 4.1)."""

    kind = "none"

    def __init__(self) -> None:
        super().__init__(maps_own_space=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D), unchanged."""
        return x


_LEARNED: dict[str, type[FullyConnectedAligner | AutoEncoderAligner | ResidualAligner]] = {
    "fc": FullyConnectedAligner,
    "ae": AutoEncoderAligner,
    "residual": ResidualAligner,
}
_ROTATIONS: dict[str, type[ProcrustesAligner]] = {
    "procrustes": ProcrustesAligner,
    "procrustes-uncentred": UncentredProcrustesAligner,
}


def build_aligner(
    kind: str,
    width: int,
    *,
    depth: int | None = None,
    hidden: int | None = None,
    dropout: float | None = None,
    identity_pairs: bool = True,
) -> Aligner:
    """Build an untrained aligner; what is None takes the kind's own default.

    Raises:
        ConfigError: an unknown kind, a shape option given to a kind that has none, or a depth
            that halves the hidden width to nothing.
    """
    shape = {"depth": depth, "hidden": hidden, "dropout": dropout}
    given: dict[str, Any] = {key: value for key, value in shape.items() if value is not None}
    if kind in _LEARNED:
        _check_narrowest(kind, **given)
        return _LEARNED[kind](width, maps_own_space=identity_pairs, **given)
    if given:
        raise ConfigError(
            f"aligner.{next(iter(given))} is set but aligner.kind={kind} has no such option; "
            f"leave it unset or choose one of {', '.join(_LEARNED)}"
        )
    if kind == "linear":
        return LinearAligner(width, maps_own_space=identity_pairs)
    if kind in _ROTATIONS:
        return _ROTATIONS[kind](width)
    if kind == "none":
        return NoAligner()
    raise ConfigError(
        f"aligner.kind={kind!r} is unknown; choose one of "
        f"{', '.join([*_LEARNED, 'linear', *_ROTATIONS, 'none'])}"
    )


def fit_closed_form(
    aligner: Aligner, source: Tensor, target: Tensor, held_out: tuple[Tensor, Tensor]
) -> None:
    """Fit `linear` or `procrustes` on pairs (N, D); `none` has nothing to fit.

    Identity pairs join the least-squares problem where the aligner maps its own space.
    """
    if isinstance(aligner, LinearAligner):
        if aligner.maps_own_space:
            source, target = torch.cat([source, target]), torch.cat([target, target])
            held_out = (torch.cat([held_out[0], held_out[1]]), torch.cat([held_out[1]] * 2))
        aligner.fit(source, target, held_out)
    elif isinstance(aligner, ProcrustesAligner):
        aligner.fit(source, target)


def _mlp(widths: list[int], *, dropped_after: set[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(fan_in, fan_out))
        if i < last:
            layers.append(nn.ReLU())
            if i in dropped_after and dropout > 0:
                layers.append(Dropout(dropout))
    return nn.Sequential(*layers)


def deepest(kind: str, hidden: int | None = None) -> int:
    """The largest depth whose narrowest layer still has 4 units."""
    widest = hidden or _SHAPES[kind][1]
    depth = 1
    while depth < 64 and widest >> _halvings(kind, depth + 1) >= FEWEST_UNITS:
        depth += 1
    return depth


def _halvings(kind: str, depth: int) -> int:
    return {"fc": max(0, (depth - 2) // 2), "ae": depth - 1, "residual": 0}[kind]


def _check_narrowest(
    kind: str, *, depth: int | None = None, hidden: int | None = None, dropout: float | None = None
) -> None:
    layers = depth or _SHAPES[kind][0]
    widest = hidden or _SHAPES[kind][1]
    halvings = _halvings(kind, layers)
    if widest >> halvings < FEWEST_UNITS:
        raise ConfigError(
            f"aligner.depth={layers} halves aligner.hidden={widest} {halvings} times, to fewer "
            f"than {FEWEST_UNITS} units; lower the depth or raise the width"
        )
