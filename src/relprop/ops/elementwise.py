"""Elementwise functions `y = f(x)`: activations, powers, and chains of calls written out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.errors import ModelStateError
from relprop.ops.base import Call, Expansion, Fact, Kept, Native, Op
from relprop.ops.normalised import stabilised
from relprop.ops.softmax import of_logarithm
from relprop.ops.stem import chain_root, common_root, link, stemmed
from relprop.ops.table import op


class Elementwise(Op):
    """`y = f(x)` element by element.

    degree_one   f(t x) = t f(x) for t > 0: the native gradient already carries the relevance
    at_zero      the limit of f(x)/x at 0, where f(0) = 0
    times        g f(x)/x from g and x in closed form, where one is known: then `y` need not be kept
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
        times: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.name, self.degree_one, self.at_zero, self.times = name, degree_one, at_zero, times

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
    "arctan2": (1.0, False), "arccos": (1.0, True), "arccosh": (1.0, True), "arctanh": (1.0, False),
    "logaddexp": (1.0, False), "logaddexp2": (1.0, False), "rpow": (1.0, False), "erfcx": (1.0, True),
    "ndtri": (1.0, False), "i0e": (1.0, True), "i1": (0.5, False), "i1e": (0.5, False), "gammaln": (1.0, False),
    "psi": (1.0, False), "xlog1py": (0.0, False),
}  # fmt: skip


def _times_sigmoid(g: Tensor, x: Tensor) -> Tensor:
    """`g sigmoid(x)`, which is what the derivative of softplus gives in one pass. From 40 on a sigmoid rounds to 1."""
    if torch.is_grad_enabled() or g.dtype != x.dtype:
        return g * torch.sigmoid(x)
    return torch.ops.aten.softplus_backward(g, x, 1, 40)


#: g f(x)/x in closed form.
_TIMES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"silu": _times_sigmoid}
#: f(x)/x from x and f(x), where that costs less.
_QUOTIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda x, y: (y / x).nan_to_num_(nan=0.5),
}
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
    if call.name == "exp" and (softmax := of_logarithm(call, x)) is not None:
        return softmax
    if len(dependent) > 1:  # bounds or a second argument that depend on the input
        root = common_root(call, x, dependent[1])
        if root is None or len(dependent) > 2:
            return Expansion(lambda: _one_moving(call, x))
        return attach(call, root, nonneg, at_zero)
    root = chain_root(call, x)
    single = root is x
    made = attach(call, root, nonneg, at_zero)
    if single and call.name in _TIMES:
        made.times = _TIMES[call.name]
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
def degree_one(call: Call) -> Op | Native | Expansion:
    x = call.args[0] if call.args else call.kwargs["input"]
    if call.name == "rrelu" and call.bind("input lower upper training", lower=0, upper=0, training=False)[3]:
        raise ModelStateError(
            f"rrelu in training mode (module {call.path or '(model)'!r}): the explanation would be random. "
            "Call model.eval() first."
        )
    if call.name == "prelu" and call.depends(slope := call.bind("input weight")[1]):
        shape = [-1 if d == min(1, x.ndim - 1) else 1 for d in range(x.ndim)]
        return Expansion(lambda: torch.where(x > 0, x, x * (slope.reshape(shape) if slope.ndim else slope)))
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


def known_nonneg(call: Call, x: Any) -> bool:
    """Whether no entry is negative, as far as is known."""
    fact = call.fact(x)
    return fact is not None and fact.nonneg


def inverse_power(call: Call, y: Tensor, once: bool = False) -> Elementwise:
    """One over a power of `y`; `once`: over `y` itself."""
    known = call.fact(y)
    powers = known is None or not known.chained or known.power
    made = attach(call, chain_root(call, y), nonneg=known_nonneg(call, y))
    assert made.fact is not None
    made.fact.inverse = powers
    made.fact.gate = 0 if powers else 2
    made.fact.power = powers
    made.fact.over = known.total if once and known is not None else None
    return made


@op("rsqrt", "reciprocal")
def inverse(call: Call) -> Op | Native:
    x = call.args[0] if call.args else call.kwargs["input"]
    return inverse_power(call, x, once=call.name == "reciprocal")


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
            return inverse_power(call, x, once=exponent == -1)
    known = call.fact(x)
    made = attach(call, chain_root(call, x), at_zero=0.0)
    assert made.fact is not None
    made.fact.nonneg = isinstance(exponent, int) and exponent % 2 == 0
    made.fact.power = known is None or not known.chained or known.power
    return made


@op("maximum", "minimum", "fmax", "fmin", "hypot")
def maximum(call: Call) -> Op | Native:
    """Of degree one where both depend on the input; a function of one tensor otherwise."""
    x, y = call.bind("input other")
    if call.depends(x) and call.depends(y):
        fact = Fact()
        fact.nonneg = call.name != "hypot" and known_nonneg(call, x) and known_nonneg(call, y)
        return Native(fact=fact)
    moving = x if call.depends(x) else y
    return attach(call, chain_root(call, moving))
