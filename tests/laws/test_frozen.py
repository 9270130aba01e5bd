"""Modified weights are made once while the weights are held frozen, and the results are the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop as rp


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )
    return net.double().eval()


@pytest.mark.parametrize(
    "preset", [rp.EpsilonPlus(), rp.EpsilonAlpha2Beta1(), rp.EpsilonGammaBox(-3.0, 3.0)], ids=lambda p: p.name
)
def test_frozen_gives_the_same(model: nn.Module, preset: rp.Composite) -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    lrp = rp.LRP(model, preset)
    expected = lrp.explain(x, target=1).relevance
    with lrp.frozen():
        first, second = (lrp.explain(x, target=1).relevance for _ in range(2))
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_frozen_holds_weights_and_lets_go(model: nn.Module) -> None:
    """Inside, a changed weight is not seen (that is what frozen means); outside it is."""
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    lrp = rp.LRP(model, rp.EpsilonPlus())
    with lrp.frozen():
        before = lrp.explain(x, target=1, seed="one", unknown="gradient").relevance
        with torch.no_grad():
            model[3].weight[:, :3].neg_()
        inside = lrp.explain(x, target=1, seed="one", unknown="gradient").relevance
    after = lrp.explain(x, target=1, seed="one").relevance
    assert not torch.allclose(before, after)
    assert not torch.allclose(inside, after)
