"""Which tensors stem from one tensor by elementwise calls, so that functions written out by hand are one function.

`0.5 * x * (1 + tanh(c * (x + d * x**3)))` is eight calls and one function of `x`. Every result of such a chain that
contains a call without degree is attached to the chain's root by one identity node of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from relprop.ops.base import Call, Fact

_DEPTH = 8


class Link(NamedTuple):
    """An ancestor, as long as it has not been changed in place. It is kept for as long as its descendant lives."""

    tensor: Tensor
    version: int

    def get(self) -> Tensor | None:
        return self.tensor if self.tensor._version == self.version else None


def link(tensor: Tensor) -> Link:
    return Link(tensor, tensor._version)


def ancestors(tensor: Tensor, fact: Fact | None) -> Iterator[Tensor]:
    """The tensor itself and what it stems from, nearest first."""
    yield tensor
    for ancestor in fact.stem if fact is not None else ():
        alive = ancestor.get()
        if alive is not None:
            yield alive


def chained(call: Call, tensor: Tensor) -> bool:
    fact = call.fact(tensor)
    return fact is not None and fact.chained


def chain_root(call: Call, tensor: Tensor) -> Tensor:
    """What a further elementwise function of `tensor` is attached to."""
    fact = call.fact(tensor)
    if fact is not None and fact.chained:
        root = fact.stem[0].get()
        if root is not None:
            return root
    return tensor


def common_root(call: Call, x: Tensor, y: Tensor) -> Tensor | None:
    """The nearest tensor that both stem from by elementwise calls, or None."""
    if x is y:
        return x
    known, others = call.fact(x), call.fact(y)
    if not (known is not None and known.stem) and not (others is not None and others.stem):
        return None
    ours = {id(a) for a in ancestors(x, known)}
    return next((a for a in ancestors(y, others) if id(a) in ours), None)


def stemmed(call: Call, fact: Fact, parent: Tensor) -> Fact:
    """Note in `fact` that the tensor was made from `parent` by an elementwise call."""
    known = call.fact(parent)
    fact.stem = (link(parent), *(known.stem if known else ()))[:_DEPTH]
    return fact
