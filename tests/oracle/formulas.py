r"""Every rule as contributions of one sample, the textbook way: a matrix, its row sums, a division.

With contributions `p_kj` of input j to output k, a bias term `c_k` and `s(t) = t + eps sign(t)`, sign(0) = 1,

    R_j = sum_k  p_kj / s(sum_j p_kj + c_k)  R_k

and rules differ in `p` and `c` alone; alpha-beta has two such terms. What a bias option does is written once:
`absorb` keeps `c` in the denominator, `zero` leaves it out, `distribute` gives `c_k + eps sign` in equal
parts to the n_k inputs that output k really has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests.oracle.dense import Dense

Term = tuple[float, torch.Tensor, torch.Tensor]  # factor, p [O, I], c [O]
Terms = Callable[[torch.Tensor, Dense], list[Term]]  # of the elements that are read [I]


def _pos(t: torch.Tensor) -> torch.Tensor:
    return t.clamp(min=0)


def _neg(t: torch.Tensor) -> torch.Tensor:
    return t.clamp(max=0)


def stabilised(t: torch.Tensor, eps: float | Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The denominators of one sample; a callable stands for any other way to keep them from zero."""
    if callable(eps):
        return eps(t)
    return torch.where(t >= 0, t + eps, t - eps)


def plain(a: torch.Tensor, m: Dense) -> list[Term]:
    """LRP-0 and epsilon: p = w a, c = b."""
    return [(1.0, m.w * a, m.b)]


def gamma_generalised(gamma: float) -> Terms:
    """p = w a + gamma (w a)+ where z > 0, w a + gamma (w a)- where z < 0, nothing where z = 0; c alike."""

    def terms(a: torch.Tensor, m: Dense) -> list[Term]:
        p, z = m.w * a, m.w @ a + m.b
        up, down = (z > 0).double(), (z < 0).double()
        return [
            (1.0, up[:, None] * (p + gamma * _pos(p)), up * (m.b + gamma * _pos(m.b))),
            (1.0, down[:, None] * (p + gamma * _neg(p)), down * (m.b + gamma * _neg(m.b))),
        ]

    return terms


def gamma_standard(gamma: float) -> Terms:
    """p = (w + gamma w+) a, c = b + gamma b+."""
    return lambda a, m: [(1.0, (m.w + gamma * _pos(m.w)) * a, m.b + gamma * _pos(m.b))]


def alpha_beta(alpha: float, beta: float) -> Terms:
    """alpha times the positive contributions with b+, minus beta times the negative ones with b-."""

    def terms(a: torch.Tensor, m: Dense) -> list[Term]:
        p = m.w * a
        return [(alpha, _pos(p), _pos(m.b)), (-beta, _neg(p), _neg(m.b))]

    return terms


def z_box(low: float | torch.Tensor, high: float | torch.Tensor) -> Terms:
    """p = w a - w+ low - w- high; the biases of the three passes cancel. Bounds broadcast."""

    def terms(a: torch.Tensor, m: Dense) -> list[Term]:
        bounds = []
        for bound in (low, high):
            whole = torch.as_tensor(bound, dtype=torch.float64).expand(m.in_shape).flatten()
            bounds.append(whole[m.source])
        return [(1.0, m.w * a - _pos(m.w) * bounds[0] - _neg(m.w) * bounds[1], torch.zeros_like(m.b))]

    return terms


def w_square(a: torch.Tensor, m: Dense) -> list[Term]:
    """p = w^2, no bias."""
    return [(1.0, m.w**2, torch.zeros_like(m.b))]


def flat(a: torch.Tensor, m: Dense) -> list[Term]:
    """p = 1 for every input that is connected, no bias."""
    return [(1.0, m.taps, torch.zeros_like(m.b))]


@dataclass(frozen=True)
class Formula:
    """One rule: its terms, its stabiliser, its bias option."""

    terms: Terms
    eps: float | Callable[[torch.Tensor], torch.Tensor] = 0.0
    bias: str = "absorb"

    def __call__(self, m: Dense, a: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Relevance at the input of a batch. a [N, *in], r [N, *out] -> [N, *in]."""
        out = torch.zeros(a.shape, dtype=torch.float64)
        for sample, relevance, result in zip(a, r, out, strict=True):
            read = sample.flatten()[m.source]
            back = torch.zeros_like(read)
            for factor, p, c in self.terms(read, m):
                n = m.taps.sum(1).clamp(min=1)
                if self.bias == "distribute":
                    p = p + m.taps * (c / n)[:, None]
                den = p.sum(1) + (c if self.bias == "absorb" else 0)
                stable = stabilised(den, self.eps)
                filled = (p != 0).any(1)  # an output to which nothing contributes gives its relevance to nobody
                if self.bias == "distribute":
                    p = p + m.taps * ((stable - den) / n)[:, None]
                share = torch.where(filled, relevance.flatten() / torch.where(stable == 0, 1.0, stable), 0.0)
                back += factor * (p * share[:, None]).sum(0)
            result.view(-1).index_add_(0, m.source, back)
        return out


def pass_on(m: Dense, a: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Relevance is handed on as it is; the map keeps the shape."""
    return r.reshape(a.shape).clone()
