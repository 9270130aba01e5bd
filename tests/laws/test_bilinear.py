"""`cross` and `kron`: each of two factors that depend on the input takes half, a constant one takes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close

CONST = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
Form = Callable[[Tensor, Tensor], Tensor]


def crossed(u: Tensor, v: Tensor) -> Tensor:
    """By its definition, along the last dimension."""
    i, j, k = u.unbind(-1)
    a, b, c = v.unbind(-1)
    return torch.stack([j * c - k * b, k * a - i * c, i * b - j * a], -1)


def kronecker(u: Tensor, v: Tensor) -> Tensor:
    return torch.cat([torch.cat([value * v for value in row], 1) for row in u])


FORMS: dict[str, tuple[Form, Form]] = {
    "cross": (lambda u, v: torch.cross(u, v, dim=-1), crossed),
    "cross by position": (lambda u, v: torch.cross(u, v, 1), crossed),
    "method": (lambda u, v: u.cross(v, dim=1), crossed),
    "linalg.cross": (torch.linalg.cross, crossed),
    "linalg.cross by keywords": (lambda u, v: torch.linalg.cross(input=u, other=v, dim=-1), crossed),
    "kron": (torch.kron, kronecker),
}


class Two(nn.Module):
    def __init__(self, form: Form, ends: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Linear(4, 3, bias=False).double(), nn.Linear(4, 3, bias=False).double()
        self.form, self.ends = form, ends

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left = CONST if self.ends == "right" else self.first(x)
        return left, CONST if self.ends == "left" else self.second(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.form(*self.factors(x))


@pytest.mark.parametrize("ends", ["both", "left", "right"])
@pytest.mark.parametrize("name", FORMS)
def test_bilinear(name: str, ends: str) -> None:
    call, written_out = FORMS[name]
    x = torch.randn(2, 4, dtype=torch.float64)
    model, by_hand = Two(call, ends), Two(written_out, ends)
    y = model(x).detach()
    assert_close(y, by_hand(x).detach(), 1e-12, "the two are one function")
    relevance = torch.randn_like(y)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(by_hand(leaf), leaf, relevance / y)
    wanted = x * gradient / (2 if ends == "both" else 1)
    e = rp.LRP(model, rp.Zero()).explain(x, target=relevance)
    assert_close(e.relevance, wanted, 1e-9)
    assert abs(e.audit.unexplained) < 1e-9 * float(relevance.abs().sum())


def test_they_count_as_products() -> None:
    for name in FORMS:
        plan = rp.LRP(Two(FORMS[name][0], "both"), rp.Zero()).plan(torch.randn(2, 4, dtype=torch.float64))
        assert [site.kind for site in plan.sites] == ["linear", "linear", "product"]


NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing named": lambda h: h.nan_to_num(),
    "numbers": lambda h: torch.nan_to_num(h, 0.5, 2.0, -3.0),
    "by keywords": lambda h: torch.nan_to_num(h, nan=-1.0, posinf=7.0, neginf=0.25),
    "in place": lambda h: h.clone().nan_to_num_(1.5, 1.0, -1.0),
}


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("name", NUMBERS)
def test_nan_to_num(name: str, broken: bool) -> None:
    """What is put in the place of an entry that is no number absorbs what stands on it."""
    added = torch.zeros(2, 4, dtype=torch.float64)
    if broken:
        added[0, 1], added[1, 2], added[1, 3] = torch.nan, torch.inf, -torch.inf

    class Numbers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NUMBERS[name](torch.where(added.isfinite(), x * 2.0, added))

    x, relevance = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    if name == "nothing named":
        relevance[added.isinf()] = 0.0  # the greatest number that there is
    e = rp.LRP(Numbers(), rp.Zero()).explain(x, target=relevance)
    assert_close(e.relevance, torch.where(added.isfinite(), relevance, 0.0), 1e-12)
    assert abs(e.audit.constants - float(relevance[~added.isfinite()].sum())) < 1e-10
    assert abs(e.audit.unexplained) < 1e-10
