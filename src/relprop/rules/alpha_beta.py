"""LRP-alpha-beta and z+, for linear maps. Notation as in `relprop.rules.linear`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.numerics import (
    HALF,
    Epsilons,
    check_number,
    dot,
    negative,
    positive,
    stabiliser,
)
from relprop.ops.base import Books
from relprop.ops.maps import LinearMap
from relprop.rules.linear import Bias, LinearRule, stabilised_bias, through, transpose

#: From so many inputs an output on, z- is taken as the difference of z and z+; below, it is summed up by itself.
_MANY = 64


def _positive(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else positive(bias)


def _negative(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else negative(bias)


@dataclass(frozen=True)
class AlphaBeta(LinearRule):
    r"""LRP-alpha-beta: positive and negative contributions apart, alpha - beta = 1.

    R_j = sum_k [ alpha (a_j w_jk)+ / (z_k+ + b_k+)  -  beta (a_j w_jk)- / (z_k- + b_k-) ] R_k

    Conserves up to the shares of bias and epsilon, except where an output has no contribution of one sign: that
    branch is empty and its relevance is in the audit's excess. [Bach et al. 2015, eq. 60]
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __init__(
        self, alpha: float = 2.0, beta: float | None = None, epsilon: Epsilons = 1e-6, bias: Bias = "absorb"
    ) -> None:
        for name, value in {"alpha": alpha, "beta": beta, "epsilon": epsilon, "bias": bias}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", 1.0)
        if self.beta is None:
            object.__setattr__(self, "beta", self.alpha - 1)
        check_number(self, "beta")
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise RuleError(f"alpha - beta must be 1, got {self.alpha} - {self.beta} = {self.alpha - self.beta}")

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        eps = self.quick(op)
        if eps is not None and op.nonneg:
            if not self.beta:
                return through(op, a, z, g, op.derived("w+", positive), _positive(op.bias), eps, books)
            if op.weight.dtype not in HALF:  # a rounded z less z+ is no z-
                return self._both(op, a, z, g, eps, books)
        if eps is not None and op.weight.dtype not in HALF:
            r = self._signed(op, a, z, g, eps, 1.0, books)
            return r.add_(self._signed(op, a, z, g, eps, -1.0, books)) if self.beta else r
        relevance = self._relevance(op, z, g)
        r = self._branch(op, a, self.alpha * relevance, positive, books)
        if self.beta:
            r = r + self._branch(op, a, -self.beta * relevance, negative, books)
        return r

    def _both(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, eps: float, books: Books) -> Tensor:
        """Both branches from one extra forward: z- is z less z+."""
        w_up, w_down = op.derived("w+", positive), op.derived("w-", negative)
        up = op.apply(a, w_up, stabilised_bias(op, _positive(op.bias), eps)).to(z.dtype)
        if w_up[0].numel() < _MANY:  # few contributions: one sign may all but lack, and the difference be rounding
            down = op.apply(a, w_down, stabilised_bias(op, _negative(op.bias), -eps)).to(z.dtype).neg_()
        else:
            down = up - z  # |z-| + eps, and nothing but rounding where there is no negative contribution
        empty = down <= 16 * torch.finfo(z.dtype).eps * up
        relevance = g * z
        lost = torch.where(empty, relevance, 0.0)
        books.add("excess", lost.sum(), -self.beta)
        s_up = torch.div(relevance, up, out=up).mul_(self.alpha)
        s_down = relevance.sub_(lost).div_(down.masked_fill_(empty, 1.0)).mul_(-self.beta)
        for s, b in ((s_up, _positive(op.bias)), (s_down, None if op.bias is None else -negative(op.bias))):
            share, total = op.shared(s, b)
            if share is not None:
                books.add("bias", share)
            books.add("excess", total, eps)
        return transpose(op, s_up, w_up, a).sub_(transpose(op, s_down, w_down, a))

    def _signed(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, eps: float, side: float, books: Books) -> Tensor:
        """The contributions of one sign for inputs of both: those of `a+` by one part of the weight, of `a-` by the
        other, forward and backward."""
        up, down = op.derived("w+", positive), op.derived("w-", negative)
        same, crossed, part, times = (up, down, positive, self.alpha) if side > 0 else (down, up, negative, -self.beta)
        b = None if op.bias is None else part(op.bias)

        def factors() -> tuple[Tensor, Tensor]:
            """What `g` is multiplied by, and by what where there is no contribution of this sign."""
            den = op.apply(positive(a), same, b).add_(op.apply(negative(a), crossed)).to(z.dtype)
            empty = den == 0
            passing = torch.div(z, den.add_(side * eps), out=den).masked_fill_(empty, 0.0).mul_(times)
            return passing, torch.where(empty, z, 0.0)

        passing, lost = op.remembered(f"factors {side}", factors)
        books.add("excess", dot(lost, g), times)
        s = passing * g
        share, total = op.shared(s, b)
        if share is not None:
            books.add("bias", share)
        books.add("epsilon", total, side * eps)
        r, r_crossed = op.both(s, same, crossed, a)
        return torch.where(a < 0, r_crossed, r)

    def _branch(
        self, op: LinearMap, a: Tensor, relevance: Tensor, part: Callable[[Tensor], Tensor], books: Books
    ) -> Tensor:
        """The contributions of one sign."""
        other = negative if part is positive else positive
        w, bias = part(op.weight), self._bias(op)
        b = None if bias is None else part(bias)
        if op.nonneg:
            den = op.apply(a, w, b)
        else:
            crossed = other(op.weight)
            den = op.apply(positive(a), w, b) + op.apply(negative(a), crossed)
        den = den.to(relevance.dtype)
        stable = stabiliser(self.epsilon)(den)
        empty = den == 0
        books.add("excess", torch.where(empty, relevance, 0.0).sum())
        s = torch.where(empty, 0.0, relevance / torch.where(empty, 1.0, stable))
        r = transpose(op, s, w, a)
        if not op.nonneg:
            r = torch.where(a < 0, transpose(op, s, crossed, a), r)
        return self._settle(op, a, r, s, den, stable, b, books)


@dataclass(frozen=True)
class ZPlus(AlphaBeta):
    r"""LRP-z+: positive contributions alone; alpha-beta with alpha = 1, beta = 0.

    R_j = sum_k (a_j w_jk)+ / (sum_j (a_j w_jk)+ + b_k+) R_k

    Conserves up to the shares of bias and epsilon. [Montavon et al. 2017, eq. 13]
    """

    alpha: float = 1.0
    beta: float = 0.0

    def __init__(self, epsilon: Epsilons = 1e-6, bias: Bias = "absorb") -> None:
        super().__init__(1.0, 0.0, epsilon, bias)
