"""A rule that a user derives from one of ours is given operands and result, also where ours does without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close
from tests.support.networks import ready


@dataclass(frozen=True)
class Twice(rp.Identity):
    def elementwise(self, op: Any, x: Tensor, y: Tensor | None, g: Tensor, books: Any) -> Tensor:
        assert y is not None
        books.add("excess", -(g * y).sum())
        return 2 * g * y / x


@dataclass(frozen=True)
class Thirds(rp.Half):
    def product(self, op: Any, operands: Any, z: Tensor | None, g: Tensor, books: Any) -> Any:
        assert z is not None
        x, y = operands
        return g * z / 3 / x, 2 * g * z / 3 / y


class Gated(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.function = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("function", [F.gelu, F.silu, torch.tanh], ids=lambda f: f.__name__)
def test_operands_and_result_are_there(function: Any) -> None:
    model, x = ready(Gated(function)), torch.randn(2, 4, dtype=torch.float64)
    places = ["gate", "up"]
    plain = rp.LRP(model, rp.AttnLRP()).explain(x, target=0, layers=places).layers
    mine = [(rp.Kind("activation"), Twice()), (rp.Kind("product"), Thirds())]
    derived = rp.LRP(model, mine).explain(x, target=0, layers=places).layers
    assert_close(derived["gate"], plain["gate"] * 2 * (2 / 3), 1e-12)
    assert_close(derived["up"], plain["up"] * (4 / 3), 1e-12)
