"""Sums, products and quotients entry by entry, of tensors and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.numerics import HALF
from relprop.ops.base import Call, Expansion, Fact, Native, Op
from relprop.ops.cuts import step
from relprop.ops.elementwise import attach, inverse_power, known_nonneg
from relprop.ops.normalised import SMALL, Total, covers, stabilised
from relprop.ops.product import Product, gate_of, inverse_of, routed
from relprop.ops.softmax import hand_softmax
from relprop.ops.stem import chain_root, chained, common_root, link, stemmed
from relprop.ops.table import op


class Sum(Op):
    """`y = x_1 + x_2` (constants included when relevance has to be carried explicitly).

    `terms` gives every addend from the operands; `count` operands depend on the input.
    """

    family = "sum"
    degree_one = True
    kind = "sum"

    def __init__(self, factors: tuple[float, ...], constant: Tensor | float | None = None) -> None:
        self.factors, self.constant = factors, constant

    def terms(self, operands: Sequence[Tensor]) -> list[Tensor]:
        return [x if f == 1 else f * x for f, x in zip(self.factors, operands, strict=True)]

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        return rule.sum(self, operands, outputs[0] if outputs else None, gs[0], books)


def _scalar(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1


@op("add", "sub", "subtract", "rsub")
def add(call: Call) -> Op | Native:
    x, y, alpha = call.bind("input other alpha", alpha=1)
    factor_x, factor_y = 1.0, float(alpha)
    if call.name in ("sub", "subtract"):
        factor_y = -factor_y
    elif call.name == "rsub":
        factor_x, factor_y = -factor_y, 1.0
    return _sum(call, x, y, factor_x, factor_y)


def _sum(call: Call, x: Any, y: Any, factor_x: float, factor_y: float) -> Op | Native:
    if call.depends(x) and call.depends(y):
        root = common_root(call, x, y)
        if root is not None and (chained(call, x) or chained(call, y)):
            return attach(call, root)
        made = Sum((factor_x, factor_y))
        made.operands, made.run = (x, y), call.run
        nonneg = factor_x > 0 and factor_y > 0 and known_nonneg(call, x) and known_nonneg(call, y)
        shifted = factor_x == 1 and factor_y < 0
        if nonneg or shifted or root is not None:
            made.fact = Fact() if root is None else stemmed(call, Fact(), root)
            made.fact.nonneg = nonneg
            if shifted:
                made.fact.shift, known = (link(x), link(y)), call.fact(y)
                if factor_y == -1 and known is not None and known.logsum is not None and known.logsum[0].get() is x:
                    made.fact.logarithm = known.logsum
        return made
    moving, constant, f_m, f_c = (x, y, factor_x, factor_y) if call.depends(x) else (y, x, factor_y, factor_x)
    nonneg = f_m > 0 and not isinstance(constant, Tensor) and f_c * constant >= 0 and known_nonneg(call, moving)
    if chained(call, moving) and _scalar(constant):
        return attach(call, chain_root(call, moving), nonneg)
    made = Sum((f_m,), _times(constant, f_c))
    made.operands, made.run = (moving,), call.run
    made.fact = stemmed(call, Fact(), moving)
    made.fact.nonneg = nonneg
    if f_m == 1:
        if isinstance(constant, Tensor):
            made.fact.shift = (made.fact.stem[0], link(constant))
        else:
            made.fact.shift = constant
            if 0 < f_c * constant <= SMALL:
                made.fact.total = stabilised(call, moving, constant)
    return made


def _times(value: Any, factor: float) -> Any:
    return value if factor == 1 else value * factor


@op("mul", "multiply")
def mul(call: Call) -> Op | Native | Expansion:
    x, y = call.bind("input other")
    if call.depends(x) and call.depends(y):
        for e, z in ((x, y), (y, x)):
            if (known := call.fact(z)) is not None and known.over is not None and _summed(call, e, z, known.over):
                return hand_softmax(call, e, z, known.over, torch.mul)
        root = common_root(call, x, y)
        if root is not None:
            return attach(call, root, at_zero=0.0 if x is y else 1.0)
        return multiplied(call, x, y)
    moving, constant = (x, y) if call.depends(x) else (y, x)
    return _scaled(call, moving, constant)


def _scaled(call: Call, moving: Tensor, constant: Any) -> Op | Native:
    positive = isinstance(constant, (int, float)) and constant >= 0
    if chained(call, moving):
        known = call.fact(moving)
        made = attach(call, chain_root(call, moving), nonneg=positive and known_nonneg(call, moving))
        assert made.fact is not None and known is not None
        made.fact.gate, made.fact.inverse = known.gate, known.inverse
        if known.exponent is not None and covers(moving, constant):
            made.fact.exponent, made.fact.weighed = known.exponent, True
        return made
    fact, known = stemmed(call, Fact(), moving), call.fact(moving)
    if known is not None:
        fact.gate, fact.inverse, fact.nonneg = known.gate, known.inverse, positive and known.nonneg
    return Native(form="scale", fact=fact)


def multiplied(call: Call, x: Tensor, y: Tensor) -> Op | Native:
    inverse = inverse_of(call, x, y)
    if inverse is not None:
        factor, moving = call.constant((x, y)[inverse]), (y, x)[inverse]
        return Native(form="scale", run=lambda moving: torch.mul(moving, factor), operands=(moving,))
    made = Product(gate=gate_of(call, x, y))
    made.kind = "routing" if routed(call, x, y) else "product"
    made.operands, made.run = (x, y), call.run
    made.fact = Fact()
    made.fact.nonneg = known_nonneg(call, x) and known_nonneg(call, y)
    return made


@op("div", "divide", "true_divide", "rdiv")
def div(call: Call) -> Op | Native | Expansion:
    if call.kwargs.get("rounding_mode") is not None:
        return step(call)
    x, y = call.bind("input other")
    if call.name == "rdiv":
        x, y = y, x
    if call.depends(x) and call.depends(y):
        known = call.fact(y)
        if known is not None and known.total is not None and _summed(call, x, y, known.total):
            return hand_softmax(call, x, y, known.total, torch.div)
        root = common_root(call, x, y)
        if root is not None and (chained(call, x) or chained(call, y) or root is y):
            return attach(call, root)
        denominator = call.constant(y)
        fact, numerator = stemmed(call, Fact(), x), call.fact(x)
        if numerator is not None:
            fact.gate, fact.nonneg = numerator.gate, numerator.nonneg and known_nonneg(call, y)
        return Native(form="scale", run=lambda x: torch.div(x, denominator), operands=(x,), fact=fact)
    if call.depends(x):
        return _scaled(call, x, _reciprocal(y))
    return inverse_power(call, y, once=isinstance(x, (int, float)) and x == 1)


def _summed(call: Call, x: Tensor, z: Tensor, total: Total) -> bool:
    """Whether `z` has for every entry of the exponential `x` the sum that it is part of, or one over that."""
    return total.divides(x, z) and _same_exponential(call, x, total.exponential.get())


def _same_exponential(call: Call, x: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors are one, or two exponentials of one tensor."""
    if other is None or x is other:
        return x is other
    facts = call.fact(x), call.fact(other)
    roots = [f.exponent.get() for f in facts if f is not None and f.exponent is not None and not f.weighed]
    if len(roots) < 2:
        return False
    return roots[0] is not None and roots[0] is roots[1] and x.shape == other.shape


def _reciprocal(value: Any) -> Any:
    return 1 / value if isinstance(value, (int, float)) and value != 0 else value


@op("neg", "negative")
def neg(call: Call) -> Op | Native:
    x = call.args[0] if call.args else call.kwargs["input"]
    return _scaled(call, x, -1.0)


@op("addcmul")
def addcmul(call: Call) -> Expansion:
    x, u, v, value = call.bind("input tensor1 tensor2 value", value=1)
    return Expansion(lambda: x + (u * v if value == 1 else value * (u * v)))


@op("addcdiv")
def addcdiv(call: Call) -> Expansion:
    x, u, v, value = call.bind("input tensor1 tensor2 value", value=1)
    return Expansion(lambda: x + (u / v if value == 1 else value * (u / v)))


@op("lerp")
def lerp(call: Call) -> Expansion:
    x, y, weight = call.bind("input end weight")
    return Expansion(lambda: x * (1 - weight) + y * weight)


@op("glu")
def glu(call: Call) -> Expansion:
    x, dim = call.bind("input dim", dim=-1)

    def run() -> Tensor:
        u, v = (x.float() if x.dtype in HALF else x).chunk(2, dim)  # rounded once, as torch's kernel does
        return (u * torch.sigmoid(v)).to(x.dtype)

    return Expansion(run)
