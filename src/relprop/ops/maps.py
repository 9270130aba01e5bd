"""Linear maps `z = A a + b` with constant `A`: what they share, and dense layers, products with a constant, scales.

A map offers `apply(a, w, b)` and `transpose(s, w, a)` for any weights of its shape, so every rule is written once for
all of them. `w` is what the rules modify (its signs, its square, ones).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.numerics import dot, occupied, wide
from relprop.ops.base import Kept, Op

Made = TypeVar("Made")


#: Once relevance stood on most rows of so many maps, it will do so further down.
_ENOUGH = 4


class LinearMap(Op):
    """A call `z = A(w) a + b`.

    weight, bias   constants; `bias` broadcasts against `z` (see `shaped_bias`), or is None
    nonneg         `a` is known to have no negative entry
    pad            `a` is a constant zero pad of another tensor: maps a tensor of `a`'s shape to itself with zeros on
                   the pad, so that rules which give relevance to zeros leave none there
    lift           `a` is a pad of any mode: pads what has the shape of its source (the bounds of a z-box) alike
    layout         size, strides and dtype of `a`, for rules that keep no more of it
    rectified      `z` is given as max(z, 0): a ReLU is its only reader, and `g` is not masked yet
    by_row         every row of `a` (all but its last dimension) is an item by itself, and there are many
    """

    family = "linear"
    degree_one = True
    kind = "linear"
    weight: Tensor
    bias: Tensor | None = None
    nonneg: bool = False
    pad: Callable[[Tensor], Tensor] | None = None
    layout: tuple[torch.Size, tuple[int, ...], torch.dtype]
    store: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    lift: Callable[[Tensor], Tensor] | None = None
    by_row: bool = False

    def take(self) -> tuple[tuple[Tensor, ...], Callable[[], Any]]:
        a = self.operands[0]
        self.layout = a.shape, a.stride(), a.dtype
        return super().take()

    def input(self, a: Tensor | None) -> Tensor:
        """The input, or a tensor without values, where a rule kept no more of it than its layout."""
        if a is not None:
            return a
        return _without_values(*self.layout)

    def apply(self, a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def transpose(self, s: Tensor, w: Tensor, a: Tensor) -> Tensor:
        """`A(w)^T s` in the shape of `a`, whose values do not matter: it may have none."""
        with torch.enable_grad():
            leaf = torch.zeros_like(a, device=s.device).requires_grad_()
            z = self.apply(leaf, w)
        return torch.autograd.grad(z, leaf, s, create_graph=torch.is_grad_enabled())[0]

    def derived(self, name: str, make: Callable[[Tensor], Tensor]) -> Tensor:
        """A modified weight; made once where several backwards follow, or while the user holds the weights frozen."""
        kept = self.memory if self.store is None else self.store
        if kept is None:
            return make(self.weight)
        if name not in kept:
            kept[name] = make(self.weight)
        return kept[name]

    def ran_in(self, dtype: torch.dtype) -> LinearMap:
        """This map with its weights in the type that the call ran in.

        They are of another one under autocast, and where a batch norm in float32 has joined a map in half precision.
        """
        return self if self.weight.dtype == dtype else self._cast(dtype)

    def _cast(self, dtype: torch.dtype) -> LinearMap:
        made = copy.copy(self)
        made.weight = self.derived(f"in {dtype}", lambda w: w.to(dtype))
        made.bias = None if self.bias is None else self.bias.to(dtype)
        if self.store is not None:
            made.store = self.store.setdefault(f"of {dtype}", {})
        return made

    def remembered(self, name: str, make: Callable[[], Made]) -> Made:
        """What does not depend on the relevance; made once where several backwards follow one forward."""
        if self.memory is None:
            return make()
        if name not in self.memory:
            self.memory[name] = make()
        made: Made = self.memory[name]
        return made

    def pull_back(self, s: Tensor, a: Tensor) -> Tensor:
        """`A^T s` with the map's own weight; `s` may be overwritten."""
        return self.transpose(s, self.weight, a)

    def shaped_bias(self, b: Tensor) -> Tensor:
        """`b` in a shape that broadcasts against `z`."""
        return b

    def bias_share(self, s: Tensor, b: Tensor) -> Tensor:
        """`sum(b * s)` over all outputs."""
        b = self.shaped_bias(b)
        return dot(s, b) if s.is_complex() else (s * b).sum()

    def spread(self, s: Tensor, a: Tensor) -> Tensor:
        """`A(1)^T s`: each output's entry given to every input it is connected to."""
        return self.transpose(s.to(self.weight.dtype), torch.ones_like(self.weight), a)

    def both(self, s: Tensor, w: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """`A(w)^T s` and `A(v)^T s`."""
        return self.transpose(s, w, a), self.transpose(s, v, a)

    def per_input(self, value: Tensor, a: Tensor) -> Tensor | None:
        """`value`, one number or one for each input channel, in a shape that scales the weight; None if it is
        neither."""
        return value.reshape(()) if value.numel() == 1 else None

    def shared(self, s: Tensor, b: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """`sum(b * s)` and `sum(s)` at the price of one pass."""
        return None if b is None else self.bias_share(s, b), s.sum()

    def sample(self, a: Tensor) -> Tensor:
        """One item of `a`'s batch: constants that depend on the shape alone are made for it and broadcast."""
        return a

    def support(self, a: Tensor) -> Tensor:
        """`a` with zeros on the constant pad it came from, if any."""
        return a if self.pad is None else self.pad(a)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape that a bias must have; () where any that broadcasts will do."""
        return ()

    def scaled(self, scale: Tensor, shift: Tensor) -> LinearMap | None:
        """This map followed by `scale * z + shift` per output channel, or None where that is no such map."""
        return None

    def channels(self, z: Tensor) -> int | None:
        """Which dimension of `z` holds the output channels."""
        return None

    def fan_in(self, a: Tensor) -> Tensor:
        """How many real entries of `a` each output is connected to, shaped to broadcast against `z`."""
        return self.apply(self.support(torch.ones_like(self.sample(a))), torch.ones_like(self.weight))

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        return (self._passed(rule, operands[0], outputs[0], gs[0], books),)

    def _passed(self, rule: Any, a: Tensor | None, z: Tensor | None, g: Tensor, books: Any) -> Tensor:
        op, rows = self.ran_in(g.dtype), None
        if self.by_row and rule.by_output and books.dense < _ENOUGH:
            rows = occupied(g.flatten(0, -2), 0)
            books.dense += rows is None
        return op.pulled(rule, self.input(a), z, g, books) if rows is None else op._of_rows(rows, rule, a, z, g, books)

    def passed_plainly(self, rule: Any, g: Tensor, books: Any) -> Tensor:
        """The modified gradient at `a` by a rule that asks for the map's own gradient."""
        if books.dense < _ENOUGH or g.dtype is not self.weight.dtype:
            return self._passed(rule, None, None, g, books)
        if self.bias is not None:
            books.add("bias", self.bias_share(g, self.bias))
        return self.transpose(g, self.weight, self.input(None))

    def keep(self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor]) -> Kept:
        if rule.native(self) is not None:
            return (None,) * len(operands), (None,) * len(outputs)
        return super().keep(rule, operands, outputs)

    def pulled(self, rule: Any, a: Tensor, z: Tensor | None, g: Tensor, books: Any) -> Tensor:
        """The modified gradient at `a`: the rule's, or the map's own where the rule asks for no other."""
        before = rule.native(self)
        if before is None:
            made: Tensor = rule.linear(self, a, z, g, books)
            return made
        if self.bias is not None:
            books.add("bias", self.bias_share(g, self.bias))
        return self.transpose(before(g), self.weight, a)

    def _of_rows(self, rows: Tensor, rule: Any, a: Tensor | None, z: Tensor | None, g: Tensor, books: Any) -> Tensor:
        """The same where relevance came to a few rows of the output alone, as it does to the last layers where one
        token's output is explained: the others are left out."""

        def some(t: Tensor | None) -> Any:
            return None if t is None else t.reshape(-1, t.shape[-1]).index_select(0, rows)

        shape, _, dtype = self.layout
        part = copy.copy(self)
        part.layout = torch.Size((len(rows), shape[-1])), (shape[-1], 1), dtype
        part.store, part.memory = self.memory if self.store is None else self.store, None
        r = part.pulled(rule, part.input(some(a)), some(z), some(g), books)
        return r.new_zeros(shape.numel() // shape[-1], shape[-1]).index_copy_(0, rows, r).view(shape)


def fitting(a: Tensor, w: Tensor) -> Tensor:
    """The input in the type of the weights, where the call ran in another than the input's (see `ran_in`)."""
    return a if a.dtype == w.dtype else a.to(w.dtype)


@lru_cache(maxsize=1024)
def _without_values(size: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def dense(a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """`F.linear`; of strided memory as torch carries it out for a weight that wants a gradient.

    For one that wants none, as ours, torch takes a product a batch entry at a time, which is several times slower.
    """
    if a.ndim < 3 or w.ndim != 2 or a.is_contiguous():
        return F.linear(a, w, b)
    z = a.reshape(-1, a.shape[-1]).mm(w.t()).view(*a.shape[:-1], -1)
    return z if b is None else z + b.to(z.dtype)  # autocast gives z a type of its own


class Dense(LinearMap):
    """`F.linear`: `z = a w^T + b` over the last dimension."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def apply(self, a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return dense(fitting(a, w), w, b)

    @property
    def rows(self) -> bool:
        """Whether the bias is told by the rows of a gradient, however they are arranged."""
        return self.weight.ndim == 2 and self.bias is not None and self.bias.ndim == 1

    @property
    def outputs(self) -> tuple[int, ...]:
        return (self.weight.shape[0],) if self.weight.ndim == 2 else ()

    def transpose(self, s: Tensor, w: Tensor, a: Tensor) -> Tensor:
        w = w.conj()  # itself, of real numbers
        if w.ndim < 2:
            return s.unsqueeze(-1) * w
        return s.matmul(w) if s.is_contiguous() else dense(s, w.t())

    def bias_share(self, s: Tensor, b: Tensor) -> Tensor:
        return dot(_by_row(s), b) if b.ndim == 1 else super().bias_share(s, b)

    def shared(self, s: Tensor, b: Tensor | None) -> tuple[Tensor | None, Tensor]:
        if b is not None and b.ndim != 1:
            return super().shared(s, b)
        c = _by_row(s)
        return None if b is None else dot(c, b), c.sum()

    def sample(self, a: Tensor) -> Tensor:
        return a.reshape(-1, a.shape[-1])[:1].reshape((1,) * (a.ndim - 1) + a.shape[-1:]) if a.numel() else a

    def scaled(self, scale: Tensor, shift: Tensor) -> LinearMap | None:
        if self.weight.ndim != 2:
            return None
        bias = shift if self.bias is None else self.bias * scale + shift
        return like(self, Dense(self.weight * scale[:, None], bias))

    def channels(self, z: Tensor) -> int | None:
        return z.ndim - 1


def _by_row(s: Tensor) -> Tensor:
    """`s` summed over all but its last dimension."""
    if s.numel() == s.shape[-1]:
        return s.reshape(-1)
    return s.reshape(-1, s.shape[-1]).sum(0, dtype=wide(s.dtype))


class Matmul(LinearMap):
    """`a @ w` or `w @ a` against a constant, with broadcasting, vectors and an additive constant."""

    def __init__(self, weight: Tensor, bias: Tensor | None, left: bool) -> None:
        self.weight, self.bias, self.left = weight, bias, left

    def apply(self, a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        a = fitting(a, w)
        z = torch.matmul(w, a) if self.left else torch.matmul(a, w)
        return z if b is None else z + b

    def transpose(self, s: Tensor, w: Tensor, a: Tensor) -> Tensor:
        if a.ndim < 2 or w.ndim < 2:
            return super().transpose(s, w, a)
        w = w.mT.conj()
        r = torch.matmul(w, s) if self.left else torch.matmul(s, w)
        return r if r.shape == a.shape else r.sum_to_size(a.shape)


class Einsum(LinearMap):
    """`torch.einsum` (or a bilinear layer, a dot product, ...) in which one operand alone depends on the input."""

    def __init__(self, weight: Tensor, form: Callable[[Tensor, Tensor], Tensor], bias: Tensor | None = None) -> None:
        self.weight, self.form, self.bias = weight, form, bias

    def apply(self, a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        z = self.form(fitting(a, w), w)
        return z if b is None else z + b


class Scale(LinearMap):
    """`z = w a + b`, element by element: batch norm on fixed statistics, a layer's scale, a constant factor."""

    kind = "scale"

    def ran_in(self, dtype: torch.dtype) -> LinearMap:
        """Itself: element by element, torch mixes types."""
        return self

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def apply(self, a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        z = a * w
        return z if b is None else z + b

    def transpose(self, s: Tensor, w: Tensor, a: Tensor) -> Tensor:
        r = s * w
        return r if r.shape == a.shape else r.sum_to_size(a.shape)


def like(old: LinearMap, new: LinearMap) -> LinearMap:
    """`new`, with what is known about the input and the relevance of `old`."""
    new.nonneg, new.pad, new.lift, new.carrying = old.nonneg, old.pad, old.lift, old.carrying
    new.layout = old.layout
    return new
