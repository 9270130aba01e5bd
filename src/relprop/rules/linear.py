r"""Rules for linear maps `z = A a + b` (convolutions, dense layers, products with a constant).

Notation: `R` relevance at the output, `g = R / z` the modified gradient there, `(.)+` and `(.)-` positive and negative
parts, `s` the ratio of relevance and denominator. A rule returns `g = R / a` at the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.numerics import (
    FULL,
    HALF,
    Epsilons,
    check_choice,
    check_epsilon,
    damped,
    divide,
    dot,
    entrywise,
    nonzero,
    stabiliser,
)
from relprop.ops.base import Books
from relprop.ops.maps import LinearMap
from relprop.rules.base import Rule, as_is

Bias = Literal["absorb", "zero", "distribute"]


@dataclass(frozen=True)
class LinearRule(Rule):
    """What the rules for linear maps share.

    epsilon  the stabiliser of the denominator: a number, a `Stabilizer` (clip, norm-scale) or a callable
    bias     "absorb": the bias stands in the denominator alone and takes its share;
             "zero": it is left out; "distribute": its share is given to the real inputs in equal parts
    """

    epsilon: Epsilons = 1e-6
    bias: Bias = "absorb"
    home: ClassVar[tuple[str, ...]] = ("linear",)
    rectifies: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        pull, linear = (next(i for i, c in enumerate(cls.__mro__) if name in vars(c)) for name in ("pull", "linear"))
        if pull < linear:
            cls.linear = LinearRule.linear  # type: ignore[method-assign]  # which asks `pull`, and knows no short form

    def __post_init__(self) -> None:
        check_choice(self, "bias", ("absorb", "zero", "distribute"))
        check_epsilon(self)

    def linear(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        """The modified gradient at `a`. Half precision: ratios and denominators are formed in float32."""
        dtype = a.dtype
        if z.dtype not in FULL:
            if z.is_complex():
                self.check_complex(op)
            else:
                z, g = z.float(), g.float()
        r = self.pull(op, a, z, g, books)
        return r if r.dtype == dtype else r.to(dtype)

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        raise NotImplementedError

    def check_complex(self, op: LinearMap) -> None:
        """Raise for a map of complex numbers, unless the rule has a meaning there."""
        raise RuleError(
            f"{self} has no meaning for complex numbers, and a map here (kind {op.kind!r}) is of such: give it Epsilon "
            "or Zero by a row before the others, (relprop.Name(its path), relprop.Epsilon())"
        )

    def quick(self, op: LinearMap) -> float | None:
        """The stabiliser, where the short form of a rule serves: a positive number, the bias absorbed, no relevance
        on zeros, and no derivative of the relevance wanted."""
        eps = self.epsilon
        if callable(eps) or eps <= 0 or self.bias != "absorb" or op.carrying or torch.is_grad_enabled():
            return None
        return float(eps)

    # -- the steps that rules share ------------------------------------------------------------------------------

    def _bias(self, op: LinearMap) -> Tensor | None:
        return None if self.bias == "zero" else op.bias

    def _relevance(self, op: LinearMap, z: Tensor, g: Tensor) -> Tensor:
        """What is to be distributed: `R = g * z`, readable on zeros where relevance may stand on them."""
        return g * (nonzero(z) if op.carrying else z)

    def _settle(
        self,
        op: LinearMap,
        a: Tensor,
        r: Tensor,
        s: Tensor,
        den: Tensor,
        stable: Tensor,
        bias: Tensor | None,
        books: Books,
        by_output: bool = False,
    ) -> Tensor:
        """Write down what bias and stabiliser take, or give it to the inputs in equal parts.

        by_output  the bias has an entry for every output of every item
        """
        if op.carrying:
            r = torch.where(a == 0, 0.0, r)
        if self.bias == "distribute":
            rest = stable - den
            if bias is not None:
                rest = rest + (bias if by_output else op.shaped_bias(bias))
            return r + even_parts(op, s * rest, a, books) / nonzero(a)
        if bias is not None:
            books.add("bias", dot(s, bias) if by_output else op.bias_share(s, bias))
        if stable is not den:
            books.add("epsilon", dot(s, stable - den))
        return r

    @property
    def gives_zeros(self) -> bool:  # type: ignore[override]
        return self.bias == "distribute"

    @property
    def by_output(self) -> bool:  # type: ignore[override]
        return not callable(self.epsilon)  # a stabiliser may look at all outputs


def even_parts(op: LinearMap, share: Tensor, a: Tensor, books: Books) -> Tensor:
    """Each output's share given to its connected real inputs in equal parts: `A(1)^T (share / n)`.

    An output that has none (a pad wider than the kernel) gives its share to nobody.
    """
    n = op.fan_in(a)
    books.add("excess", (share * (n == 0)).sum())
    return op.support(op.spread(divide(share, n), a))


def transpose(op: LinearMap, s: Tensor, w: Tensor, a: Tensor) -> Tensor:
    return op.transpose(s if s.dtype == w.dtype else s.to(w.dtype), w, a)


def stabilised_bias(op: LinearMap, bias: Tensor | None, eps: float) -> Tensor:
    """A bias that adds the stabiliser to a sum of one sign, at no further pass."""
    return op.weight.new_full(op.outputs, eps) if bias is None else bias + eps


def times(op: LinearMap, g: Tensor, factor: Callable[[], Tensor]) -> Tensor:
    """`g` times what does not depend on it, which is kept where more backwards follow, and used up where none does."""
    made = op.remembered("factor", factor)
    return made.mul_(g) if op.memory is None else made * g


def through(
    op: LinearMap, a: Tensor, z: Tensor, g: Tensor, w: Tensor, b: Tensor | None, eps: float, books: Books
) -> Tensor:
    """Proportional to the contributions of the map `(w, b)`, whose outputs are not negative where relevance is."""

    def factor() -> Tensor:
        den = op.apply(a, w, stabilised_bias(op, b, eps)).to(z.dtype)
        return torch.div(z, den, out=den)

    s = times(op, g, factor)
    share, total = op.shared(s, b)
    if share is not None:
        books.add("bias", share)
    books.add("epsilon", total, eps)
    return transpose(op, s, w, a)


@dataclass(frozen=True)
class Epsilon(LinearRule):
    r"""LRP-epsilon: proportional to the contributions, damped where they cancel.

    R_j = sum_k  a_j w_jk / (z_k + eps sign z_k)  R_k

    Conserves up to the shares of bias and epsilon. [Bach et al. 2015, eq. 58; Montavon et al. 2019, sec. 10.2.2]
    """

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        plain = not callable(self.epsilon) and self.epsilon == 0 and self.bias == "absorb"
        return as_is if plain and not op.carrying else None

    def check_complex(self, op: LinearMap) -> None:
        if self.bias != "absorb":
            raise RuleError(f'a map of complex numbers (kind {op.kind!r}) takes {self} with bias="absorb" alone')

    def keeps(self, op: Any) -> tuple[bool, bool]:
        needed = self.native(op) is None
        return needed and self.quick(op) is None, needed  # the short form reads the input's layout alone

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        bias = self._bias(op)
        # without its bias the sum is formed anew: a difference leaves noise where nothing contributes
        den = z if bias is op.bias else op.apply(a, op.weight).to(z.dtype)
        if not callable(self.epsilon) and self.epsilon == 0:
            stable = den if den is z and not op.carrying else nonzero(den)
        else:
            stable = stabiliser(self.epsilon)(den)
        s = self._relevance(op, z, g) / stable
        return self._settle(op, a, transpose(op, s, op.weight, a), s, den, stable, bias, books)

    def linear(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        eps = self.quick(op)
        return super().linear(op, a, z, g, books) if eps is None else self._damped(op, a, z, g, eps, books)

    def _damped(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, eps: float, books: Books) -> Tensor:
        """The short form: one pass over the output, and one for the books."""
        if op.rectified:
            spent = (g.dtype in HALF and z.dtype in HALF) or books.spent(z)  # of half precision copies are passed
            s = entrywise(lambda g, z: damped(g, z, eps, True, spent), g, z, dtype=g.dtype)
            share, total = op.shared(s, op.bias)
            books.add("epsilon", total, eps)
        else:

            def ratio(g: Tensor, z: Tensor) -> Tensor:
                s = damped(g, z, eps)
                books.add("epsilon", dot(z, g))
                books.add("epsilon", dot(z, s), -1.0)
                return s

            s = entrywise(ratio, g, z, dtype=g.dtype)
            share = None if op.bias is None else op.bias_share(s, op.bias)
        if share is not None:
            books.add("bias", share)
        return op.pull_back(s, a)


@dataclass(frozen=True)
class Zero(Epsilon):
    r"""LRP-0: gradient times input of the map.

    R_j = sum_k  a_j w_jk / z_k  R_k

    Conserves up to the bias share. [Bach et al. 2015, eq. 56; Montavon et al. 2019, sec. 10.2.1]
    """

    epsilon: Epsilons = 0.0
