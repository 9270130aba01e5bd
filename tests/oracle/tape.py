"""Small networks in explicit relevance form: every step keeps its values and says how relevance passes it.

The forward is written a second time, step by step, on a `Tape`; `Tape.back` then hands relevance itself
from step to step, adding up where a value is read twice. Slow and obvious; no line of the library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.oracle.dense import densify
from tests.oracle.formulas import Formula


@dataclass
class Value:
    """One value of the forward; `parents` and `pull` say where its relevance goes. Batch first."""

    data: Tensor
    parents: tuple[Value, ...] = ()
    pull: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    relevance: Tensor | None = None


class Tape:
    def __init__(self) -> None:
        self.values: list[Value] = []

    def _step(self, data: Tensor, parents: tuple[Value, ...], pull: Callable[[Tensor], tuple[Tensor, ...]]) -> Value:
        self.values.append(Value(data.detach(), parents, pull))
        return self.values[-1]

    def leaf(self, data: Tensor) -> Value:
        self.values.append(Value(data.detach()))
        return self.values[-1]

    def linear(self, x: Value, module: nn.Module, formula: Formula) -> Value:
        dense = densify(module, tuple(x.data.shape[1:]))
        return self._step(module(x.data), (x,), lambda r: (formula(dense, x.data, r),))

    def elementwise(self, x: Value, function: Callable[[Tensor], Tensor]) -> Value:
        """The identity rule: relevance stays where it is. A scaling by a constant is such a step too."""
        return self._step(function(x.data), (x,), lambda r: (r,))

    def add(self, *terms: Value) -> Value:
        """The signed split R_a = a / y R; where the sum is zero because all terms are, nothing passes."""
        y = sum(term.data for term in terms)

        def pull(r: Tensor) -> tuple[Tensor, ...]:
            return tuple(torch.where(y == 0, 0.0, term.data / torch.where(y == 0, 1.0, y) * r) for term in terms)

        return self._step(y, terms, pull)

    def cat(self, terms: list[Value], dim: int = 1) -> Value:
        sizes = [term.data.shape[dim] for term in terms]
        whole = torch.cat([term.data for term in terms], dim)
        return self._step(whole, tuple(terms), lambda r: tuple(r.split(sizes, dim)))

    def reshape(self, x: Value, *shape: int) -> Value:
        return self._step(x.data.reshape(*shape), (x,), lambda r: (r.reshape(x.data.shape),))

    def move(self, x: Value, function: Callable[[Tensor], Tensor]) -> Value:
        """A step that only moves, copies or leaves out elements (0 stands for none): slices, repeats."""
        shape = x.data.shape
        places = function(torch.arange(1, x.data.numel() + 1, dtype=torch.float64).reshape(shape)).long()

        def pull(r: Tensor) -> tuple[Tensor, ...]:
            back = torch.zeros(x.data.numel() + 1, dtype=r.dtype)
            return (back.index_add(0, places.flatten(), r.flatten())[1:].reshape(shape),)

        return self._step(function(x.data), (x,), pull)

    def max_pool(self, x: Value, size: int, **settings: int) -> Value:
        """Winner takes all; of equal winners the first."""
        y, places = functional.max_pool2d(x.data, size, **settings, return_indices=True)

        def pull(r: Tensor) -> tuple[Tensor, ...]:
            back = torch.zeros_like(x.data).flatten(2)
            return (back.scatter_add(2, places.flatten(2), r.flatten(2)).reshape(x.data.shape),)

        return self._step(y, (x,), pull)

    def average(self, x: Value, module: nn.Module) -> Value:
        """R_j = w_kj a_j / sum_j w_kj a_j R_k; by w_kj alone where all a_j that are read are zero."""
        w = densify(module, tuple(x.data.shape[1:])).w

        def pull(r: Tensor) -> tuple[Tensor, ...]:
            back = []
            for sample, relevance in zip(x.data.flatten(1), r.flatten(1)):
                p = w * sample
                p = torch.where((p == 0).all(1, keepdim=True), w, p)
                back.append((p / p.sum(1, keepdim=True) * relevance[:, None]).sum(0))
            return (torch.stack(back).reshape(x.data.shape),)

        return self._step(module(x.data), (x,), pull)

    def back(self, y: Value, relevance: Tensor) -> None:
        """Fill in `relevance` of every value that `y` was made from."""
        y.relevance = relevance
        for value in reversed(self.values):
            if value.relevance is None or value.pull is None:
                continue
            for parent, share in zip(value.parents, value.pull(value.relevance)):
                parent.relevance = share if parent.relevance is None else parent.relevance + share
