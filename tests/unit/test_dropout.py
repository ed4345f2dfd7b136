"""Masks: their share of zeros, their scale, their independence, and whose generator gives them."""

import pytest
import torch

from langalign.dropout import Dropout, DropoutMasks

CPU = torch.device("cpu")
VALUES = 200_003  # no multiple of the four values that a word gives


def draw(*rates: float, seed: int = 0) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(rates))]
    return DropoutMasks(rates, generators, CPU).draw(VALUES)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_the_share_of_zeros_and_the_mean_is_one(rate: float) -> None:
    (mask,) = draw(rate)
    dropped = mask == 0
    assert dropped.double().mean().item() == pytest.approx(rate, abs=0.005)
    kept = mask[~dropped]
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert kept[0].item() == pytest.approx(1 / (1 - rate), rel=1e-4)
    assert mask.double().mean().item() == pytest.approx(1.0, abs=0.04)


def test_neighbours_are_independent() -> None:
    (mask,) = draw(0.5)
    dropped = (mask == 0).double()
    for distance in range(1, 9):
        both = (dropped[:-distance] * dropped[distance:]).mean().item()
        assert both == pytest.approx(0.25, abs=0.005), distance


def test_a_network_s_masks_do_not_depend_on_the_others() -> None:
    together, alone = draw(0.5, 0.0, 0.3), draw(0.5)
    assert torch.equal(together[:1], alone)
    assert torch.equal(together[1], torch.ones(VALUES))
    assert not torch.equal(together[2] == 0, together[0] == 0)


@pytest.mark.parametrize("rate", [1e-9, 1 - 1e-9])
def test_the_least_and_the_greatest_rate(rate: float) -> None:
    (mask,) = draw(rate)
    assert torch.isfinite(mask).all()
    assert (mask == 0).double().mean().item() == pytest.approx(rate, abs=1e-4)


def test_the_module_drops_while_training_only_and_by_torch_s_seed() -> None:
    layer, x = Dropout(0.5), torch.randn(3, 40, requires_grad=True)
    assert torch.equal(layer.eval()(x), x)
    layer.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(layer(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    (slope,) = torch.autograd.grad(found[0].sum(), x)
    torch.testing.assert_close(found[0], x * slope)
    assert set(slope.flatten().tolist()) == {0.0, 2.0}
