"""Rules for the first layer and others that give relevance to zeros: z-box, w², flat.

They do not have the form `a * something`, so they return `g = R / a~`, where `a~` is `a` with its zeros replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.numerics import Epsilons, dot, negative, nonzero, positive, ratio, stabiliser
from relprop.ops.base import Books
from relprop.ops.maps import LinearMap
from relprop.rules.linear import Bias, LinearRule, even_parts, transpose


@dataclass(frozen=True)
class ZBox(LinearRule):
    r"""The z-box rule (z^B) for inputs that are known to lie between `low` and `high`, such as pixels.

    R_j = sum_k  (a_j w_jk - l_j w_jk+ - h_j w_jk-) / sum_j (a_j w_jk - l_j w_jk+ - h_j w_jk-)  R_k

    `low` and `high` are numbers or tensors that broadcast against the input, in the input's own (normalised) units:
    (0 - mean) / std and (1 - mean) / std for images. The bias cancels; conserves up to epsilon.
    [Montavon et al. 2017, eq. 14]
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0
    by_output: ClassVar[bool] = False  # the bounds may be of every item

    def __init__(
        self, low: float | Tensor, high: float | Tensor, epsilon: Epsilons = 1e-6, bias: Bias = "absorb"
    ) -> None:
        for name, value in {"low": low, "high": high, "epsilon": epsilon, "bias": bias}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self._finite("low"), self._finite("high")
        try:
            ordered = bool((low <= high).all())
        except RuntimeError:
            raise RuleError(
                f"low {tuple(low.shape)} and high {tuple(high.shape)} do not broadcast against each other"
            ) from None
        if not ordered:
            raise RuleError(f"low must not exceed high, got low={self.low}, high={self.high}")

    def _finite(self, name: str) -> Tensor:
        """A bound as a tensor."""
        given = getattr(self, name)
        try:
            bound = torch.as_tensor(given)
            sound = not bound.is_complex() and bool(bound.isfinite().all())
        except (TypeError, ValueError, RuntimeError):
            sound = False
        if not sound:
            raise RuleError(f"ZBox: {name} must be a finite number or a tensor of them, got {given!r}")
        return bound

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ZBox):
            return NotImplemented
        pairs = ((self.low, other.low), (self.high, other.high))
        same = all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in pairs)
        return same and self.epsilon == other.epsilon and self.bias == other.bias

    def __hash__(self) -> int:
        shapes = tuple(tuple(torch.as_tensor(v).shape) for v in (self.low, self.high))
        return hash((type(self).__name__, shapes, self.epsilon))

    @property
    def gives_zeros(self) -> bool:  # type: ignore[override]
        return True

    def _bound(self, op: LinearMap, value: Tensor, a: Tensor, like: Tensor) -> Tensor:
        try:
            if op.lift is not None and not _fits(value, a):
                value = op.lift(value)
            shape = torch.broadcast_shapes(value.shape, like.shape)
            if not _fits(value, a):
                raise RuntimeError
            return op.support(value.expand(shape).contiguous())
        except RuntimeError:
            raise RuleError(
                f"ZBox bound of shape {tuple(value.shape)} does not broadcast against the input {tuple(a.shape)}"
            ) from None

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        up, down = positive(op.weight), negative(op.weight)
        bounds = [torch.as_tensor(v, dtype=a.dtype, device=a.device) for v in (self.low, self.high)]
        scales = [op.per_input(v, a) for v in bounds]
        if scales[0] is not None and scales[1] is not None:  # the bounds scale the weights
            box = (scales[0] * up + scales[1] * down).to(up.dtype)
            corner = op.apply(op.support(torch.ones_like(op.sample(a))), box, op.bias)
            eps = self.quick(op)
            if eps is not None:
                stable = z - corner
                s = ratio(g, z, stable, eps)
                # the stabiliser's part of the denominator, by its sign
                books.add("epsilon", dot(s, torch.copysign(stable.new_ones(()), stable)), eps)
            else:
                den = z - corner
                stable = stabiliser(self.epsilon)(den)
                s = self._relevance(op, z, g) / stable
                books.add("epsilon", dot(s, stable - den))
            r, r_box = op.both(s.to(box.dtype), op.weight, box, a)
            relevance = a * r - r_box
        else:
            z0 = z if op.bias is None else z - op.shaped_bias(op.bias)
            shared = all(v.ndim < a.ndim or v.shape[0] == 1 for v in bounds)
            like = op.sample(a) if shared else a
            low, high = (self._bound(op, v, a, like) for v in bounds)
            den = z0 - op.apply(low, up) - op.apply(high, down)
            stable = stabiliser(self.epsilon)(den)
            s = self._relevance(op, z, g) / stable
            relevance = (a - low) * transpose(op, s, up, a) + (a - high) * transpose(op, s, down, a)
            books.add("epsilon", dot(s, stable - den))
        return op.support(relevance) / nonzero(a)


def _fits(value: Tensor, a: Tensor) -> bool:
    """Whether `value` broadcasts against `a`."""
    pairs = zip(reversed(value.shape), reversed(a.shape))
    return value.ndim <= a.ndim and all(v in (1, size) for v, size in pairs)


@dataclass(frozen=True)
class WSquare(LinearRule):
    r"""The w² rule for unbounded inputs: by the squared weights, whatever the input.

    R_j = sum_k  w_jk² / sum_j w_jk²  R_k          (j over the real inputs: a constant pad takes nothing)

    The bias takes no part. Conserves exactly. [Montavon et al. 2017, eq. 12]
    """

    @property
    def gives_zeros(self) -> bool:  # type: ignore[override]
        return True

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        square = op.weight.square()
        den = op.apply(op.support(torch.ones_like(op.sample(a))), square)
        stable = stabiliser(self.epsilon)(den)
        s = self._relevance(op, z, g) / stable
        books.add("epsilon", dot(s, stable - den))
        return op.support(transpose(op, s, square, a)) / nonzero(a)


@dataclass(frozen=True)
class Flat(LinearRule):
    r"""The flat rule: every connected real input gets the same share.

    R_j = sum_k R_k / n_k,   n_k the number of real inputs of output k

    The bias takes no part. Conserves exactly. [Lapuschkin et al. 2019, Methods]
    """

    @property
    def gives_zeros(self) -> bool:  # type: ignore[override]
        return True

    def pull(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Books) -> Tensor:
        return even_parts(op, self._relevance(op, z, g), a, books) / nonzero(a)
