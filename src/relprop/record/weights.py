"""Relevance of weights: what passes through every entry of a linear map's weight."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.numerics import nonzero
from relprop.ops import LinearMap
from relprop.record.places import Place
from relprop.rules import Rule


class Weights:
    """The weights that are asked for, and the relevance that passed through each in one backward.

    The relevance of a weight is the sum of the messages that pass through it, over samples and positions:
    R_{w_jk} = sum of R_{j<-k}, so all weights of a map together have the relevance that reaches its input.
    """

    def __init__(self, model: nn.Module, places: Sequence[Place]) -> None:
        self.found: dict[str, Tensor] = {}
        self._wanted: dict[int, tuple[list[str], Tensor]] = {}
        self._seen: set[str] = set()
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if any(p.fits("parameter", name) for p in places):
                names, known = self._wanted.setdefault(parameter.untyped_storage()._cdata, ([], parameter))
                if known is not parameter:
                    raise InputError(f"layers: {names[0]!r} and {name!r} lie in the same memory: ask for one at a time")
                names.append(name)

    def open(self) -> None:
        """Begin a backward."""
        self.found = {}
        for names, parameter in self._wanted.values():
            self.found |= dict.fromkeys(names, torch.zeros_like(parameter, requires_grad=False))

    def watch(self, op: LinearMap, rule: Rule, own: LinearMap) -> Rule:
        """The rule for a map, observed if its weight is wanted. `own` has the weight before a batch norm joined."""
        weight = own.kernel if hasattr(own, "kernel") else own.weight
        entry = self._wanted.get(weight.untyped_storage()._cdata)
        if entry is None:
            return rule
        (name, *_), parameter = entry
        self._seen.add(name)
        layout = (weight.shape, weight.stride(), weight.storage_offset() - parameter.storage_offset())
        return Observed(rule, self, name, layout)

    def check(self) -> None:
        """Raise where a parameter that is asked for is no linear map's weight."""
        for (name, *_), _ in self._wanted.values():
            if name not in self._seen:
                raise InputError(
                    f"layers: {name!r} is not the weight of a linear map that depends on the input, and only such "
                    "weights have relevance of their own. What biases absorb is in the audit"
                )


@dataclass(frozen=True)
class Observed(Rule):
    """A rule for linear maps that notes what passes through each weight.

    Every message through a weight is multiplied by a factor of one; its derivative by the factors is their relevance.
    """

    rule: Any
    weights: Weights = field(repr=False, compare=False)
    name: str = ""
    layout: Any = None

    def linear(self, op: LinearMap, a: Tensor, z: Tensor, g: Tensor, books: Any) -> Tensor:
        with torch.enable_grad():
            ones = torch.ones_like(self.weights.found[self.name])  # of the parameter's strides
            factors = ones.requires_grad_().as_strided(*self.layout)
            values = a.detach()
            r = _probe(op, factors).pulled(self.rule, values, z.detach(), g.detach(), _Nowhere())
            (passed,) = torch.autograd.grad((nonzero(values) * r).sum(), ones)
        self.weights.found[self.name] += passed
        return op.pulled(self.rule, a, z, g, books)

    def __str__(self) -> str:
        return str(self.rule)


class _Nowhere:
    """Books that nobody reads: the messages alone are looked at."""

    def add(self, entry: str, amount: Tensor) -> None:
        return None


def _probe(op: LinearMap, factors: Tensor) -> LinearMap:
    """The same map, whose messages go through the factors; its denominators do not."""
    probe = copy.copy(op)
    plain: Any = op

    def transpose(s: Tensor, w: Tensor, a: Tensor) -> Tensor:
        if w.shape != factors.shape:
            raise InputError(f"weights of shape {tuple(factors.shape)} have no relevance by this rule")
        return plain.transpose(s, w * factors.to(w.dtype), a)

    made: Any = probe
    made.transpose = transpose
    itself = weakref.proxy(probe)  # what it holds may not hold it: the weights would wait for the collector
    made.pull_back = lambda s, a: transpose(s, op.weight, a)
    made.spread = lambda s, a: LinearMap.spread(itself, s, a)
    made.both = lambda s, w, v, a: LinearMap.both(itself, s, w, v, a)
    made.memory = None
    return probe
