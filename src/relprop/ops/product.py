"""Products of two tensors that both depend on the input: matmul, einsum, dynamic weights."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from relprop.numerics import nonzero, vjp
from relprop.ops.base import Call, Expansion, Fact, Native, Op, without_rule
from relprop.ops.cuts import step
from relprop.ops.table import op

#: The rank of a router among the gates.
ROUTER = 3


class Product(Op):
    """`z = form(x, y)`, linear in each of two tensors that both depend on the input.

    gate     which operand is the gate (0 or 1), known from where it came from, or None
    part     what each factor gets where they share equally
    left, right   the gradients with respect to x and y, from g; None where the product is element by element
    """

    family = "product"
    kind = "product"
    part: float | Tensor = 0.5

    def __init__(
        self,
        left: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        right: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        gate: int | None = None,
    ) -> None:
        self.left, self.right, self.gate = left, right, gate
        self.elementwise = left is None

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        if not self.elementwise:  # autocast may have brought the factors to a type of its own
            operands = [t if t.dtype == gs[0].dtype else t.to(gs[0].dtype) for t in operands]
        return rule.product(self, operands, outputs[0] if outputs else None, gs[0], books)


def gate_of(call: Call, x: Tensor, y: Tensor) -> int | None:
    ranks = [f.gate if (f := call.fact(t)) is not None else 0 for t in (x, y)]
    return None if ranks[0] == ranks[1] else ranks.index(max(ranks))


def inverse_of(call: Call, x: Tensor, y: Tensor) -> int | None:
    """Which operand is a negative power, and so a constant."""
    found = [i for i, t in enumerate((x, y)) if (f := call.fact(t)) is not None and f.inverse]
    return found[0] if len(found) == 1 else None


def routed(call: Call, x: Tensor, y: Tensor) -> bool:
    """Whether one factor is a router's weight: selected by value from a softmax or sigmoid."""
    return any((f := call.fact(t)) is not None and f.gate == ROUTER for t in (x, y))


def _vjp(form: Callable[..., Tensor], at: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def gradient(g: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return vjp(lambda t: form(u, t) if at else form(t, v), ((u, v)[at],), g)[0]

    return gradient


def product_of(
    call: Call, x: Tensor, y: Tensor, form: Callable[[Tensor, Tensor], Tensor], bias: Tensor | None
) -> Op | Native | Expansion:
    """`form(x, y) + bias`, linear in x and in y."""
    if bias is not None:
        return Expansion(lambda: plus(form(x, y), bias))
    inverse = inverse_of(call, x, y)
    if inverse is not None:
        fixed, moving = call.constant((x, y)[inverse]), (y, x)[inverse]
        run = (lambda y: form(fixed, y)) if inverse == 0 else (lambda x: form(x, fixed))
        return Native(form="reduce", run=run, operands=(moving,))
    if form is torch.matmul and x.ndim >= 2 and y.ndim >= 2:
        left = lambda g, u, v: torch.matmul(g, v.mH).sum_to_size(u.shape)  # noqa: E731
        right = lambda g, u, v: torch.matmul(u.mH, g).sum_to_size(v.shape)  # noqa: E731
        made = Product(left, right, gate_of(call, x, y))
    else:
        made = Product(_vjp(form, 0), _vjp(form, 1), gate_of(call, x, y))
    made.kind = "matmul"
    made.operands, made.run = (x, y), call.run
    made.fact = Fact()
    return made


def spelled_out(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """The letters of every operand and of the result: dots are letters too, and a result is always said."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    more = [x.ndim - len(t) + 3 if "..." in t else 0 for t, x in zip(terms, operands, strict=True)]
    dots = "".join([c for c in string.ascii_letters if c not in equation][: max(more)])
    if not arrow:
        out = ("..." if dots else "") + "".join(sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1))
    spelled = [t.replace("...", dots[len(dots) - n :]) for t, n in zip(terms, more, strict=True)]
    return spelled, out.replace("...", dots)


def einsum_product(call: Call, equation: str, operands: Sequence[Any]) -> Op | Native | Expansion:
    """Two or more operands depend on the input: constants are joined, three become two products."""
    if len(operands) == 2:
        return product_of(call, operands[0], operands[1], lambda u, v: torch.einsum(equation, u, v), None)
    terms, out = spelled_out(equation, operands)

    def run() -> Tensor:
        value, term = operands[0], terms[0]
        for i in range(1, len(operands)):
            rest = set("".join(terms[i + 1 :]) + out)
            keep = "".join(c for c in dict.fromkeys(term + terms[i]) if c in rest)
            last = i == len(operands) - 1
            value = torch.einsum(f"{term},{terms[i]}->{out if last else keep}", value, operands[i])
            term = keep
        return value

    return Expansion(run)


def plus(z: Tensor, bias: Tensor) -> Tensor:
    """`z + bias` as one call with the product adds it: in the type of `z`, which autocast may have chosen."""
    return z + (bias if bias.dtype == z.dtype else bias.to(z.dtype))


def dependent_linear(call: Call, a: Tensor, w: Tensor, b: Tensor | None) -> Expansion:
    """`F.linear` whose weight depends on the input (a hyper-network)."""

    def run() -> Tensor:
        z = torch.matmul(a, w.mT if w.ndim > 1 else w)
        return z if b is None else plus(z, b)

    return Expansion(run)


def kernel_form(call: Call) -> Callable[[Tensor, Tensor], Tensor]:
    """A convolution as a function of input and kernel alone."""
    rest, func = call.args[3:], call.func
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}
    return lambda u, v: func(u, v, None, *rest, **kwargs)


def dependent_conv(call: Call, a: Tensor, w: Tensor, b: Tensor | None) -> Op | Native | Expansion:
    """A convolution whose kernel depends on the input too (cross-correlation trackers, dynamic filters)."""
    form = kernel_form(call)
    if b is not None:
        tail = (1,) * (w.ndim - 2)
        return Expansion(lambda: plus(form(a, w), b.reshape(-1, *tail)))
    return product_of(call, a, w, form, None)


@op("vecdot")
def vecdot(call: Call) -> Expansion:
    x, y, dim = call.bind("x y dim", dim=-1)
    return Expansion(lambda: ((x.conj() if x.is_complex() else x) * y).sum(dim))


@op("multi_dot")
def chain(call: Call) -> Expansion:
    """One product after the other."""
    factors = call.bind("tensors")[0]
    return Expansion(lambda: reduce(torch.matmul, factors))


@op("matrix_power")
def matrix_power(call: Call) -> Op | Native | Expansion:
    x, n = call.bind("input n", input=call.kwargs.get("A"))
    if n < 0:
        raise without_rule(call, "an inverse has no rule")
    if n == 0:
        return step(call)
    return Expansion(lambda: reduce(torch.matmul, [x] * n))


@op("outer", "ger")
def outer(call: Call) -> Expansion:
    x, y = call.bind("input vec2", vec2=call.kwargs.get("other"))
    return Expansion(lambda: x.unsqueeze(-1) * y.unsqueeze(-2))


@op("cross", "kron")
def bilinear(call: Call) -> Op | Native | Expansion:
    """Linear in each of two tensors: a product of both, or native against a constant."""
    x, y = call.bind("input other")
    if not (call.depends(x) and call.depends(y)):
        return Native(form="reduce")
    func, rest = call.func, call.args[2:]
    kwargs = {k: v for k, v in call.kwargs.items() if v is not x and v is not y}
    made = product_of(call, x, y, lambda u, v: func(u, v, *rest, **kwargs), None)
    if isinstance(made, Product):
        made.kind = "product"
    return made


class Factors(Op):
    """`y = x_1 x_2 ... x_n`, along a dimension or over all: the factors are alike, so they share equally by any rule.

    part    1 / n; of a running product, for every n that there is
    form    the call as a function of x
    spread  sums up what every entry of x gets of what stands at the products
    """

    family = "product"
    kind = "product"

    def __init__(
        self, part: float | Tensor, form: Callable[[Tensor], Tensor], spread: Callable[[Tensor], Tensor]
    ) -> None:
        self.part, self.form, self.spread = part, form, spread

    def pull(
        self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor], gs: Sequence[Tensor], books: Any
    ) -> tuple[Tensor | None, ...]:
        x, g = operands[0], gs[0] * self.part
        if self.carrying:
            return (self.spread(g * nonzero(outputs[0]).conj()) / nonzero(x).conj(),)
        return (vjp(self.form, (x,), g)[0],)


@op("prod", "cumprod")
def prod(call: Call) -> Op | Expansion:
    x, dim, keepdim = call.bind("input dim keepdim", dim=None, keepdim=False)
    func, more = call.func, call.args[1:]
    rest = {k: v for k, v in call.kwargs.items() if v is not x}
    shape, count = x.shape, x.numel() if dim is None else x.shape[dim] if x.ndim else 1
    if not count:  # nothing is multiplied
        fixed = call.constant(x)
        return Expansion(lambda: func(fixed, *more, **rest))
    part: float | Tensor = 1.0 / count
    running = call.name == "cumprod"
    if running and x.ndim:
        order = torch.arange(1, count + 1, dtype=x.real.dtype, device=x.device)
        part = order.reciprocal().view([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])

    def spread(relevance: Tensor) -> Tensor:
        if running:
            return relevance.flip(dim).cumsum(dim).flip(dim) if shape else relevance
        return (relevance if dim is None or keepdim or not shape else relevance.unsqueeze(dim)).expand(shape)

    made = Factors(part, lambda x: func(x, *more, **rest), spread)
    made.operands, made.run = (x,), call.run
    made.fact, known = Fact(), call.fact(x)
    made.fact.nonneg = known is not None and known.nonneg
    return made
