"""LRP-gamma, for linear maps. Notation as in `relprop.rules.linear`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relprop.numerics import (
    Epsilons,
    check_choice,
    check_number,
    dot,
    negative,
    nonzero,
    positive,
    sign,
    stabiliser,
)
from relprop.ops.base import Books
from relprop.ops.maps import LinearMap
from relprop.rules.linear import Bias, LinearRule, stabilised_bias, through, transpose


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
        check_number(self, "gamma")
        check_choice(self, "variant", ("generalised", "standard"))

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
        return self._settle(op, a, r, s, den, stable, modified, books, by_output=True)

    def _one_map(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, eps: float, books: Books) -> Tensor:
        """Where inputs are not negative and positive outputs alone carry relevance, the rule is one linear map."""
        w = op.derived(f"w + {self.gamma} w+", lambda w: torch.add(w, positive(w), alpha=self.gamma))
        b = None if op.bias is None else op.bias + self.gamma * positive(op.bias)
        return through(op, a, z, g, w, b, eps, books)

    def _two_maps(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, eps: float, books: Books) -> Tensor:
        """In general, by |A|: the denominator's size is (1 + gamma/2) |z| + gamma/2 (|A| |a| + |b|), its sign z's.

        It and all ratios are taken over gamma/2, so that no pass over the weight is needed but |A|'s own.
        """
        half = self.gamma / 2
        most, size = (1 + half) / half, z.abs()
        absolute = op.derived("|w|", torch.abs)
        bias = None if op.bias is None else op.bias.abs()

        def denominator() -> Tensor:
            za = op.apply(a if op.nonneg else a.abs(), absolute, stabilised_bias(op, bias, eps / half))
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
        return mirrored.add_(op.pull_back(s.to(absolute.dtype), a), alpha=most)

    def _standard(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        w = op.weight + self.gamma * positive(op.weight)
        bias = self._bias(op)
        b = None if bias is None else bias + self.gamma * positive(bias)
        den = op.apply(a, w, b).to(z.dtype)
        stable = stabiliser(self.epsilon)(den)
        s = self._relevance(op, z, g) / stable
        return self._settle(op, a, transpose(op, s, w, a), s, den, stable, b, books)
