"""Units: which entries of a tensor count as one concept, and which of them are meant.

A selection of units restricts the relevance that passes a layer (a condition of concept relevance propagation), and
sums relevance by unit. Wherever units are asked for, an int, a list of ints or a slice means `Channels`, a boolean or
floating tensor a `Mask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.errors import InputError


class Units:
    """Base: a way to divide a tensor of shape [samples, ...] into units, and the indices of those that are meant.

    No index means all of them.
    """

    index: tuple[Any, ...] = ()

    def count(self, values: Tensor) -> int:
        """How many units the tensor has."""
        raise NotImplementedError

    def at(self, *index: Any) -> Units:
        """The same division, other units of it."""
        raise NotImplementedError

    def mask(self, values: Tensor) -> Tensor:
        """One on the entries of the chosen units, zero elsewhere; broadcasts against the tensor."""
        raise NotImplementedError

    def total(self, relevance: Tensor) -> Tensor:
        """The relevance of every unit: [samples, units]."""
        raise NotImplementedError

    def restrict(self, values: Tensor, g: Tensor, where: str) -> Tensor:
        """The modified gradient with what the other units carry taken out: `g` times the mask."""
        try:
            return g * self.mask(values).to(g.dtype)
        except InputError as error:
            raise InputError(f"at {where!r}: {error}") from None

    def relevance(self, values: Tensor, g: Tensor) -> Tensor:
        """The relevance of every unit, from the values and the modified gradient: [samples, units]."""
        return self.total(values * g)

    def read(self, relevance: Tensor, values: Tensor, g: Tensor) -> Tensor:
        """The same where the relevance is known, which may also stand on values that are zero: [samples, units]."""
        return self.total(relevance)

    def activity(self, values: Tensor) -> Tensor:
        """The sum of every unit's values: [samples, units]."""
        return self.total(values)

    def part(self, values: Tensor) -> Tensor:
        """What of the values lies in the chosen units; over all units the parts add up to what the units can tell."""
        return values * self.mask(values).to(values.dtype)

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.index))})"

    def _checked(self, count: int, what: str, values: Tensor) -> list[int]:
        wrong = [i for i in self.index if not (isinstance(i, int) and -count <= i < count)]
        if wrong:
            raise InputError(
                f"{what} {wrong[0]!r} is out of range: a tensor of shape {tuple(values.shape)} has {count}, "
                f"so -{count} to {count - 1}"
            )
        return [i % count for i in self.index]


@dataclass(frozen=True, init=False)
class Axis(Units):
    """Units along one dimension of the tensor."""

    index: tuple[Any, ...]
    dim: int | None

    def __init__(self, *index: int, dim: int | None = None) -> None:
        object.__setattr__(self, "index", _flat(index))
        object.__setattr__(self, "dim", dim)

    def at(self, *index: Any) -> Axis:
        return type(self)(*index, dim=self.dim)

    def axis(self, values: Tensor) -> int:
        raise NotImplementedError

    def _axis(self, values: Tensor) -> int:
        dim = self.axis(values) if self.dim is None else self.dim
        if not -values.ndim <= dim < values.ndim or values.ndim < 2:
            raise InputError(f"{type(self).__name__} along dimension {dim}: the tensor has the shape "
                             f"{tuple(values.shape)}")  # fmt: skip
        return dim % values.ndim

    def count(self, values: Tensor) -> int:
        return values.shape[self._axis(values)]

    def mask(self, values: Tensor) -> Tensor:
        dim = self._axis(values)
        chosen = self._checked(values.shape[dim], type(self).__name__.lower().rstrip("s"), values)
        kept = values.new_zeros(values.shape[dim], dtype=_real(values))
        kept[chosen if self.index else slice(None)] = 1
        return kept.reshape([-1 if i == dim else 1 for i in range(values.ndim)])

    def total(self, relevance: Tensor) -> Tensor:
        moved = relevance.movedim(self._axis(relevance), 1)
        return moved.flatten(2).sum(2) if moved.ndim > 2 else moved


class Channels(Axis):
    """Channels: dimension 1 of [samples, channels], [samples, channels, height, width] and volumes, the last dimension
    of [samples, tokens, width]. `dim=` says another (1 for the signals of a 1-d convolution)."""

    def axis(self, values: Tensor) -> int:
        return -1 if values.ndim == 3 else 1


class Dimensions(Axis):
    """Entries of the last dimension, such as the residual stream's."""

    def axis(self, values: Tensor) -> int:
        return -1


class Tokens(Axis):
    """Positions: dimension 1 of [samples, tokens, width]."""

    def axis(self, values: Tensor) -> int:
        return 1


@dataclass(frozen=True, init=False)
class Heads(Units):
    """Attention heads: equal parts of the last dimension, `of` of them. They stand where the heads' outputs are joined:
    what the output projection is given (`"....o_proj:in"`)."""

    index: tuple[Any, ...]
    of: int

    def __init__(self, *index: int, of: int) -> None:
        object.__setattr__(self, "index", _flat(index))
        object.__setattr__(self, "of", of)

    def at(self, *index: Any) -> Heads:
        return Heads(*index, of=self.of)

    def count(self, values: Tensor) -> int:
        if self.of < 1 or values.ndim < 2 or values.shape[-1] % self.of:
            raise InputError(f"the last dimension of {tuple(values.shape)} does not divide into {self.of} heads")
        return self.of

    def mask(self, values: Tensor) -> Tensor:
        chosen = self._checked(self.count(values), "head", values)
        kept = values.new_zeros(self.of, dtype=_real(values))
        kept[chosen if self.index else slice(None)] = 1
        return kept.repeat_interleave(values.shape[-1] // self.of)

    def total(self, relevance: Tensor) -> Tensor:
        parts = relevance.unflatten(-1, (self.count(relevance), -1)).sum(-1)
        return parts.flatten(1, -2).sum(1) if parts.ndim > 2 else parts


@dataclass(frozen=True, init=False)
class Neurons(Units):
    """Single entries: an index is an int into the flattened sample, or a tuple such as (channel, row, column)."""

    index: tuple[Any, ...]

    def __init__(self, *index: int | Sequence[int]) -> None:
        object.__setattr__(self, "index", tuple(i if isinstance(i, int) else tuple(i) for i in index))

    def at(self, *index: Any) -> Neurons:
        return Neurons(*index)

    def count(self, values: Tensor) -> int:
        return values[0].numel()

    def mask(self, values: Tensor) -> Tensor:
        kept = values.new_zeros((1, *values.shape[1:]), dtype=_real(values))
        for i in self.index or (slice(None),):
            try:
                if isinstance(i, tuple):
                    kept[(0, *i)] = 1
                else:
                    kept.view(-1)[i] = 1
            except IndexError:
                raise InputError(f"neuron {i!r} is out of range: a sample has the shape {tuple(values.shape[1:])}") \
                    from None  # fmt: skip
        return kept

    def total(self, relevance: Tensor) -> Tensor:
        return relevance.flatten(1)


@dataclass(frozen=True, eq=False)
class Mask(Units):
    """Any entries, by a boolean or floating tensor that broadcasts against the layer's."""

    values: Tensor

    def count(self, values: Tensor) -> int:
        return 1

    def mask(self, values: Tensor) -> Tensor:
        shape = tuple(self.values.shape)
        pairs = zip(reversed(shape), reversed(values.shape))
        if len(shape) > values.ndim or any(m not in (1, v) for m, v in pairs):
            raise InputError(f"a mask of shape {shape} does not broadcast against a tensor of shape "
                             f"{tuple(values.shape)}")  # fmt: skip
        return self.values.to(values.device)

    def total(self, relevance: Tensor) -> Tensor:
        return (relevance * self.mask(relevance)).flatten(1).sum(1, keepdim=True)

    def __str__(self) -> str:
        return f"Mask(of shape {tuple(self.values.shape)})"


@dataclass(frozen=True, init=False, eq=False)
class Directions(Units):
    r"""Directions `v_i` of the layer's last or channel dimension as concepts: activation vectors (CAV), features of a
    sparse autoencoder's decoder, principal components.

    The activations are written in these directions, `a = V h + rest` with `h = V^+ a`, as an inserted linear layer;
    direction i has the relevance `h_i (V^T g)_i`, and passes `(V^+)_i^T v_i^T g` on.

    vectors   [directions, width]; they need not be orthogonal, but must be linearly independent
    """

    index: tuple[Any, ...]
    vectors: Tensor
    dim: int | None

    def __init__(self, vectors: Tensor, *index: int, dim: int | None = None) -> None:
        vectors = vectors.detach()
        vectors = vectors.unsqueeze(0) if vectors.ndim == 1 else vectors
        if vectors.ndim != 2 or not bool(torch.isfinite(vectors).all()):
            raise InputError(f"directions must be finite, [directions, width], got {tuple(vectors.shape)}")
        if int(torch.linalg.matrix_rank(vectors.double())) < len(vectors):
            raise InputError("the directions are linearly dependent: leave out those that others can make")
        object.__setattr__(self, "index", _flat(index))
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "dim", dim)

    def at(self, *index: Any) -> Directions:
        return Directions(self.vectors, *index, dim=self.dim)

    def count(self, values: Tensor) -> int:
        return len(self.vectors)

    def _basis(self, values: Tensor) -> tuple[int, Tensor, Tensor]:
        dim = Channels(dim=self.dim)._axis(values)
        if values.shape[dim] != self.vectors.shape[1]:
            raise InputError(
                f"directions of width {self.vectors.shape[1]} do not fit dimension {dim} of a tensor of shape "
                f"{tuple(values.shape)}"
            )
        v = self.vectors.to(values)
        return dim, v, torch.linalg.pinv(self.vectors.double()).to(values)

    def restrict(self, values: Tensor, g: Tensor, where: str) -> Tensor:
        dim, v, inverse = self._basis(values)
        chosen = self._checked(len(v), "direction", values) if self.index else list(range(len(v)))
        passed = g.movedim(dim, -1) @ v[chosen].T
        return (passed @ inverse.T[chosen]).movedim(-1, dim)

    def relevance(self, values: Tensor, g: Tensor) -> Tensor:
        dim, v, inverse = self._basis(values)
        h = values.movedim(dim, -1) @ inverse
        return (h * (g.movedim(dim, -1) @ v.T)).flatten(1, -2).sum(1) if values.ndim > 2 else h * (g @ v.T)

    def read(self, relevance: Tensor, values: Tensor, g: Tensor) -> Tensor:
        return self.relevance(values, g)

    def activity(self, values: Tensor) -> Tensor:
        dim, _, inverse = self._basis(values)
        h = values.movedim(dim, -1) @ inverse
        return h.flatten(1, -2).sum(1) if values.ndim > 2 else h

    def part(self, values: Tensor) -> Tensor:
        dim, v, inverse = self._basis(values)
        chosen = self._checked(len(v), "direction", values) if self.index else list(range(len(v)))
        return (values.movedim(dim, -1) @ inverse[:, chosen] @ v[chosen]).movedim(-1, dim)


@dataclass(frozen=True, eq=False)
class Rows(Units):
    """Units of their own for every part of the batch, which holds one copy of the samples for each."""

    parts: tuple[Units, ...]

    def restrict(self, values: Tensor, g: Tensor, where: str) -> Tensor:
        count = len(self.parts)
        if values.ndim < 2 or values.shape[0] % count:
            raise InputError(f"at {where!r}: the first dimension of {tuple(values.shape)} does not divide into {count} "
                             "parts, each with units of its own")  # fmt: skip
        pairs = zip(self.parts, values.chunk(count), g.chunk(count), strict=True)
        return torch.cat([part.restrict(v, h, where) for part, v, h in pairs])

    def __str__(self) -> str:
        return f"Rows({', '.join(map(str, self.parts))})"


def as_units(given: Any) -> Units:
    """Units from what a user wrote."""
    if isinstance(given, Units):
        return given
    if isinstance(given, bool):
        raise InputError("units must be an int, a list of ints, a tensor or one of the classes of relprop.concepts")
    if isinstance(given, int):
        return Channels(given)
    if isinstance(given, Tensor) and (given.dtype == torch.bool or given.is_floating_point()):
        return Mask(given)
    if isinstance(given, (list, tuple, range, Tensor)):
        found = [int(i) for i in given]
        if not found:
            raise InputError("an empty list selects no unit, so nothing would be left to explain")
        return Channels(*found)
    raise InputError(f"units of type {type(given).__name__} are not understood: give an int, a list of ints, a tensor "
                     "or one of the classes of relprop.concepts")  # fmt: skip


def _flat(index: Sequence[Any]) -> tuple[int, ...]:
    found: list[int] = []
    for i in index:
        found += [int(j) for j in i] if isinstance(i, (list, tuple, range, Tensor)) and not _scalar(i) else [int(i)]
    return tuple(found)


def _scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _real(values: Tensor) -> torch.dtype:
    return values.dtype if values.is_floating_point() else values.real.dtype
