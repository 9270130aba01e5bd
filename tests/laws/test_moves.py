"""Calls that move entries pass relevance to where each came from, whatever nodes torch makes for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.networks import Of

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "rot90": lambda h: h.rot90(1, (0, 1)),
    "diag": lambda h: h.diag(),
    "unsafe_chunk": lambda h: h.unsafe_chunk(2)[1],
    "tile": lambda h: h.tile(2, 1),
    "getitem": lambda h: h[torch.tensor([2, 0])],
    "transpose": lambda h: h.transpose(0, 1),
    "take": lambda h: h.take(torch.tensor([5, 5, 1])),
}


@pytest.mark.parametrize("known", [False, True], ids=["nothing known", "known to be positive"])
@pytest.mark.parametrize("name", MOVES)
def test_relevance_follows_the_entries(name: str, known: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    x = x.abs() if known else x
    model = nn.Sequential(nn.ReLU(), Of(MOVES[name])) if known else Of(MOVES[name])
    weights = torch.randn(model(x).shape, generator=generator, dtype=torch.float64)
    found = rp.LRP(model, rp.UniformEpsilon(epsilon=0.0)).explain(x, target=lambda y: y, seed=weights * model(x))

    count = x.new_zeros(x.shape)  # every entry gets what stands where it went
    places = model(torch.arange(16, dtype=torch.float64).view(4, 4)).long().reshape(-1)
    count.view(-1).index_add_(0, places, weights.reshape(-1))
    torch.testing.assert_close(found.relevance, x * count, rtol=1e-12, atol=1e-12)
