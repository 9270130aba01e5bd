"""Tensors put side by side: what is constant among them absorbs what stands on it, what is not takes the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close

CONST = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
CUBE, NUMBER = CONST.unsqueeze(-1).repeat(1, 1, 2), torch.tensor(2.0, dtype=torch.float64)
Join = Callable[[Tensor], Tensor]

JOINS: dict[str, Join] = {
    "cat": lambda h: torch.cat([h, CONST], -1),
    "concat": lambda h: torch.concat([CONST, h], 1),
    "concatenate": lambda h: torch.concatenate([h, CONST]),
    "stack": lambda h: torch.stack([h, CONST], 1),
    "hstack": lambda h: torch.hstack([h, CONST, h]),
    "hstack of rows": lambda h: torch.hstack((CONST[0], h[0], NUMBER)),
    "hstack by keyword": lambda h: torch.hstack(tensors=[h, CONST]),
    "vstack": lambda h: torch.vstack([CONST, h]),
    "vstack of rows": lambda h: torch.vstack([h[0], CONST]),
    "row_stack": lambda h: torch.row_stack([h, CONST[0]]),
    "dstack": lambda h: torch.dstack([h, CUBE]),
    "dstack of rows": lambda h: torch.dstack([h[0], CONST[1]]),
    "column_stack": lambda h: torch.column_stack([h, CONST[:, 0], CONST]),
    "column_stack of rows": lambda h: torch.column_stack([CONST[0], h[1]]),
    "block_diag": lambda h: torch.block_diag(CONST, h, NUMBER),
    "block_diag of rows": lambda h: torch.block_diag(h[0], CONST[0], h),
    "cartesian_prod": lambda h: torch.cartesian_prod(h[0], CONST[0], h[1]),
    "cartesian_prod of one": lambda h: torch.cartesian_prod(h[0]),
    "nothing constant in a cartesian_prod": lambda h: torch.cartesian_prod(h[0], h[1]),
    "nothing constant": lambda h: torch.block_diag(h[:1], h),
    "nothing constant in a column_stack": lambda h: torch.column_stack([h[:, 0], h]),
}


class Joined(nn.Module):
    def __init__(self, join: Join) -> None:
        super().__init__()
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x * 2.0)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("name", JOINS)
def test_joined(name: str, carried: bool) -> None:
    """Where an entry of x stands in the result is told by its value; it takes the relevance that stands there."""
    join, x = JOINS[name], torch.randn(2, 3, dtype=torch.float64)
    y = join(2.0 * x)
    relevance = torch.randn_like(y)
    relevance[y == 0] = 0.0
    wanted = torch.stack([relevance[y == 2.0 * value].sum() for value in x.flatten()]).view_as(x)

    composite = rp.Composite([(rp.Entry(rp.Kind("linear")), rp.Flat())]) if carried else rp.Zero()
    e = rp.LRP(Joined(join), composite).explain(x, target=relevance)
    assert torch.equal(e.output, y)
    assert_close(e.relevance, wanted, 1e-12)
    assert abs(e.audit.constants - float(relevance.sum() - wanted.sum())) < 1e-10
    assert abs(e.audit.unexplained) < 1e-10


def test_signs_are_known_of_what_is_joined() -> None:
    """As through a `cat`: where all parts are rectified, z-plus is the short form, which is the same."""
    torch.manual_seed(0)
    first, last = nn.Linear(3, 3).double(), nn.Linear(6, 2).double()

    class Two(nn.Module):
        def __init__(self, join: Callable[[list[Tensor]], Tensor]) -> None:
            super().__init__()
            self.first, self.last, self.join = first, last, join

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.last(self.join([h.relu(), (-h).relu()]))

    x, relevance = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    found, wanted = (
        rp.LRP(Two(join), rp.ZPlus()).explain(x, target=relevance).relevance
        for join in (torch.hstack, lambda parts: torch.cat(parts, 1))
    )
    assert_close(found, wanted, 1e-12)


def steps(z: Tensor, n: int, dim: int) -> Tensor:
    for _ in range(n):
        size = z.shape[dim]
        z = z.narrow(dim, 1, size - 1) - z.narrow(dim, 0, size - 1)
    return z


DIFFERENCES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "before": (lambda h, c: torch.diff(h, prepend=c), lambda h, c: steps(torch.cat([c, h], -1), 1, -1)),
    "after": (lambda h, c: h.diff(append=c[:, :1]), lambda h, c: steps(torch.cat([h, c[:, :1]], -1), 1, -1)),
    "both, twice": (
        lambda h, c: torch.diff(h, 2, 0, c[:1], c),
        lambda h, c: steps(torch.cat([c[:1], h, c]), 2, 0),
    ),
    "of a constant": (lambda h, c: torch.diff(c, prepend=h), lambda h, c: steps(torch.cat([h, c], -1), 1, -1)),
    "nothing constant": (lambda h, c: torch.diff(h, append=h), lambda h, c: steps(torch.cat([h, h], -1), 1, -1)),
    "nothing beside": (lambda h, c: torch.diff(h, dim=0), lambda h, c: steps(h, 1, 0)),
}


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences(name: str, carried: bool) -> None:
    """Linear in what they are taken of and in what is put before and after."""
    call, written_out = DIFFERENCES[name]
    x, c = torch.randn(2, 3, dtype=torch.float64), CONST.clone().requires_grad_()
    given = x.clone().requires_grad_()
    y = written_out(2.0 * given, c)
    relevance = torch.randn_like(y)
    to_x, to_c = torch.autograd.grad(y, (given, c), relevance / y.detach(), materialize_grads=True)

    composite = rp.Composite([(rp.Entry(rp.Kind("linear")), rp.Flat())]) if carried else rp.Zero()
    e = rp.LRP(Joined(lambda h: call(h, CONST)), composite).explain(x, target=relevance)
    assert_close(e.output, y.detach(), 1e-14)
    assert_close(e.relevance, x * to_x, 1e-9)
    assert abs(e.audit.constants - float((CONST * to_c).sum())) < 1e-9
    assert abs(e.audit.unexplained) < 1e-10
