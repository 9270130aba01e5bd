"""A ReLU becomes part of its map's site only where nothing else reads the map's output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from relprop.record.nodes import NODES
from tests.support.compare import assert_close
from tests.support.networks import Cubed

READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "before": lambda z: (z * 2, F.relu(z)),
    "after": lambda z: (lambda y: (z * 2, y))(F.relu(z)),
    "by keyword": lambda z: (torch.mul(input=z, other=2), F.relu(z)),
    "in a list": lambda z: (torch.stack([z, z]).sum(0), F.relu(z)),
    "before, in place": lambda z: (z * 2, z.relu_()),
    "by a view": lambda z: (z.view_as(z) * 2, F.relu(z)),
    "out of sight": lambda z: (Cubed.apply(z), F.relu(z)),
    "out of sight, in place": lambda z: (Cubed.apply(z), F.relu(z.clone())),
}


class Net(nn.Module):
    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.read = read
        self.first, self.left, self.right = nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        other, rectified = self.read(self.first(x))
        return self.left(other) + self.right(rectified)


@pytest.mark.parametrize("preset", [rp.UniformEpsilon(), rp.ZPlus(), rp.AlphaBeta(2), rp.Gamma(0.5)], ids=str)
@pytest.mark.parametrize("reader", READERS)
def test_another_reader_keeps_the_relevance_of_what_is_negative(reader: str, preset: Any) -> None:
    """Equal to a model in which the two readers have a map each, of the same weights."""
    torch.manual_seed(0)
    shared = Net(READERS[reader]).double()
    x = torch.rand(4, 5, dtype=torch.float64)
    z = shared.first(x).detach()
    assert (z < 0).any(), "the case needs outputs that the ReLU takes away"
    NODES.register_function(Cubed, lambda node, g: g * node.saved_tensors[0] ** 2)
    try:
        found = rp.LRP(shared, preset).explain(x, target=1).relevance
        apart = rp.LRP(Apart(shared), preset).explain(x, target=1).relevance
    finally:
        NODES.forget(Cubed)
    assert_close(found, apart, rtol=1e-9)


class Apart(nn.Module):
    """The map is run twice, so that each reader has its own."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        other, _ = self.net.read(self.net.first(x))
        return self.net.left(other) + self.net.right(torch.clamp(self.net.first(x), min=0))
