"""Which sums are residual, and what ResLRP does there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw
from tests.reference.recipe import fill
from tests.support.compare import assert_close


def kinds(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, str]:
    plan = rp.LRP(model, rp.ResLRP()).plan(*args, **kwargs)
    return {site.label: site.kind for site in plan.sites if site.family == "sum"}


def test_every_block_of_a_residual_network() -> None:
    """Identity and projection shortcuts, in place."""
    torchvision = pytest.importorskip("torchvision")
    found = kinds(torchvision.models.resnet18(weights=None).eval(), torch.zeros(1, 3, 32, 32))
    assert len(found) == 8 and set(found.values()) == {"residual"}


@pytest.mark.parametrize("name, count", [("llama", 4), ("bert", 4), ("t5", 10), ("mamba", 2), ("swin", 8), ("opt", 4)])
def test_two_sums_a_block(name: str, count: int) -> None:
    """And neither rotations nor embeddings, biases of scores, state updates or the eps of a norm."""
    pytest.importorskip("transformers")
    from tests.transformers.zoo_models import make

    case = make(name)
    found = kinds(case.model, **case.kwargs)
    assert sum(kind == "residual" for kind in found.values()) == count


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h + torch.tanh(self.second(h))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 10.0])
def test_split_by_hand(gamma: float) -> None:
    """Addends of the sum's sign count 1 + gamma times."""
    model = fill(Block().double())
    x, r = draw(3, 5), draw(3, 5, seed=9)
    h = model.first(x).detach()
    z = model.second(h).detach()
    t = z.tanh()
    a, b = (u * (1 + gamma * (u * (h + t) > 0)) for u in (h, t))
    r_h = r * a / (a + b) + h * ((r * b / (a + b) / z) @ model.second.weight.detach())
    expected = x * ((r_h / h) @ model.first.weight.detach())
    found = rp.LRP(model, rp.ResLRP(gamma=gamma)).explain(x, target=r).relevance
    assert_close(found, expected, rtol=1e-10)


def test_residual_sums_are_sums() -> None:
    """`Kind("sum")` takes them too."""
    model = fill(Block().double())
    x, r = draw(3, 5), draw(3, 5, seed=9)
    by_sum, by_residual = (
        rp.LRP(model, rp.Composite([(rp.Kind(kind), rp.ResidualGamma(1.0))])).explain(x, target=r).relevance
        for kind in ("sum", "residual")
    )
    assert torch.equal(by_sum, by_residual)
