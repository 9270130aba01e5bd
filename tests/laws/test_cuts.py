"""Rounding, signs and remainders: what is constant in pieces ends relevance, and the audit names it.

Under LRP-0 the references are input times torch's own gradient, which is zero for what is constant in pieces, and for
what constants absorb the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import relprop as rp
from tests.support.compare import assert_close

HALF = torch.full((4,), 0.5, dtype=torch.float64)

STEPS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "round": ("round", torch.round),
    "round to a decimal": ("round", lambda h: h.round(decimals=1)),
    "floor": ("floor", torch.floor),
    "ceil": ("ceil", lambda h: h.ceil()),
    "trunc": ("trunc", torch.trunc),
    "fix": ("fix", torch.fix),
    "sign": ("sign", torch.sign),
    "heaviside": ("heaviside", lambda h: torch.heaviside(h, HALF)),
    "floor_divide": ("floor_divide", lambda h: torch.floor_divide(h, 0.3)),
    "//": ("floor_divide", lambda h: h // 0.3),
    "number // tensor": ("floor_divide", lambda h: 2.0 // h),
    "div that floors": ("div", lambda h: torch.div(h, 0.3, rounding_mode="floor")),
    "div that truncates, of two": ("div", lambda h: h.div(h.cos(), rounding_mode="trunc")),
    "round_": ("round", lambda h: h.clone().round_()),
    "sign_": ("sign", lambda h: h.clone().sign_()),
    "a count": ("vector_norm", lambda h: torch.linalg.vector_norm(h, 0, -1, keepdim=True)),
    "a count by keyword": ("vector_norm", lambda h: torch.linalg.vector_norm(h, ord=0.0)),
    "a count of old": ("norm", lambda h: torch.norm(h, p=0, dim=0)),
    "a count as a method": ("norm", lambda h: h.norm(0)),
    "a power of nothing": ("matrix_power", lambda h: torch.linalg.matrix_power(h[:, :2], 0).repeat(1, 2)),
    "a count of differences": ("vector_norm", lambda h: torch.dist(h, HALF.expand_as(h), 0)),
}
REST: dict[str, Callable[[Tensor], Tensor]] = {
    "frac": torch.frac,
    "frac_": lambda h: h.clone().frac_(),
    "fmod": lambda h: torch.fmod(h, 0.4),
    "fmod_": lambda h: h.clone().fmod_(0.4),
    "remainder": lambda h: torch.remainder(input=h, other=0.4),
    "%": lambda h: h % HALF,
    "number % tensor": lambda h: 2.0 % h,
    "fmod of a number": lambda h: torch.fmod(HALF * 4, h),
    "remainder of two": lambda h: h % h.cos(),
}


def in_place(operator: str, other: float) -> Callable[[Tensor], Tensor]:
    def call(h: Tensor) -> Tensor:
        return getattr(h.clone(), operator)(other)  # type: ignore[no-any-return]

    return call


REST["%="] = in_place("__imod__", 0.4)
STEPS["//="] = ("floor_divide", in_place("__ifloordiv__", 0.4))
ALL = REST | {name: call for name, (_, call) in STEPS.items()}


def part_rounded(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, :2].round_()
    return h


class Beside(nn.Module):
    """A function of a hidden layer, added to that. No bias: what does not reach the input is a constant's."""

    def __init__(self, call: Callable[[Tensor], Tensor], around: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.call, self.around = call, around

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h + self.call(h) if self.around else self.call(h))


def picture() -> Tensor:
    return torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("name", ALL)
def test_what_is_constant_in_pieces(name: str, create_graph: bool) -> None:
    model, x = Beside(ALL[name]).double(), picture().requires_grad_()
    with torch.no_grad():
        h = model.first(x)
        explained = model(x)[:, 1].sum()
    if name in STEPS:
        expected = x.detach() * (model.last.weight[1] @ model.first.weight).detach()
    else:
        apart = h.clone().requires_grad_()  # torch has no derivative of a number % tensor
        taken = model.call(apart) if "number %" not in name else 2.0 - torch.floor(2.0 / h) * apart
        (slope,) = torch.autograd.grad((taken @ model.last.weight[1]).sum(), apart)
        if name == "remainder of two":  # cos passes by the identity rule, the quotient's whole number is constant
            whole = torch.floor(h / h.cos())
            slope = model.last.weight[1] * (1 - whole * h.cos() / h)
        expected = (x * ((model.last.weight[1] + slope) @ model.first.weight)).detach()
    e = rp.LRP(model, rp.Zero()).explain(x.detach(), target=1, create_graph=create_graph)
    assert torch.equal(e.output.detach(), model(x.detach()).detach())
    assert_close(e.relevance.detach(), expected)
    constants = (explained - expected.sum()).item()
    assert e.audit.constants == pytest.approx(constants, rel=1e-9, abs=1e-12)
    assert e.audit.cuts == ((("", STEPS[name][0]),) if name in STEPS else ())


def test_a_part_is_rounded() -> None:
    model, x = Beside(part_rounded).double(), picture()
    e = rp.LRP(model, rp.Zero()).explain(x, target=1)
    kept = torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=torch.float64)  # by the way around, and beside the part
    assert_close(e.relevance, x * ((model.last.weight[1] * kept) @ model.first.weight).detach())
    assert e.audit.cuts == (("", "round"),) and e.audit.unexplained_share < 1e-12


def test_a_sign_is_a_constant_factor() -> None:
    """h = sign(h) |h|: as if nothing were there."""
    x = picture()
    by_sign, plain = (
        rp.LRP(Beside(call, around=False).double(), rp.AttnLRP()).explain(x, target=1)
        for call in (lambda h: h.sign() * h.abs(), lambda h: h)
    )
    assert_close(by_sign.relevance, plain.relevance)
    assert str(by_sign.audit).count("cut: (model).sign") == 1


def test_rounding_passed_straight_through() -> None:
    """Training with rounding adds the step as a constant."""
    model, x = Beside(lambda h: h + (h.round() - h).detach()).double(), picture()
    e = rp.LRP(model, rp.Zero()).explain(x, target=1)
    assert_close(e.relevance, x * (2 * model.last.weight[1] @ model.first.weight).detach())
    assert e.audit.cuts == (("", "round"), ("", "detach"))


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
def test_nothing_is_left(create_graph: bool) -> None:
    with pytest.raises(rp.NoPathError, match=r"the gradient is cut at \(model\)\.round"):
        rp.LRP(Beside(torch.round, around=False).double(), rp.Zero()).explain(
            picture(), target=1, create_graph=create_graph
        )


@pytest.mark.parametrize(
    "name", ["zeros_like", "ones_like", "empty_like", "randn_like", "new_zeros", "new_ones", "new_empty"]
)
def test_who_takes_a_shape_cuts_nothing(name: str) -> None:
    def call(h: Tensor) -> Tensor:
        made = getattr(h, name)(h.shape) if name.startswith("new") else getattr(torch, name)(h)
        return h * made.fill_(2.0)

    e = rp.LRP(Beside(call).double(), rp.Zero()).explain(picture(), target=1)
    assert e.audit.cuts == ()


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(c: Any, x: Tensor) -> Tensor:
        c.save_for_backward(x)
        return nested(x, 15)

    @staticmethod
    def backward(c: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = c.saved_tensors
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 - s))


class SwishApart(torch.autograd.Function):
    """In the style whose `forward` is given no context."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return nested(x, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    backward = Swish.backward


class SwishDecorated(torch.autograd.Function):
    @staticmethod
    @torch.no_grad()
    def forward(c: Any, x: Tensor) -> Tensor:
        return Swish.forward(c, x)

    backward = Swish.backward


class SwishLater(torch.autograd.Function):
    """Computes beside its `forward`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(nested(*inputs, 3))

    @staticmethod
    def backward(c: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * c.saved_tensors[0]


def nested(x: Tensor, depth: int) -> Tensor:
    return nested(x, depth - 1) if depth else x * torch.sigmoid(x.detach())


@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("function", [Swish, SwishApart, SwishDecorated, SwishLater], ids=lambda f: f.__name__)
def test_the_body_of_a_custom_function_is_no_cut(function: Any, reentrant: bool) -> None:
    def call(h: Tensor) -> Tensor:
        return function.apply(h)  # type: ignore[no-any-return]

    def checkpointed(h: Tensor) -> Tensor:
        return checkpoint(call, h, use_reentrant=True)  # type: ignore[no-any-return]

    lrp = rp.LRP(Beside(checkpointed if reentrant else call).double())
    assert lrp.plan(picture()).cuts == ()
    assert lrp.explain(picture(), target=1, unknown="gradient").audit.cuts == ()


@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "checkpointed"])
def test_what_is_cut_beside_one_is(reentrant: bool) -> None:
    def call(h: Tensor) -> Tensor:
        kept = nested(h, 3)
        with torch.no_grad():
            return kept * h.tanh() if not reentrant else kept  # type: ignore[no-any-return]

    def checkpointed(h: Tensor) -> Tensor:
        return checkpoint(call, h, use_reentrant=True) if reentrant else call(h)  # type: ignore[no-any-return]

    found = rp.LRP(Beside(checkpointed).double()).plan(picture()).cuts
    assert found == ((("", "detach"),) if reentrant else (("", "detach"), ("", "tanh"), ("", "mul")))


def test_what_is_decorated_as_a_custom_function_is_a_cut_all_the_same() -> None:
    @torch.no_grad()
    def call(h: Tensor) -> Tensor:
        return nested(h, 3)

    assert SwishDecorated.forward.__code__ == call.__code__  # type: ignore[attr-defined]
    assert rp.LRP(Beside(call).double()).plan(picture()).cuts == (("", "detach"), ("", "mul"))
