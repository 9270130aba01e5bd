"""Entries that are written into a tensor, or added up in it: constants among them absorb their share.

Under LRP-0 relevance is input times torch's own gradient; what constants absorb is the rest, y(x) - x dy/dx, which for
a call that is affine in the input is y(0).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close

CONST = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
ROW, COLUMNS = CONST[0, :2], torch.tensor([1, 3])
PLACES = torch.tensor([[0, 1, 2], [2, 3, 0]])
MANY = torch.tensor([[0, 1, 1, 3], [2, 3, 0, 0]])
MASK = torch.tensor([[True, False, True, False], [False, True, True, False]])
PAIRS = (torch.arange(2), torch.tensor([1, 2]))

#: By another call, which gives a new tensor.
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "index_fill": lambda h: h.index_fill(1, COLUMNS, 3.0),
    "index_copy": lambda h: h.index_copy(1, COLUMNS, CONST[:, :2]),
    "index_copy into a constant": lambda h: CONST.index_copy(1, COLUMNS, h[:, :2]),
    "index_put": lambda h: h.index_put(PAIRS, ROW),
    "index_put into a constant": lambda h: CONST.index_put(PAIRS, h[:, 0]),
    "index_put that adds": lambda h: h.index_put(PAIRS, ROW, accumulate=True),
    "index_put that adds to a constant": lambda h: CONST.index_put(PAIRS, h[:, 0], True),
    "masked_scatter": lambda h: h.masked_scatter(MASK, CONST),
    "masked_scatter into a constant": lambda h: CONST.masked_scatter(MASK, h),
    "select_scatter": lambda h: h.select_scatter(CONST[:, 0], 1, 2),
    "slice_scatter": lambda h: h.slice_scatter(CONST[:, :2], 1, 0, 2),
    "slice_scatter into a constant": lambda h: CONST.slice_scatter(h[:, :2], 1, 0, 2),
    "diagonal_scatter": lambda h: h.diagonal_scatter(ROW),
    "put": lambda h: h.put(COLUMNS, ROW),
    "put that adds": lambda h: h.put(COLUMNS, ROW, accumulate=True),
    "scatter": lambda h: h.scatter(1, PLACES, CONST),
    "scatter by keywords": lambda h: h.scatter(dim=1, index=PLACES, src=CONST),
    "scatter of a number": lambda h: h.scatter(1, PLACES, 2.0),
    "scatter of a number by keyword": lambda h: h.scatter(1, PLACES, value=2.0),
    "scatter into a constant": lambda h: CONST.scatter(1, PLACES, h[:, :3].contiguous()),
    "scatter_add": lambda h: h.scatter_add(1, MANY, CONST),
    "scatter_add by keywords": lambda h: h.scatter_add(dim=1, index=MANY, src=CONST),
    "scatter_add to a constant": lambda h: CONST.scatter_add(1, MANY, h),
    "index_add": lambda h: h.index_add(1, COLUMNS, CONST[:, :2]),
    "index_add times a factor": lambda h: h.index_add(1, COLUMNS, CONST[:, :2], alpha=-2.0),
    "index_add to a constant": lambda h: CONST.index_add(1, COLUMNS, h[:, :2]),
    "scatter_reduce sum": lambda h: h.scatter_reduce(1, MANY, CONST, "sum"),
    "scatter_reduce mean into a constant": lambda h: CONST.scatter_reduce(1, MANY, h, "mean"),
    "index_reduce mean": lambda h: h.index_reduce(1, COLUMNS, CONST[:, :2], "mean"),
    "constant_pad_nd": lambda h: torch.constant_pad_nd(h[:, 1:], (1, 0), 2.0),
}
#: Of the largest or smallest.
EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "scatter_reduce amax": lambda h: h.scatter_reduce(1, MANY, CONST, "amax"),
    "scatter_reduce amax into a constant": lambda h: CONST.scatter_reduce(1, MANY, h, "amax"),
    "index_reduce amin": lambda h: h.index_reduce(1, COLUMNS, CONST[:, :2], "amin"),
    "index_reduce_ amin": lambda h: h.clone().index_reduce_(1, COLUMNS, CONST[:, :2], "amin"),
}
#: In place.
WRITES: dict[str, Callable[[Tensor], object]] = {
    "copy_": lambda h: h.copy_(CONST),
    "copy_ of a row": lambda h: h.copy_(CONST[0]),
    "fill_": lambda h: h.fill_(3.0),
    "fill_ of a tensor": lambda h: h.fill_(torch.tensor(3.0, dtype=h.dtype)),
    "zero_": lambda h: h.zero_(),
    "index_fill_": lambda h: h.index_fill_(1, COLUMNS, 3.0),
    "scatter_": lambda h: h.scatter_(1, PLACES, CONST),
    "put_": lambda h: h.put_(COLUMNS, ROW),
    "fill_diagonal_": lambda h: h.fill_diagonal_(2.0),
    "setitem": lambda h: h.__setitem__((slice(None), 1), 2.0),
}
VIEWS: dict[str, Callable[[Tensor], object]] = {
    "copy_ into a part": lambda h: h[:, :2].copy_(CONST[:, :2]),
    "fill_ of a part": lambda h: h[:, :2].fill_(2.0),
    "index_fill_ of a part": lambda h: h[:, :3].index_fill_(1, torch.tensor([1]), 2.0),
}


def written(write: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    def call(h: Tensor) -> Tensor:
        target = h.clone()
        write(target)
        return target

    return call


ALL = CALLS | EXTREMES | {name: written(write) for name, write in (WRITES | VIEWS).items()}


class Placed(nn.Module):
    """No bias: what does not reach the input is a constant's."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last, self.call = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False), call

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h + self.call(h.clone()))


@pytest.mark.filterwarnings("ignore:(index|scatter)_reduce.* is in beta")  # torch's own
@pytest.mark.parametrize(
    ("name", "create_graph"),
    [(name, False) for name in ALL] + [(name, True) for name in ALL if name not in VIEWS],  # which it refuses
)
def test_constants_that_are_written(name: str, create_graph: bool) -> None:
    model = Placed(ALL[name]).double()
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    explained = model(x)[:, 1].sum()
    (gradient,) = torch.autograd.grad(explained, x)
    rest = explained.detach() - (x * gradient).sum().detach()
    if name not in EXTREMES:
        assert rest.item() == pytest.approx(model(torch.zeros_like(x))[:, 1].sum().item(), rel=1e-10, abs=1e-12)
    assert name == "zero_" or abs(rest.item()) > 1e-3
    e = rp.LRP(model, rp.Zero()).explain(x.detach(), target=1, create_graph=create_graph)
    assert_close(e.relevance.detach(), x.detach() * gradient)
    assert e.audit.constants == pytest.approx(rest.item(), rel=1e-10, abs=1e-12)


class Unpooled(nn.Module):
    """Put back to where windows that overlap took it from."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.pool, self.unpool = getattr(F, f"max_pool{dims}d"), getattr(F, f"max_unpool{dims}d")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.unpool(*self.pool(x, 3, 2, return_indices=True), 3, 2)
        return y


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unpooled(dims: int) -> None:
    """What several windows took from one place goes back to it as one entry."""
    model, x = Unpooled(dims), torch.randn(2, 3, *[5] * dims, dtype=torch.float64)
    y = model(x)
    assert int((y != 0).sum()) < model.pool(x, 3, 2).numel(), "several are put to one place"
    relevance = torch.where(y == 0, 0.0, torch.randn_like(y))
    for create_graph in (False, True):
        e = rp.LRP(model, rp.Zero()).explain(x, target=relevance, create_graph=create_graph)
        assert_close(e.relevance.detach(), relevance, 1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unpooled_below_a_rule_that_gives_relevance_to_zeros(dims: int) -> None:
    """The zeros between are constants."""
    last = nn.Linear(3 * 5**dims, 2, bias=False).double()
    x = torch.randn(2, 3, *[5] * dims, dtype=torch.float64)
    e = rp.LRP(nn.Sequential(Unpooled(dims), nn.Flatten(), last), [(rp.Kind("linear"), rp.Flat())]).explain(x, target=0)
    y = Unpooled(dims)(x)
    each = (e.output[:, 0].detach() / last.in_features).view(2, *[1] * (dims + 1)).expand_as(y)
    assert_close(e.relevance, torch.where(y == 0, 0.0, each), 1e-8)
    assert e.audit.constants == pytest.approx(float(each[y == 0].sum()), rel=1e-8)
