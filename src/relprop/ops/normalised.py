"""What is divided by in a softmax that is written out: the sum of exponentials, whole or by segments.

A graph's attention is normalised over the edges that end in one node: `exp`, a sum by `scatter_add` or one of its
kin, gathered again by the same index.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from relprop.ops.base import Call, Fact
from relprop.ops.stem import Link, link

#: What may be added to a sum of exponentials, or bound it from below, that it still is the sum.
SMALL = 1e-6
_MASKS = (torch.bool, torch.uint8)
#: They keep the order of entries, and so a sum that has lost its dimension may get it back.
_SHAPED = ("unsqueeze", "view", "reshape")


class Segments(NamedTuple):
    """Which entries along `dim` are summed up together: those with one value of `places`, of `size` values.

    places  as the call was given it: along `dim`, or as large as what is summed up
    """

    places: Tensor
    dim: int
    size: int

    def spread(self, like: Tensor) -> Tensor:
        """The index of every entry."""
        return _spread(self.places, self.dim, like)

    def summed(self, t: Tensor) -> Tensor:
        """The sum over its segment, at every entry."""
        index, shape = self.spread(t), list(t.shape)
        shape[self.dim] = self.size
        return t.new_zeros(shape).scatter_add(self.dim, index, t).gather(self.dim, index)


class Total(NamedTuple):
    """A sum of exponentials: of all along `dims`, or of `segments`, which are `gathered` or not."""

    exponential: Link
    dims: tuple[int, ...]
    segments: Segments | None = None
    gathered: bool = False

    def divides(self, x: Tensor, y: Tensor) -> bool:
        """Whether every entry of x is divided by the sum that it is part of, where y, the sum, divides x."""
        if self.segments is not None:
            return self.gathered and x.shape == y.shape
        dims = {d % x.ndim for d in self.dims} if x.ndim else set()
        kept = tuple(1 if i in dims else size for i, size in enumerate(x.shape))
        return (1,) * (x.ndim - y.ndim) + tuple(y.shape) == kept

    def alike(self, shift: Link | None, x: Tensor) -> bool:
        """Whether a shift of x is one number for all that is summed up together, so that it cancels."""
        values = shift.get() if shift is not None else None
        if values is None or values.numel() == 1:
            return shift is None or values is not None
        sizes = (1,) * (x.ndim - values.ndim) + tuple(values.shape)
        if self.segments is None:
            return all(sizes[d] == 1 for d in self.dims)
        with torch.no_grad():
            values, dim = values.detach().expand(x.shape), self.segments.dim
            index, shape = self.segments.spread(x), list(x.shape)
            shape[dim] = self.segments.size
            # whichever of a segment's was written last, it is the one of all
            return torch.equal(values.new_zeros(shape).scatter(dim, index, values).gather(dim, index), values)


def whole(call: Call, x: Tensor, dim: Any) -> Total | None:
    """`x.sum(dim)`."""
    if not _exponential(call, x):
        return None
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return Total(link(x), tuple(dims))


def segmented(call: Call) -> Fact | None:
    """A sum by an index, of exponentials, into a tensor of zeros."""
    if call.name == "index_put":
        base, given, source = call.bind("input indices values")
        dim, index = 0, given[0]
        if len(given) != 1 or index is None or index.ndim != 1 or source.shape[1:] != base.shape[1:]:
            return None
    else:
        base, dim, index, source = call.bind("input dim index src", src=call.kwargs.get("source"))[:4]
    alpha = call.kwargs.get("alpha", 1)
    if not _exponential(call, source) or call.depends(base) or not isinstance(dim, int) or alpha != 1:
        return None
    dim %= source.ndim
    if index.dtype in _MASKS or not _fits(index, dim, source):
        return None
    if bool((base.abs() > SMALL).any()):  # the device waits, where a softmax over a graph is written out
        return None
    fact = Fact()
    fact.nonneg = True
    fact.total = Total(link(source), (dim,), Segments(index, dim, base.shape[dim]))
    return fact


def moved(call: Call, total: Total) -> Total | None:
    """What is known of a total when its entries are moved: gathered by its own index."""
    segments = total.segments
    if segments is None:
        return total if call.name in _SHAPED or (call.name == "getitem" and _picked(call) is _SAME) else None
    exponential = total.exponential.get()
    picked = _picked(call)
    if total.gathered or exponential is None or not isinstance(picked, tuple) or picked[0] != segments.dim:
        return None
    index = picked[1]
    if index.dtype in _MASKS or not _fits(index, segments.dim, exponential):
        return None
    ours, theirs = segments.spread(exponential), _spread(index, segments.dim, exponential)
    if not (ours.is_set_to(theirs) or torch.equal(ours, theirs)):
        return None
    return total._replace(gathered=True)


def stabilised(call: Call, x: Tensor, number: Any) -> Total | None:
    """What is known of a total that a small number is added to, or bounds."""
    known = call.fact(x)
    small = isinstance(number, (int, float)) and 0 <= number <= SMALL
    return known.total if known is not None and small else None


#: The entries are the same, only the shape is another.
_SAME = object()


def _picked(call: Call) -> Any:
    """The dimension that a call picks entries along, and the index; `_SAME` or None where there is none."""
    x = call.args[0] if call.args else call.kwargs["input"]
    if call.name != "getitem":
        if call.name not in ("index_select", "gather", "take_along_dim"):
            return None
        if call.name == "take_along_dim":
            index, dim = call.bind("input indices dim", dim=None)[1:]
        else:
            dim, index = call.bind("input dim index")[1:]
        return (dim % x.ndim, index) if isinstance(dim, int) else None
    given = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    tensors = [i for i, part in enumerate(given) if isinstance(part, Tensor)]
    rest = [part for part in given if not isinstance(part, Tensor)]
    if not tensors:
        return _SAME if all(part is None or part is ... or part == slice(None) for part in rest) else None
    if len(tensors) > 1 or any(part != slice(None) for part in rest[: tensors[0]]):
        return None
    return (tensors[0], given[tensors[0]]) if all(p is ... or p == slice(None) for p in rest) else None


def masked(call: Call, x: Tensor, mask: Tensor) -> Fact | None:
    """What is known of an exponential whose entries a mask makes zero."""
    known = call.fact(x)
    if known is None or known.exponent is None or not covers(x, mask):
        return None
    fact = Fact()
    fact.nonneg, fact.exponent, fact.weighed = known.nonneg, known.exponent, True
    return fact


def covers(x: Tensor, constant: Any) -> bool:
    """Whether what is made of both has the shape of `x`."""
    return not isinstance(constant, Tensor) or torch.broadcast_shapes(x.shape, constant.shape) == x.shape


def _exponential(call: Call, x: Any) -> bool:
    known = call.fact(x)
    return known is not None and known.exponent is not None


def _fits(index: Tensor, dim: int, like: Tensor) -> bool:
    """Whether it has an entry for each along `dim`, or for all."""
    return index.shape == like.shape or (index.ndim == 1 and index.numel() == like.shape[dim])


def _spread(index: Tensor, dim: int, like: Tensor) -> Tensor:
    if index.ndim == like.ndim:
        return index
    return index.view([-1 if i == dim else 1 for i in range(like.ndim)]).expand(like.shape)
