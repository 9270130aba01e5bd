"""Elementwise functions `y = f(x)`: activations, chains written out by hand, constants added and multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.numerics import HALF
from relprop.ops.base import Call, Expansion, Fact, Kept, Native, Op
from relprop.ops.cuts import step
from relprop.ops.normalised import SMALL, stabilised
from relprop.ops.stem import chain_root, chained, common_root, link, stemmed
from relprop.ops.table import op


class Elementwise(Op):
    """`y = f(x)` element by element.

    degree_one   f(t x) = t f(x) for t > 0: the native gradient already carries the relevance
    at_zero      the limit of f(x)/x at 0, where f(0) = 0
    ratio        f(x)/x in closed form, where one is known: then `y` need not be kept
    quotient     f(x)/x from x and y, where it is formed in the forward and kept instead of both
    """

    family = "elementwise"
    kind = "activation"
    quotient: Callable[[Tensor, Tensor], Tensor] | None = None

    def __init__(
        self,
        name: str,
        degree_one: bool = False,
        at_zero: float = 1.0,
        ratio: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.name, self.degree_one, self.at_zero, self.ratio = name, degree_one, at_zero, ratio

    def keep(self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor]) -> Kept:
        if self.quotient is not None and rule.by_quotient and not self.carrying:
            return (self.quotient(operands[0], outputs[0]),), (None,)
        return super().keep(rule, operands, outputs)

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        return (rule.elementwise(self, operands[0], outputs[0] if outputs else None, gs[0], books),)


#: Functions without a degree: (limit of f(x)/x at 0, f(x) >= 0).
_FUNCTIONS: dict[str, tuple[float, bool]] = {
    "gelu": (0.5, False), "silu": (0.5, False), "mish": (0.6, False), "hardswish": (0.5, False),
    "tanh": (1.0, False), "sigmoid": (1.0, True), "expit": (1.0, True), "hardsigmoid": (1.0, True),
    "softplus": (1.0, True), "logsigmoid": (1.0, False), "relu6": (1.0, True), "hardtanh": (1.0, False),
    "elu": (1.0, False), "selu": (1.0507009873554805, False), "celu": (1.0, False), "softsign": (1.0, False),
    "tanhshrink": (0.0, False), "hardshrink": (0.0, False), "softshrink": (0.0, False), "threshold": (1.0, False),
    "erf": (1.1283791670955126, False), "erfc": (1.0, True), "sin": (1.0, False), "cos": (1.0, False),
    "tan": (1.0, False), "sinh": (1.0, False), "cosh": (1.0, True), "asin": (1.0, False), "acos": (1.0, True),
    "atan": (1.0, False), "asinh": (1.0, False), "acosh": (1.0, True), "atanh": (1.0, False),
    "exp": (1.0, True), "exp2": (1.0, True), "expm1": (1.0, False), "log": (1.0, False), "log2": (1.0, False),
    "log10": (1.0, False), "log1p": (1.0, False), "sqrt": (0.0, True), "square": (0.0, True),
    "clamp": (1.0, False), "clip": (1.0, False), "clamp_min": (1.0, False), "clamp_max": (1.0, False),
    "ndtr": (1.0, True), "log_ndtr": (1.0, False), "sinc": (1.0, False), "logit": (1.0, False), "xlogy": (0.0, False),
    "lgamma": (1.0, False), "digamma": (1.0, False), "i0": (1.0, True), "erfinv": (0.886226925452758, False),
    "atan2": (1.0, False), "arctan": (1.0, False), "arcsin": (1.0, False), "arcsinh": (1.0, False),
    "logaddexp": (1.0, False), "rpow": (1.0, False),
}  # fmt: skip


#: f(x)/x in closed form.
_RATIOS: dict[str, Callable[[Tensor], Tensor]] = {"silu": torch.sigmoid}
#: f(x)/x from x and f(x), where that costs less.
_QUOTIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda x, y: (y / x).nan_to_num_(nan=0.5),
}
#: The rank of a router among the gates.
ROUTER = 3
_GATES = ("sigmoid", "expit", "hardsigmoid")
_ACTIVATIONS = ("tanh", "gelu", "silu", "mish", "hardswish", "softplus", "elu", "selu", "celu", "relu6")
_POWERS = ("sqrt", "square")


def _fact(call: Call, root: Tensor, nonneg: bool) -> Fact:
    fact = Fact()
    stemmed(call, fact, root)
    fact.chained = True
    fact.nonneg = nonneg
    fact.gate = 1
    return fact


def attach(call: Call, root: Tensor, nonneg: bool = False, at_zero: float = 1.0) -> Elementwise:
    """One identity node from `root` to the call's result."""
    made = Elementwise(call.name, at_zero=at_zero)
    made.operands, made.run = (root,), call.run
    made.fact = _fact(call, root, nonneg)
    made.fact.power = all(
        known.power for x in call.args if isinstance(x, Tensor) and (known := call.fact(x)) and known.chained
    )
    return made


@op(*_FUNCTIONS)
def function(call: Call) -> Op | Native | Expansion:
    dependent = [x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Tensor) and call.depends(x)]
    at_zero, nonneg = _FUNCTIONS[call.name]
    x = dependent[0]
    if len(dependent) > 1:  # bounds or a second argument that depend on the input
        root = common_root(call, x, dependent[1])
        if root is None or len(dependent) > 2:
            return Expansion(lambda: _one_moving(call, x))
        return attach(call, root, nonneg, at_zero)
    root = chain_root(call, x)
    single = root is x
    made = attach(call, root, nonneg, at_zero)
    if single and call.name in _RATIOS:
        made.ratio = _RATIOS[call.name]
    elif single and call.name in _QUOTIENTS:
        made.quotient = _QUOTIENTS[call.name]
    assert made.fact is not None
    made.fact.gate = 2 if call.name in _GATES else 1 if call.name in _ACTIVATIONS else 0
    made.fact.power = made.fact.power and call.name in (*_POWERS, "clamp", "clamp_min")
    made.fact.exponent = link(x) if call.name == "exp" else None
    if call.name in ("clamp", "clip", "clamp_min"):
        low, high = call.bind("input min max", min=None, max=None)[1:]
        made.fact.total = stabilised(call, x, low) if high is None else None
        made.fact.nonneg = isinstance(low, (int, float)) and low >= 0
    elif call.name in ("hardtanh", "threshold"):
        made.fact.nonneg = False
    return made


def _one_moving(call: Call, x: Tensor) -> Any:
    """Further operands that depend on the input are taken as constants."""
    args = [call.constant(a) if isinstance(a, Tensor) and a is not x else a for a in call.args]
    kwargs = {k: call.constant(a) if isinstance(a, Tensor) and a is not x else a for k, a in call.kwargs.items()}
    return call.func(*args, **kwargs)


@op("relu", "leaky_relu", "prelu", "rrelu", "abs", "absolute")
def degree_one(call: Call) -> Op | Native:
    x = call.args[0] if call.args else call.kwargs["input"]
    nonneg = call.name in ("relu", "abs", "absolute")
    root = chain_root(call, x)
    if root is not x:
        return attach(call, root, nonneg)
    made = Elementwise(call.name, degree_one=True)
    made.operands, made.run = (x,), call.run
    made.fact = stemmed(call, Fact(), x)
    made.fact.nonneg = nonneg
    made.fact.gate = 1
    return made


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
        nonneg = factor_x > 0 and factor_y > 0 and _nonneg(call, x) and _nonneg(call, y)
        shifted = factor_x == 1 and factor_y < 0
        if nonneg or shifted or root is not None:
            made.fact = Fact() if root is None else stemmed(call, Fact(), root)
            made.fact.nonneg = nonneg
            made.fact.shift = (link(x), link(y)) if shifted else None
        return made
    moving, constant, f_m, f_c = (x, y, factor_x, factor_y) if call.depends(x) else (y, x, factor_y, factor_x)
    nonneg = f_m > 0 and not isinstance(constant, Tensor) and f_c * constant >= 0 and _nonneg(call, moving)
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


def _nonneg(call: Call, x: Any) -> bool:
    fact = call.fact(x)
    return fact is not None and fact.nonneg


@op("mul", "multiply")
def mul(call: Call) -> Op | Native:
    x, y = call.bind("input other")
    if call.depends(x) and call.depends(y):
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
        made = attach(call, chain_root(call, moving), nonneg=positive and _nonneg(call, moving))
        assert made.fact is not None and known is not None
        made.fact.gate, made.fact.inverse = known.gate, known.inverse
        return made
    fact, known = stemmed(call, Fact(), moving), call.fact(moving)
    if known is not None:
        fact.gate, fact.inverse, fact.nonneg = known.gate, known.inverse, positive and known.nonneg
    return Native(form="scale", fact=fact)


class Product(Op):
    """`z = form(x, y)`, linear in each of two tensors that both depend on the input.

    gate     which operand is the gate (0 or 1), known from where it came from, or None
    part     what each factor gets where they share equally
    left, right   the gradients with respect to x and y, from g
    """

    family = "product"
    kind = "product"
    part: float | Tensor = 0.5

    def __init__(
        self,
        left: Callable[[Tensor, Tensor, Tensor], Tensor],
        right: Callable[[Tensor, Tensor, Tensor], Tensor],
        gate: int | None = None,
        elementwise: bool = False,
    ) -> None:
        self.left, self.right, self.gate, self.elementwise = left, right, gate, elementwise

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


def multiplied(call: Call, x: Tensor, y: Tensor) -> Op | Native:
    inverse = inverse_of(call, x, y)
    if inverse is not None:
        factor, moving = call.constant((x, y)[inverse]), (y, x)[inverse]
        return Native(form="scale", run=lambda moving: torch.mul(moving, factor), operands=(moving,))
    made = Product(
        lambda g, u, v: (g * v).sum_to_size(u.shape),
        lambda g, u, v: (g * u).sum_to_size(v.shape),
        gate_of(call, x, y),
        elementwise=True,
    )
    made.kind = "routing" if routed(call, x, y) else "product"
    made.operands, made.run = (x, y), call.run
    made.fact = Fact()
    made.fact.nonneg = _nonneg(call, x) and _nonneg(call, y)
    return made


def routed(call: Call, x: Tensor, y: Tensor) -> bool:
    """Whether one factor is a router's weight: selected by value from a softmax or sigmoid."""
    return any((f := call.fact(t)) is not None and f.gate == ROUTER for t in (x, y))


@op("div", "divide", "true_divide", "rdiv")
def div(call: Call) -> Op | Native | Expansion:
    if call.kwargs.get("rounding_mode") is not None:
        return step(call)
    x, y = call.bind("input other")
    if call.name == "rdiv":
        x, y = y, x
    if call.depends(x) and call.depends(y):
        known = call.fact(y)
        if known is not None and known.total is not None and known.total.divides(x, y):
            if _same_exponential(call, x, known.total.exponential.get()):
                from relprop.ops.softmax import hand_softmax

                return hand_softmax(call, x, known.total)
        root = common_root(call, x, y)
        if root is not None and (chained(call, x) or chained(call, y) or root is y):
            return attach(call, root)
        denominator = call.constant(y)
        fact, numerator = stemmed(call, Fact(), x), call.fact(x)
        if numerator is not None:
            fact.gate, fact.nonneg = numerator.gate, numerator.nonneg and _nonneg(call, y)
        return Native(form="scale", run=lambda x: torch.div(x, denominator), operands=(x,), fact=fact)
    if call.depends(x):
        return _scaled(call, x, _reciprocal(y))
    return _inverse(call, y)


def _same_exponential(call: Call, x: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors are one, or two exponentials of one tensor."""
    if other is None or x is other:
        return x is other
    facts = call.fact(x), call.fact(other)
    roots = [f.exponent.get() for f in facts if f is not None and f.exponent is not None]
    if len(roots) < 2:
        return False
    return roots[0] is not None and roots[0] is roots[1] and x.shape == other.shape


def _reciprocal(value: Any) -> Any:
    return 1 / value if isinstance(value, (int, float)) and value != 0 else value


def _inverse(call: Call, y: Tensor) -> Elementwise:
    known = call.fact(y)
    powers = known is None or not known.chained or known.power
    made = attach(call, chain_root(call, y), nonneg=_nonneg(call, y))
    assert made.fact is not None
    made.fact.inverse = powers
    made.fact.gate = 0 if powers else 2
    made.fact.power = powers
    return made


@op("rsqrt", "reciprocal")
def inverse(call: Call) -> Op | Native:
    x = call.args[0] if call.args else call.kwargs["input"]
    return _inverse(call, x)


@op("pow", "float_power")
def power(call: Call) -> Op | Native | Expansion:
    x, exponent = call.bind("input exponent")
    if not call.depends(x):
        return attach(call, chain_root(call, exponent))
    if call.depends(exponent):
        fixed = call.constant(exponent)
        return Expansion(lambda: call.func(x, fixed))
    if isinstance(exponent, (int, float)):
        if exponent == 1:
            return Native(fact=stemmed(call, Fact(), x))
        if exponent < 0:
            return _inverse(call, x)
    known = call.fact(x)
    made = attach(call, chain_root(call, x), at_zero=0.0)
    assert made.fact is not None
    made.fact.nonneg = isinstance(exponent, int) and exponent % 2 == 0
    made.fact.power = known is None or not known.chained or known.power
    return made


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


@op("maximum", "minimum", "fmax", "fmin", "hypot")
def maximum(call: Call) -> Op | Native:
    """Of degree one where both depend on the input; a function of one tensor otherwise."""
    x, y = call.bind("input other")
    if call.depends(x) and call.depends(y):
        fact = Fact()
        fact.nonneg = call.name != "hypot" and _nonneg(call, x) and _nonneg(call, y)
        return Native(fact=fact)
    moving = x if call.depends(x) else y
    return attach(call, chain_root(call, moving))
