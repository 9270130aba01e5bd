"""Rules for what is not linear: activations, norms, softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.numerics import dot, nonzero, unmasked
from relprop.ops.base import Books
from relprop.ops.elementwise import Elementwise
from relprop.ops.norm import Norm
from relprop.ops.softmax import Softmax
from relprop.rules.base import Rule, as_is

#: Functions with f(0) = 0, whoever they are of.
_THROUGH_ZERO = frozenset(
    "relu leaky_relu prelu rrelu abs gelu silu mish hardswish tanh relu6 elu selu celu softsign tanhshrink hardshrink "
    "softshrink erf sin tan sinh asin atan asinh atanh expm1 log1p sqrt square".split()
)


@dataclass(frozen=True)
class Identity(Rule):
    r"""Relevance passes an elementwise function unchanged.

    R_in = R_out,   that is  g_in = g_out f(x)/x  (its limit at 0)

    For norms: the normalised, scaled entry passes its relevance to the entry it came from. Conserves exactly, but for
    a function with f(0) != 0 at an input that is exactly 0: then all of it is a constant.
    [Bach et al. 2015; Achtibat et al. 2024, AttnLRP, eq. 9 and Prop. 3.4]
    """

    home: ClassVar[tuple[str, ...]] = ("elementwise", "norm", "softmax")
    by_quotient: ClassVar[bool] = True

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        return as_is if isinstance(op, Elementwise) and op.degree_one and not op.carrying else None

    def keeps(self, op: Any) -> tuple[bool, bool]:
        closed = getattr(op, "times", None) is not None or getattr(op, "quotient", None) is not None
        return True, op.carrying or not closed

    def elementwise(self, op: Elementwise, x: Tensor, y: Tensor | None, g: Tensor, books: Books) -> Tensor:
        if y is None:
            return g * x if op.times is None else op.times(g, x)  # `x` is the quotient, which was kept in its place
        if op.carrying:
            ratio = nonzero(y) / nonzero(x)
        else:
            zero = x == 0
            limit = op.at_zero + _turning(x, y, zero) if torch.is_grad_enabled() else op.at_zero
            ratio = torch.where(zero, torch.where(y == 0, limit, 0.0), y / nonzero(x))
            if op.name not in _THROUGH_ZERO:  # all of f(0) is a constant of the function
                books.add("constants", dot(torch.where(zero, y, 0.0), g))
        return g * (ratio.conj() if ratio.is_complex() else ratio)  # complex: R = Re(conj(a) g)

    def norm(self, op: Norm, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        return g * nonzero(y) / nonzero(x)

    def softmax(self, op: Softmax, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        return torch.where(g == 0, 0.0, g * nonzero(y) / nonzero(x))  # NaN where every score is masked


def _turning(x: Tensor, y: Tensor, zero: Tensor) -> Tensor | float:
    """What is 0 at x = 0 and has the derivative of f(x)/x there, which is f''(0)/2, where f(0) = 0.

    f'(x) - x f''/2 has it, with f'' held fixed. Where `y` is not seen to be a function of `x`, for the model changed
    one of them in place, or has no second derivative: 0.
    """
    if x.shape != y.shape or y.is_complex() or not bool(zero.any()):
        return 0.0
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)
    if first is None or not first.requires_grad:
        return 0.0
    (second,) = torch.autograd.grad(first.sum(), x, retain_graph=True, allow_unused=True)
    if second is None or not bool((first.isfinite() & second.isfinite()).all()):
        return 0.0
    return first - first.detach() - x * second / 2


@dataclass(frozen=True)
class GuidedReLU(Rule):
    """Guided backpropagation: only positive gradients pass, and only where the unit was active.

    g_in = 1[x > 0] max(g_out, 0). A gradient method: nothing is conserved. [Springenberg et al. 2015]
    """

    home: ClassVar[tuple[str, ...]] = ("elementwise",)

    def elementwise(self, op: Elementwise, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        if op.name != "relu":
            raise RuleError(f"GuidedReLU serves ReLU alone, got {op.name}: choose another rule for it")
        return torch.where(y > 0, g, 0.0).clamp(min=0)

    def keeps(self, op: Any) -> tuple[bool, bool]:
        return False, True


@dataclass(frozen=True)
class DeconvReLU(GuidedReLU):
    """Deconvnet: only positive gradients pass, wherever the unit stood.

    g_in = max(g_out, 0). A gradient method: nothing is conserved. [Zeiler and Fergus 2014]
    """

    def elementwise(self, op: Elementwise, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        if op.name != "relu":
            raise RuleError(f"DeconvReLU serves ReLU alone, got {op.name}: choose another rule for it")
        return g.clamp(min=0)


@dataclass(frozen=True)
class ConstantStatistics(Rule):
    r"""The LN rule: mean and scale of a normalisation are constants of the map, which only centres and scales.

    y = (x - mean(x)) c w + b,  c held constant:   R_i = x_i (g' - mean(g'))_i,  g' = g w c

    Conserves up to the bias share. [Ali et al. 2022, eq. 8; Achtibat et al. 2024, sec. 3.3.3]
    """

    home: ClassVar[tuple[str, ...]] = ("norm",)

    def keeps(self, op: Any) -> tuple[bool, bool]:
        return op.inverse is None, False

    def norm(self, op: Norm, x: Tensor | None, y: Tensor, g: Tensor, books: Books) -> Tensor:
        if op.bias is not None:
            books.add("bias", op.bias_share(g))
        return op.pull_back(g, x)


@dataclass(frozen=True)
class SoftmaxGradient(Rule):
    r"""AttnLRP's softmax rule: the Taylor expansion at the input, which is the native gradient.

    R_i = x_i (R_i^out - s_i sum_j R_j^out)

    Not conserving: the expansion's constant term takes the rest (the audit's excess). [Achtibat et al. 2024, Prop. 3.1]
    """

    home: ClassVar[tuple[str, ...]] = ("softmax",)

    def keeps(self, op: Any) -> tuple[bool, bool]:
        return True, True

    def softmax(self, op: Softmax, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        # where every score is masked there is no softmax: had the model not taken the NaN out, its output would be NaN
        y = y.nan_to_num(0.0, neginf=-torch.inf)
        pulled = op.gradient(g, y)
        # a score that a mask of any depth hides has no gradient, whatever its value
        finite = torch.where(pulled == 0, 0.0, x)
        books.add("excess", unmasked(y, g) if op.log else dot(y, g))
        books.add("excess", dot(finite, pulled), -1.0)
        return pulled
