"""A rule that a user derives from one of ours is what its methods say, also where ours runs natively, does without
operands or result, or reads less of them."""

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


@dataclass(frozen=True)
class TwiceZero(rp.Zero):
    def linear(self, op: Any, a: Tensor, z: Tensor | None, g: Tensor, books: Any) -> Tensor:
        return 2 * op.transpose(g, op.weight, a)


@dataclass(frozen=True)
class Deepest(rp.Epsilon):
    """By what the output was, also below zero, and by the whole of the gradient."""

    def pull(self, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Any) -> Tensor:
        assert z.min() < 0 and len(g.flatten(0, -2)) == 140
        return op.transpose(g * (z > z.min()), op.weight, a)


@dataclass(frozen=True)
class Nothing(rp.WinnerTakesAll):
    def pool(self, op: Any, x: Tensor, y: Tensor, g: Tensor, books: Any) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True)
class Left(rp.Half):
    def product(self, op: Any, operands: Any, z: Tensor | None, g: Tensor, books: Any) -> Any:
        return op.left(g, *operands), None


@dataclass(frozen=True)
class NoConstant(rp.Constant):
    def elementwise(self, op: Any, x: Tensor, y: Tensor | None, g: Tensor, books: Any) -> Tensor:
        assert y is not None
        return g * y / x


def test_what_counted_as_a_constant_has_a_method() -> None:
    model, x = ready(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))), torch.randn(2, 4).double()
    found = rp.LRP(model, [(rp.Kind("activation"), NoConstant()), (rp.Kind("linear"), rp.Zero())]).explain(x, target=0)
    assert_close(found.relevance, rp.LRP(model, rp.Zero()).explain(x, target=0).relevance, 1e-12)


class Doubling:
    """A method from beside the rules."""

    linear = TwiceZero.linear


class TwiceBeside(Doubling, rp.Zero):
    pass


class TwiceAgain(TwiceBeside):
    pass


class SaysItself(TwiceZero):
    native = rp.Zero.native


@pytest.mark.parametrize("rule", [TwiceZero(), TwiceBeside(), TwiceAgain()], ids=str)
def test_a_linear_map_is_not_run_natively(rule: rp.Rule) -> None:
    model, x = ready(nn.Linear(4, 3)), torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(rp.AuditError):  # it doubles what it passes
        rp.LRP(model, rule).explain(x, target=0)
    assert rp.LRP(model, SaysItself()).explain(x, target=0).audit.balanced


@pytest.mark.parametrize("inplace", [False, True])
def test_every_row_and_sign_of_the_output_is_there(inplace: bool) -> None:
    model = ready(nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace), nn.Linear(6, 3)))
    x = torch.randn(2, 70, 4, dtype=torch.float64)
    composite = [(rp.Name("0"), Deepest()), (rp.Kind("linear"), rp.Zero())]
    found = rp.LRP(model, composite).explain(x, target=(5, 1), unknown="gradient")
    plain = rp.LRP(model, rp.Zero()).explain(x, target=(5, 1))
    assert_close(found.relevance, plain.relevance, 1e-12)


def test_a_pool_is_not_run_natively() -> None:
    model, x = ready(nn.Sequential(nn.MaxPool1d(2), nn.Linear(4, 3))), torch.randn(2, 8, dtype=torch.float64)
    with pytest.raises(rp.AuditError):
        rp.LRP(model, [(rp.Kind("pool"), Nothing()), (rp.Kind("linear"), rp.Zero())]).explain(x, target=0)


def test_a_product_of_matrices_is_not_run_natively() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x @ y).sum(-1)

    x, y = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    found = rp.LRP(Squares(), [(rp.Kind("matmul"), Left())]).explain(x, y, target=0)
    assert_close(found.relevance[0].sum(), (x @ y).sum(-1)[:, 0].sum(), 1e-12)
    assert found.relevance[1].count_nonzero() == 0
