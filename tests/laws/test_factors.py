"""Products along a dimension: n factors share equally, and the books balance. By hand, and with zeros."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close


class Call(nn.Module):
    """A function of the input, and a dense layer of that."""

    def __init__(self, call: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.call, self.last = call, nn.Linear(width, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(x))


def spread(name: str, r: Tensor, shape: torch.Size) -> Tensor:
    """What every factor gets of the relevance at the products."""
    rows, count = shape
    if name.startswith("cumprod"):
        found = torch.zeros(shape, dtype=r.dtype)
        for k in range(count):
            for i in range(k + 1):
                found[:, i] += r[:, k] / (k + 1)
        return found
    if "all" in name:
        return (r.sum() / (rows * count)).expand(shape)
    if "rows" in name:
        return (r / rows).expand(shape)
    return (r / count).expand(shape)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "prod": lambda x: x.prod(1, keepdim=True),
    "prod, the dimension gone": lambda x: torch.prod(x, -1)[:, None],
    "prod by keywords": lambda x: torch.prod(input=x, dim=-1, keepdim=True),
    "prod of rows": lambda x: x.prod(0, keepdim=True),
    "prod of all": lambda x: x.prod()[None, None],
    "cumprod": lambda x: x.cumprod(1),
    "cumprod by keywords": lambda x: torch.cumprod(x, dim=-1),
    "cumprod_": lambda x: x.clone().cumprod_(1),
}
EQUAL = {
    "by default": rp.Composite([(rp.Kind("linear"), rp.Zero())]),
    "AttnLRP": rp.AttnLRP(),
    "CP-LRP": rp.CPLRP(),  # no factor looks more like a gate than the others
    "proportional": rp.Composite([(rp.Kind("product"), rp.Proportional())]),
}


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("composite", EQUAL)
@pytest.mark.parametrize("name", CALLS)
def test_factors_share_equally(name: str, composite: str, create_graph: bool) -> None:
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = CALLS[name](x)
    model = Call(CALLS[name], y.shape[1]).double()
    e = rp.LRP(model, EQUAL[composite]).explain(x, target=1, create_graph=create_graph)
    assert_close(e.relevance.detach(), spread(name, y * model.last.weight[1].detach(), x.shape))
    assert e.audit.unexplained_share < 1e-12 and e.audit.excess == 0


def test_by_hand() -> None:
    """y = 2 * 3 * 5 = 30, of which each factor gets 10; the running products 2, 6, 30 give 2 + 3 + 10, 3 + 10, 10."""
    x = torch.tensor([[2.0, 3.0, 5.0]], dtype=torch.float64)
    one = rp.LRP(Call(lambda x: x.prod(1, keepdim=True), 1).double(), rp.Zero())
    nn.init.ones_(one.model.last.weight)  # type: ignore[arg-type, union-attr]
    assert_close(one.explain(x, target=0).relevance, torch.tensor([[10.0, 10.0, 10.0]], dtype=torch.float64))
    running = rp.LRP(Call(lambda x: x.cumprod(1), 3).double(), rp.Zero())
    nn.init.ones_(running.model.last.weight)  # type: ignore[arg-type, union-attr]
    assert_close(running.explain(x, target=0).relevance, torch.tensor([[15.0, 13.0, 10.0]], dtype=torch.float64))


def test_two_factors_are_a_product() -> None:
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    along, plain = (
        rp.LRP(Call(call, 1).double(), rp.AttnLRP()).explain(x, target=1).relevance
        for call in (lambda x: x.prod(1, keepdim=True), lambda x: x[:, :1] * x[:, 1:])
    )
    assert_close(along, plain)


@pytest.mark.parametrize("name", CALLS)
def test_relevance_on_a_product_of_zero(name: str) -> None:
    """Under the flat rule every product has relevance, one of zero too: its factors share it equally."""
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[0, 1] = x[0, 2] = x[1, 3] = 0.0
    y = CALLS[name](x)
    model = Call(CALLS[name], y.shape[1]).double()
    relevance = torch.randn(y.shape[0], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    e = rp.LRP(model, rp.Composite([(rp.Name("last"), rp.Flat())])).explain(x, target=relevance)
    at_products = (relevance.sum(1, keepdim=True) / y.shape[1]).expand_as(y)
    assert_close(e.relevance, spread(name, at_products, x.shape))
    assert e.audit.unexplained_share < 1e-12


def test_zeros_carry_nothing_by_lrp_0() -> None:
    x = torch.tensor([[2.0, 0.0, 3.0], [2.0, 1.0, 3.0]], dtype=torch.float64)
    e = rp.LRP(Call(lambda x: x.prod(1, keepdim=True), 1).double(), rp.Zero()).explain(x, target=0)
    assert (e.relevance[0] == 0).all() and (e.relevance[1] != 0).all()
    assert e.relevance.isfinite().all()


@pytest.mark.parametrize("rule", [rp.Gradient(), rp.Constant()], ids=str)
def test_other_rules(rule: rp.Rule) -> None:
    """Its own gradient gives every factor all of it; a constant gives nothing."""
    x = torch.tensor([[2.0, 3.0, 5.0]], dtype=torch.float64)
    model = Call(lambda x: x.prod(1, keepdim=True) + x.sum(1, keepdim=True), 1).double()
    nn.init.ones_(model.last.weight)
    e = rp.LRP(model, rp.Composite([(rp.Kind("product"), rule)])).explain(x, target=0)
    times = 1.0 if isinstance(rule, rp.Gradient) else 0.0
    assert_close(e.relevance, x + 30.0 * times)
    booked = e.audit.excess if times else e.audit.constants
    assert booked == pytest.approx(-60.0 if times else 30.0)


def test_an_empty_product_is_a_constant() -> None:
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    model = Call(lambda x: x[:, :0].prod(1, keepdim=True) + x.sum(1, keepdim=True), 1).double()
    e = rp.LRP(model, rp.Zero()).explain(x, target=0)
    assert e.audit.constants == pytest.approx(model.last.weight[0].item())


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
def test_a_running_logsumexp(create_graph: bool) -> None:
    """As logsumexp: every entry by its softmax weight, the rest is excess. y_1 = x_1, y_2 = log(e^x_1 + e^x_2)."""
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    model = Call(lambda x: x.logcumsumexp(1), 2).double()
    nn.init.ones_(model.last.weight)
    e = rp.LRP(model, rp.Zero()).explain(x, target=0, create_graph=create_graph)
    p = 1 / (1 + math.exp(-1.0))  # the weight of x_2
    expected = torch.tensor([[1.0 + (1 - p), 2.0 * p]], dtype=torch.float64)
    assert_close(e.relevance.detach(), expected)
    y_2 = math.log(math.exp(1.0) + math.exp(2.0))
    assert e.audit.excess == pytest.approx(1.0 + y_2 - expected.sum().item())


MASK = torch.tensor([False, True, False, True])


def _running(x: Tensor) -> Tensor:
    return torch.stack([x[:, :1].logsumexp(1)] * 2 + [x[:, [0, 2]].logsumexp(1)] * 2, 1)


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize(
    ("masked", "plain", "width"),
    [
        (lambda x: x.logsumexp(1, keepdim=True), lambda x: x[:, [0, 2]].logsumexp(1, keepdim=True), 1),
        (lambda x: x.logcumsumexp(1), _running, 4),
    ],
    ids=["logsumexp", "logcumsumexp"],
)
def test_masked_scores(
    masked: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], width: int, create_graph: bool
) -> None:
    """A score of minus infinity is as none."""
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, expected = (
        rp.LRP(Call(call, width).double(), rp.Zero()).explain(x, target=1, create_graph=create_graph)
        for call in (lambda x: masked(x.masked_fill(MASK, -math.inf)), plain)
    )
    assert_close(found.relevance.detach(), expected.relevance.detach())
    assert found.audit.excess == pytest.approx(expected.audit.excess, rel=1e-10)


def test_everything_is_masked() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    rows = torch.tensor([[False], [True]])

    def call(x: Tensor) -> Tensor:
        return x + torch.where(rows, 0.0, x.masked_fill(rows, -math.inf).logsumexp(1, keepdim=True))

    model = Call(call, 2).double()
    e = rp.LRP(model, rp.Zero()).explain(x, target=1)
    assert_close(e.relevance[1], x[1] * model.last.weight[1].detach())
    assert e.audit.unexplained_share < 1e-12
