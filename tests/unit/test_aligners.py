"""Aligners against independent statements of the paper's listings and closed forms."""

from typing import Any, cast

import pytest
import torch
from torch import nn

from langalign.aligners import Aligner, Direction, build_aligner, fit_closed_form
from langalign.dropout import Dropout
from langalign.errors import ConfigError


class ListingFC(nn.Module):
    """Listing 1, copied from the paper's appendix A."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_dim, 1024)
        self.fc2 = nn.Linear(1024, 512)
        self.fc3 = nn.Linear(512, 256)
        self.fc4 = nn.Linear(256, 512)
        self.fc5 = nn.Linear(512, 1024)
        self.fc6 = nn.Linear(1024, output_dim)
        self.dropout = Dropout(0.5)  # torch's, but for the masks that a seed gives

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(torch.relu(self.fc1(x)))
        x = self.dropout(torch.relu(self.fc2(x)))
        x = torch.relu(self.fc3(x))
        x = self.dropout(torch.relu(self.fc4(x)))
        x = torch.relu(self.fc5(x))
        return cast(torch.Tensor, self.fc6(x))


class ListingAE(nn.Module):
    """Listing 2, with its encoder and decoder written out in one module."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, hidden_dim // 2)
        self.fc3 = nn.Linear(hidden_dim // 2, hidden_dim // 4)
        self.fc4 = nn.Linear(hidden_dim // 4, hidden_dim // 2)
        self.fc5 = nn.Linear(hidden_dim // 2, hidden_dim)
        self.fc6 = nn.Linear(hidden_dim, output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.fc1, self.fc2, self.fc3, self.fc4, self.fc5):
            x = torch.relu(layer(x))
        return cast(torch.Tensor, self.fc6(x))


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for mine, theirs in zip(target.parameters(), source.parameters(), strict=True):
            mine.copy_(theirs)


def linears(aligner: Aligner) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in aligner.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize(
    ("kind", "listing"),
    [("fc", ListingFC(768, 768)), ("ae", ListingAE(768, 512, 768))],
)
@pytest.mark.parametrize("training", [False, True])
def test_defaults_equal_the_listing(kind: str, listing: nn.Module, training: bool) -> None:
    aligner = build_aligner(kind, 768)
    assert sum(p.numel() for p in aligner.parameters()) == sum(
        p.numel() for p in listing.parameters()
    )
    copy_weights(listing, aligner)
    x = torch.randn(5, 768)
    outputs = []
    for module in (aligner, listing):
        module.train(training)
        torch.manual_seed(7)  # the same dropout mask, if dropout stands in the same places
        outputs.append(module(x))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("fc", {"depth": 1}, [(64, 64)]),
        ("fc", {"depth": 2, "hidden": 32}, [(64, 32), (32, 64)]),
        ("fc", {"depth": 4, "hidden": 32}, [(64, 32), (32, 16), (16, 32), (32, 64)]),
        (
            "fc",
            {"depth": 5, "hidden": 32},
            [(64, 32), (32, 16), (16, 16), (16, 32), (32, 64)],
        ),
        ("ae", {"depth": 1, "hidden": 32}, [(64, 32), (32, 64)]),
        ("ae", {"depth": 2, "hidden": 32}, [(64, 32), (32, 16), (16, 32), (32, 64)]),
        ("residual", {"depth": 3, "hidden": 32}, [(64, 32), (32, 32), (32, 64)]),
    ],
)
def test_depth_generalises_the_widths(
    kind: str, options: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    assert linears(build_aligner(kind, 64, **options)) == expected


def test_fc_drops_after_layers_1_2_and_4_only() -> None:
    layers = list(cast(nn.Sequential, build_aligner("fc", 768).layers))
    dropped = [
        sum(isinstance(m, nn.Linear) for m in layers[:i])
        for i, layer in enumerate(layers)
        if isinstance(layer, nn.Dropout)
    ]
    assert dropped == [1, 2, 4]
    assert {layer.p for layer in layers if isinstance(layer, nn.Dropout)} == {0.5}


def test_residual_starts_as_the_identity() -> None:
    x = torch.randn(3, 32)
    torch.testing.assert_close(build_aligner("residual", 32)(x), x)


def test_linear_recovers_an_affine_map() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(300, 16), torch.randn(16, 16), torch.randn(16)
    aligner = build_aligner("linear", 16, identity_pairs=False)
    fit_closed_form(aligner, x[:200], x[:200] @ weight + bias, (x[200:], x[200:] @ weight + bias))
    fresh = torch.randn(10, 16)
    torch.testing.assert_close(aligner(fresh), fresh @ weight + bias, atol=1e-3, rtol=1e-3)


def test_linear_shrinks_when_pairs_are_fewer_than_dimensions() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64) / 8
    x = torch.randn(400, 64)
    y = x @ weight + 0.5 * torch.randn(400, 64)
    aligner = build_aligner("linear", 64, identity_pairs=False)
    fit_closed_form(aligner, x[:70], y[:70], (x[70:120], y[70:120]))
    plain = torch.linalg.lstsq(x[:70], y[:70]).solution
    ours = (aligner(x[120:]) - y[120:]).square().mean()
    assert ours < (x[120:] @ plain - y[120:]).square().mean()


def test_linear_with_identity_pairs_keeps_its_own_space() -> None:
    torch.manual_seed(0)
    target = torch.randn(400, 8) + 3
    source = torch.cat([torch.randn(400, 8), target], dim=1)[:, :8]
    aligner = build_aligner("linear", 8)
    fit_closed_form(aligner, source, target, (source, target))
    kept = (aligner(target) - target).square().mean()
    assert kept < (aligner(source) - target).square().mean()
    assert aligner.maps_own_space


def test_procrustes_recovers_a_rotation_of_centred_unit_vectors() -> None:
    torch.manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(12, 12))
    x = nn.functional.normalize(torch.randn(200, 12), dim=-1)
    y = x @ rotation
    aligner = build_aligner("procrustes", 12)
    fit_closed_form(aligner, 5 * x, 3 * y, (x, y))
    torch.testing.assert_close(aligner(x), y, atol=1e-4, rtol=1e-4)
    found = cast(torch.Tensor, aligner.rotation)
    torch.testing.assert_close(found @ found.T, torch.eye(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["fc", "ae", "linear", "procrustes", "residual", "none"])
@pytest.mark.parametrize("identity_pairs", [True, False])
def test_which_side_passes_the_aligner(kind: str, identity_pairs: bool) -> None:
    aligner = build_aligner(kind, 16, identity_pairs=identity_pairs).eval()
    x = torch.randn(4, 16)
    mapped, kept = aligner(x), aligner.keep(x)
    forward_target = mapped if aligner.maps_own_space else kept
    cases: tuple[tuple[Direction, bool, torch.Tensor], ...] = (
        ("forward", False, mapped),
        ("forward", True, forward_target),
        ("reverse", False, kept),
        ("reverse", True, mapped),
    )
    for direction, of_target, expected in cases:
        got = aligner.head_input(x, direction=direction, of_target=of_target)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("mlp", {}, "aligner.kind='mlp'"),
        ("linear", {"dropout": 0.1}, "aligner.dropout"),
        ("procrustes", {"depth": 2}, "aligner.depth"),
        ("ae", {"depth": 9}, "aligner.depth=9"),
        ("fc", {"depth": 30}, "aligner.depth=30"),
    ],
)
def test_bad_shapes_are_named(kind: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_aligner(kind, 64, **options)


def test_procrustes_recovers_a_rotation_with_and_without_centring() -> None:
    generator = torch.Generator().manual_seed(3)
    x = nn.functional.normalize(torch.randn(60, 6, generator=generator) + 0.8, dim=-1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    for kind in ("procrustes", "procrustes-uncentred"):
        aligner = build_aligner(kind, 6)
        fit_closed_form(aligner, x, x @ rotation, (x, x @ rotation))
        torch.testing.assert_close(aligner(3 * x), x @ rotation, atol=1e-5, rtol=0)
    # A common offset is what centring takes off, and a rotation about the origin cannot.
    moved = nn.functional.normalize(x @ rotation + 2.0, dim=-1)
    errors = {}
    for kind in ("procrustes", "procrustes-uncentred"):
        aligner = build_aligner(kind, 6)
        fit_closed_form(aligner, x, moved, (x, moved))
        errors[kind] = (aligner(x) - moved).square().mean().item()
    assert errors["procrustes"] < 0.9 * errors["procrustes-uncentred"]
