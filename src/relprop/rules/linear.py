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
    HALF,
    Epsilons,
    damped,
    divide,
    dot,
    entrywise,
    negative,
    nonzero,
    positive,
    sign,
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

    def __post_init__(self) -> None:
        if self.bias not in ("absorb", "zero", "distribute"):
            raise RuleError(f'bias must be "absorb", "zero" or "distribute", got {self.bias!r}')
        if not callable(self.epsilon) and not self.epsilon >= 0:
            raise RuleError(f"epsilon must be >= 0, got {self.epsilon}")

    def linear(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        """The modified gradient at `a`. Half precision: ratios and denominators are formed in float32."""
        dtype = a.dtype
        if z.dtype in HALF:
            z, g = z.float(), g.float()
        r = self.pull(op, a, z, g, books)
        return r if r.dtype == dtype else r.to(dtype)

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        raise NotImplementedError

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
    ) -> Tensor:
        """Write down what bias and stabiliser take, or give it to the inputs in equal parts."""
        if op.carrying:
            r = torch.where(a == 0, 0.0, r)
        if self.bias == "distribute":
            rest = s * (stable - den) if bias is None else s * (stable - den + op.shaped_bias(bias))
            return r + even_parts(op, rest, a, books) / nonzero(a)
        if bias is not None:
            books.add("bias", op.bias_share(s, bias))
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


@dataclass(frozen=True)
class Epsilon(LinearRule):
    r"""LRP-epsilon: proportional to the contributions, damped where they cancel.

    R_j = sum_k  a_j w_jk / (z_k + eps sign z_k)  R_k

    Conserves up to the shares of bias and epsilon. [Bach et al. 2015, eq. 58; Montavon et al. 2019, sec. 10.2.2]
    """

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        plain = not callable(self.epsilon) and self.epsilon == 0 and self.bias == "absorb"
        return as_is if plain and not op.carrying else None

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

        def ratio(g: Tensor, z: Tensor) -> Tensor:
            s = damped(g, z, eps, op.rectified)
            if not op.rectified:
                books.add("epsilon", dot(z, g))
                books.add("epsilon", dot(z, s), -1.0)
            return s

        s = entrywise(ratio, g, z, dtype=a.dtype)
        if op.rectified:
            share, total = op.shared(s, op.bias)
            books.add("epsilon", total, eps)
        else:
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


@dataclass(frozen=True)
class Gamma(LinearRule):
    r"""LRP-gamma: favour the contributions that agree with the output.

    generalised (default), for inputs of any sign:
        z_k > 0:  R_j = sum_k (a_j w_jk + gamma (a_j w_jk)+) / (z_k + gamma z_k+ ) R_k
        z_k < 0:  the same with the negative parts;  z_k = 0: dropped
    standard, for inputs >= 0:
        R_j = sum_k a_j (w_jk + gamma w_jk+) / sum_j a_j (w_jk + gamma w_jk+) R_k

    The bias is treated as a weight: b + gamma b+ (b-). Conserves up to the shares of bias and epsilon.
    [Montavon et al. 2019, sec. 10.2.3; Andeol et al. 2021, eq. 8]
    """

    gamma: float = 0.25
    variant: Literal["generalised", "standard"] = "generalised"

    def __init__(
        self,
        gamma: float = 0.25,
        variant: Literal["generalised", "standard"] = "generalised",
        epsilon: Epsilons = 1e-6,
        bias: Bias = "absorb",
    ) -> None:
        for name, value in {"gamma": gamma, "variant": variant, "epsilon": epsilon, "bias": bias}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise RuleError(f"gamma must be >= 0, got {self.gamma}")
        if self.variant not in ("generalised", "standard"):
            raise RuleError(f'variant must be "generalised" or "standard", got {self.variant!r}')

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        if self.variant == "standard":
            return self._standard(op, a, z, g, books)
        eps = self.quick(op)
        if eps is not None and self.gamma > 0:
            one = op.nonneg and op.rectified
            return self._one_map(op, a, z, g, eps, books) if one else self._two_maps(op, a, z, g, eps, books)
        gamma, bias = self.gamma, self._bias(op)
        absolute = op.weight.abs()
        # where it does not stand in the denominator, a difference leaves noise where nothing contributes
        exact = op.bias is None or self.bias == "absorb"
        z0 = z - op.shaped_bias(op.bias) if exact and op.bias is not None else z if exact else op.apply(a, op.weight)
        za = op.apply(a if op.nonneg else a.abs(), absolute)
        up = z > 0
        agreeing = (z0 + torch.where(up, za, -za)) / 2
        den = z0 + gamma * agreeing
        if bias is not None:
            b = op.shaped_bias(bias)
            modified = torch.where(up, b + gamma * positive(b), b + gamma * negative(b))
            den = den + modified
        stable = stabiliser(self.epsilon)(den)
        s = torch.where(z == 0, 0.0, g * z / stable)
        if op.carrying:
            books.add("epsilon", dot((z == 0).to(g.dtype), g * nonzero(z)))
        mirrored = transpose(op, torch.where(up, s, -s), absolute, a)
        if not op.nonneg:
            mirrored = mirrored * sign(a)
        r = (1 + gamma / 2) * transpose(op, s, op.weight, a) + gamma / 2 * mirrored
        if bias is None:
            return self._settle(op, a, r, s, den, stable, None, books)
        return self._settle_shaped(op, a, r, s, den, stable, modified, books)

    def _one_map(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, eps: float, books: Books) -> Tensor:
        """Where inputs are not negative and positive outputs alone carry relevance, the rule is one linear map."""
        w = op.derived(f"w + {self.gamma} w+", lambda w: torch.add(w, positive(w), alpha=self.gamma))
        b = None if op.bias is None else op.bias + self.gamma * positive(op.bias)
        return _through(op, a, z, g, w, b, eps, books)

    def _two_maps(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, eps: float, books: Books) -> Tensor:
        """In general, by |A|: the denominator's size is (1 + gamma/2) |z| + gamma/2 (|A| |a| + |b|), its sign z's.

        It and all ratios are taken over gamma/2, so that no pass over the weight is needed but |A|'s own.
        """
        half = self.gamma / 2
        most, size = (1 + half) / half, z.abs()
        absolute = op.derived("|w|", torch.abs)
        bias = None if op.bias is None else op.bias.abs()

        def denominator() -> Tensor:
            za = op.apply(a if op.nonneg else a.abs(), absolute, _stabilised_bias(op, bias, eps / half))
            return za.to(z.dtype).add_(size, alpha=most)

        den = op.remembered("denominator", denominator)
        signed = torch.div(g, den, out=den if op.memory is None else None)
        s = size.mul_(signed)
        signed.mul_(z)
        mirrored_share, total = op.shared(signed, bias)
        if op.bias is not None and mirrored_share is not None:
            books.add("bias", most * op.bias_share(s, op.bias) + mirrored_share)
        books.add("epsilon", total, eps / half)
        mirrored = transpose(op, signed, absolute, a)
        if not op.nonneg:
            mirrored = mirrored.mul_(a.sign())
        return mirrored.add_(op.pull_back(s.to(a.dtype), a), alpha=most)

    def _settle_shaped(
        self,
        op: LinearMap,
        a: Tensor,
        r: Tensor,
        s: Tensor,
        den: Tensor,
        stable: Tensor,
        b: Tensor,
        books: Books,
    ) -> Tensor:
        """As `_settle`, for a bias that differs from output to output."""
        if op.carrying:
            r = torch.where(a == 0, 0.0, r)
        if self.bias == "distribute":
            return r + even_parts(op, s * (stable - den + b), a, books) / nonzero(a)
        books.add("bias", dot(s, b))
        if stable is not den:
            books.add("epsilon", dot(s, stable - den))
        return r

    def _standard(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        w = op.weight + self.gamma * positive(op.weight)
        bias = self._bias(op)
        b = None if bias is None else bias + self.gamma * positive(bias)
        den = op.apply(a, w, b).to(z.dtype)
        stable = stabiliser(self.epsilon)(den)
        s = self._relevance(op, z, g) / stable
        return self._settle(op, a, transpose(op, s, w, a), s, den, stable, b, books)


def _positive(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else positive(bias)


def _negative(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else negative(bias)


#: From so many inputs an output on, z- is taken as the difference of z and z+; below, it is summed up by itself.
_MANY = 64


def _stabilised_bias(op: LinearMap, bias: Tensor | None, eps: float) -> Tensor:
    """A bias that adds the stabiliser to a sum of one sign, at no further pass."""
    return op.weight.new_full(op.outputs, eps) if bias is None else bias + eps


def _times(op: LinearMap, g: Tensor, factor: Callable[[], Tensor]) -> Tensor:
    """`g` times what does not depend on it, which is kept where more backwards follow, and used up where none does."""
    made = op.remembered("factor", factor)
    return made.mul_(g) if op.memory is None else made * g


def _through(
    op: LinearMap, a: Tensor, z: Tensor, g: Tensor, w: Tensor, b: Tensor | None, eps: float, books: Books
) -> Tensor:
    """Proportional to the contributions of the map `(w, b)`, whose outputs are not negative where relevance is."""

    def factor() -> Tensor:
        den = op.apply(a, w, _stabilised_bias(op, b, eps)).to(z.dtype)
        return torch.div(z, den, out=den)

    s = _times(op, g, factor)
    share, total = op.shared(s, b)
    if share is not None:
        books.add("bias", share)
    books.add("epsilon", total, eps)
    return transpose(op, s, w, a)


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
        beta = alpha - 1 if beta is None else beta
        for name, value in {"alpha": alpha, "beta": beta, "epsilon": epsilon, "bias": bias}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.alpha >= 1 and self.beta >= 0):
            raise RuleError(f"alpha must be >= 1 and beta >= 0, got alpha={self.alpha}, beta={self.beta}")
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise RuleError(f"alpha - beta must be 1, got {self.alpha} - {self.beta} = {self.alpha - self.beta}")

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        eps = self.quick(op)
        if eps is not None and op.nonneg:
            if not self.beta:
                return _through(op, a, z, g, op.derived("w+", positive), _positive(op.bias), eps, books)
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
        up = op.apply(a, w_up, _stabilised_bias(op, _positive(op.bias), eps)).to(z.dtype)
        if w_up[0].numel() < _MANY:  # few contributions: one sign may all but lack, and the difference be rounding
            down = op.apply(a, w_down, _stabilised_bias(op, _negative(op.bias), -eps)).to(z.dtype).neg_()
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


@dataclass(frozen=True)
class Pass(Rule):
    """Relevance passes unchanged, entry by entry; the shapes of input and output must be equal."""

    home: ClassVar[tuple[str, ...]] = ("linear", "elementwise", "norm", "pool", "softmax")

    @property
    def gives_zeros(self) -> bool:  # type: ignore[override]
        return True

    def _pass(self, op: Any, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        if a.shape != z.shape:
            raise RuleError(
                f"Pass needs an operation that keeps the shape, but {op.kind} maps {tuple(a.shape)} to "
                f"{tuple(z.shape)}: choose another rule for it"
            )
        return g * nonzero(z) / nonzero(a)

    linear = elementwise = norm = pool = softmax = _pass
