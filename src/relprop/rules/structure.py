"""Rules for sums, products and pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from relprop.numerics import Epsilons, check_epsilon, check_number, dot, multiple, nonzero, reduce_to, stabiliser
from relprop.ops.arithmetic import Sum
from relprop.ops.base import Books
from relprop.ops.pool import Pool
from relprop.ops.product import Product
from relprop.rules.base import Rule, as_is

Pulled = tuple[Tensor | None, ...]


def _shared(op: Sum, operands: Sequence[Tensor], weights: Sequence[Tensor], y: Tensor, g: Tensor) -> Pulled:
    """Relevance `y g` times each addend's weight, as gradients of the operands."""
    relevance = g * nonzero(y).conj()
    return tuple(reduce_to(relevance * w / nonzero(x).conj(), x.shape) for x, w in zip(operands, weights, strict=True))


def _constant(op: Sum, y: Tensor) -> Tensor | None:
    if op.constant is None:
        return None
    value = torch.as_tensor(op.constant, dtype=y.dtype, device=y.device)
    return value.expand_as(y)


@dataclass(frozen=True)
class Signed(Rule):
    r"""Each addend gets its share of the sum: `R_i = x_i / y R`. Native; conserves.

    Large positive and negative shares where addends cancel: see `Absolute` and `ResidualGamma`.
    [zennit's Norm on a sum; captum; definitions of LRP-0 on y = sum(x_i)]
    """

    epsilon: Epsilons = 0.0
    home: ClassVar[tuple[str, ...]] = ("sum",)

    def __post_init__(self) -> None:
        check_epsilon(self)

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        plain = not callable(self.epsilon) and self.epsilon == 0
        return as_is if plain and not op.carrying else None

    def sum(self, op: Sum, operands: Sequence[Tensor], y: Tensor, g: Tensor, books: Books) -> Pulled:
        masked = y.isinf()  # minus infinity added to a score masks it: it carries nothing
        y = torch.where(masked, 0.0, y)
        g = torch.where(masked, 0.0, g)
        plain = not callable(self.epsilon) and self.epsilon == 0
        # `g` itself, not `g y / y`: where addends cancel to zero, what passes is the native gradient
        s = g if plain else g * nonzero(y) / stabiliser(self.epsilon)(nonzero(y))
        books.add("epsilon", (g * nonzero(y).conj() - s * y.conj()).real.sum())
        constant = _constant(op, y)
        if constant is not None:
            books.add("constants", dot(s, torch.where(masked, 0.0, constant)))
        return tuple(
            torch.where(x == 0, 0.0, reduce_to(s if f == 1 else s * f, x.shape))
            for x, f in zip(operands, op.factors, strict=True)
        )


@dataclass(frozen=True)
class Absolute(Rule):
    r"""Each addend gets its share of the sum of magnitudes: `R_i = |x_i| / sum |x_i| R`. Conserves.

    [Otsuki et al. 2024, ratio-based splitting]
    """

    home: ClassVar[tuple[str, ...]] = ("sum",)

    def weights(self, terms: Sequence[Tensor], y: Tensor) -> list[Tensor]:
        sizes = [t.abs() for t in terms]
        total = torch.stack([s.expand_as(y) for s in sizes]).sum(0)
        even = total == 0
        return [torch.where(even, 1.0 / len(sizes), s / torch.where(even, 1.0, total)) for s in sizes]

    def sum(self, op: Sum, operands: Sequence[Tensor], y: Tensor, g: Tensor, books: Books) -> Pulled:
        terms = op.terms(operands)
        constant = _constant(op, y)
        if constant is not None:  # minus infinity added to a score masks it: it carries nothing
            masked = y.isinf()
            y, g, constant = (torch.where(masked, 0.0, t) for t in (y, g, constant))
        weights = self.weights(terms if constant is None else [*terms, constant], y)
        if constant is not None:
            books.add("constants", dot(g * nonzero(y), weights[-1].expand_as(y)))
        return _shared(op, operands, weights[: len(operands)], y, g)


@dataclass(frozen=True)
class Equal(Absolute):
    """Each addend gets an equal part. Conserves. [Otsuki et al. 2024, symmetric splitting]"""

    gives_zeros: ClassVar[bool] = True

    def weights(self, terms: Sequence[Tensor], y: Tensor) -> list[Tensor]:
        return [torch.full_like(y, 1.0 / len(terms)) for _ in terms]


@dataclass(frozen=True)
class ResidualGamma(Absolute):
    r"""ResLRP's split of a residual sum: addends of the sum's sign count more.

    R_i = w_i x_i / sum w_i x_i R,   w_i = 1 + gamma [x_i y > 0]

    Conserves; a share lies within [-1/gamma, 1 + 1/gamma]. [Berend et al. 2026, ResLRP]
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "gamma")

    def weights(self, terms: Sequence[Tensor], y: Tensor) -> list[Tensor]:
        grown = [t * (1 + self.gamma * (t * y > 0)) for t in terms]
        total = torch.stack([t.expand_as(y) for t in grown]).sum(0)
        even = total == 0
        return [torch.where(even, 0.0, t / torch.where(even, 1.0, total)) for t in grown]


@dataclass(frozen=True)
class Half(Rule):
    r"""Two factors that both depend on the input share equally: `R_x = R_y = R / 2`, by contributions in a matmul.

    The n factors of a product along a dimension get R / n each. Conserves.
    [Achtibat et al. 2024, Prop. 3.3 and eq. 15; Jafari et al. 2024, MambaLRP, half rule]
    """

    home: ClassVar[tuple[str, ...]] = ("product",)

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        entrywise = isinstance(op, Product) and op.elementwise  # there the half costs no pass of its own
        return None if op.carrying or entrywise else lambda g: g * op.part

    def keeps(self, op: Any) -> tuple[bool, bool]:
        return True, op.carrying

    def product(self, op: Product, operands: Sequence[Tensor], z: Tensor, g: Tensor, books: Books) -> Pulled:
        return _split(op, operands, z, g, (0.5, 0.5), books)


def _split(
    op: Product, operands: Sequence[Tensor], z: Tensor, g: Tensor, parts: tuple[float, float], books: Books
) -> Pulled:
    """Constant parts for the two factors."""
    x, y = operands
    if op.carrying and op.elementwise:
        relevance = g * nonzero(z).conj()
        return tuple(
            reduce_to(relevance * p / nonzero(t).expand_as(z).conj(), t.shape) if p else None
            for p, t in zip(parts, operands, strict=True)
        )
    if op.left is None or op.right is None:
        return tuple(
            reduce_to(multiple(p, g, t), u.shape) if p else None
            for p, t, u in zip(parts, (y.conj(), x.conj()), operands, strict=True)
        )
    if op.carrying:
        books.add("epsilon", dot(g, nonzero(z) - z))
    return (
        op.left(g, x, y) * parts[0] if parts[0] else None,
        op.right(g, x, y) * parts[1] if parts[1] else None,
    )


@dataclass(frozen=True)
class SignalTakesAll(Rule):
    """The signal gets everything, the gate nothing; what is a gate is known from where it came from: a sigmoid
    or softmax before another activation before anything else. Where both look alike they share equally. Conserves.

    [Arras et al. 2017; Arras et al. 2019, LRP-all]
    """

    home: ClassVar[tuple[str, ...]] = ("product",)

    def product(self, op: Product, operands: Sequence[Tensor], z: Tensor, g: Tensor, books: Books) -> Pulled:
        parts = (0.5, 0.5) if op.gate is None else (float(op.gate == 1), float(op.gate == 0))
        return _split(op, operands, z, g, parts, books)


@dataclass(frozen=True)
class Proportional(Rule):
    r"""Two elementwise factors share by their magnitudes: `R_x = |x| / (|x| + |y|) R`. Conserves.

    [Arras et al. 2019, LRP-prop uses the same form on pre-activations]
    """

    home: ClassVar[tuple[str, ...]] = ("product",)

    def product(self, op: Product, operands: Sequence[Tensor], z: Tensor, g: Tensor, books: Books) -> Pulled:
        x, y = operands
        if not op.elementwise:
            return _split(op, operands, z, g, (0.5, 0.5), books)
        size_x, size_y = x.abs(), y.abs()
        total = size_x + size_y
        part = torch.where(total == 0, 0.5, size_x / torch.where(total == 0, 1.0, total))
        relevance = g * nonzero(z).conj()
        return (
            reduce_to(relevance * part / nonzero(x).conj(), x.shape),
            reduce_to(relevance * (1 - part) / nonzero(y).conj(), y.shape),
        )


@dataclass(frozen=True)
class WinnerTakesAll(Rule):
    """A max pool gives everything to the window's first maximum; other pools run natively. Conserves."""

    home: ClassVar[tuple[str, ...]] = ("pool",)

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        return as_is

    def pool(self, op: Pool, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        raise AssertionError("runs natively")


@dataclass(frozen=True)
class EqualTies(WinnerTakesAll):
    """A max pool gives equal parts to all entries of a window that are its maximum. Conserves. [Gu et al. 2018]"""

    def native(self, op: Any) -> Callable[[Tensor], Tensor] | None:
        return None if op.maximum else as_is

    def pool(self, op: Pool, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        return op.equal_ties(g, x, y)


@dataclass(frozen=True)
class EpsilonPool(Rule):
    r"""Every pool as a linear map: `R_j = x_j (dy/dx)^T (R / (y + eps sign y))`. Conserves up to epsilon.

    [captum's EpsilonRule on pools; zennit's Norm on average pools]
    """

    epsilon: Epsilons = 1e-6
    home: ClassVar[tuple[str, ...]] = ("pool",)

    def __post_init__(self) -> None:
        check_epsilon(self)

    def pool(self, op: Pool, x: Tensor, y: Tensor, g: Tensor, books: Books) -> Tensor:
        stable = stabiliser(self.epsilon)(y)
        s = g * y / stable
        books.add("epsilon", dot(s, stable - y))
        return op.vjp(s, x)
