"""Dense layers on one input whose weights lie in one matrix, such as the projections of self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from relprop.ops.base import Call, Expansion, Op
from relprop.ops.linear import as_map
from relprop.ops.maps import Dense, dense, like
from relprop.ops.table import op


def packed_linear(a: Tensor, w: Tensor, b: Tensor | None, count: int) -> tuple[Tensor, ...]:
    """`F.linear(a, w, b)` in `count` equal parts of the last dimension, each in memory of its own.

    It stands in the table like a function of torch's, so whoever looks on sees one call.
    """
    if has_torch_function((a,)):
        made: tuple[Tensor, ...] = handle_torch_function(packed_linear, (a,), a, w, b, count)
        return made
    parts = dense(a, w, b).chunk(count, -1)
    return tuple(p.clone(memory_format=torch.contiguous_format) for p in parts)


class Packed(Dense):
    """`count` dense layers in one. What reaches some of them alone passes these alone."""

    explicit = True

    def __init__(self, weight: Tensor, bias: Tensor | None, count: int) -> None:
        super().__init__(weight, bias)
        self.count = count
        self._parts: dict[tuple[int, ...], Dense] = {}

    def part(self, which: tuple[int, ...]) -> Dense:
        """The layers `which` as one."""
        if which not in self._parts:
            w, b = self.weight, self.bias
            if len(which) < self.count:
                w = _joined([w.chunk(self.count)[i] for i in which], 0)
                b = None if b is None else _joined([b.chunk(self.count)[i] for i in which], 0)
            made = self._parts[which] = Dense(w, b)
            like(self, made)
            made.memory = None if self.memory is None else {}
            made.store = None if self.store is None else self.store.setdefault(str(which), {})
        return self._parts[which]

    def pull(
        self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor], gs: Sequence[Tensor], books: Any
    ) -> tuple[Tensor | None, ...]:
        which = tuple(i for i, g in enumerate(gs) if g is not None)
        if not rule.by_output:
            gs = [torch.zeros_like(z) if g is None else g for g, z in zip(gs, outputs, strict=True)]
            which = tuple(range(self.count))
        g = _joined([gs[i] for i in which], -1)
        part, a = self.part(which).ran_in(g.dtype), self.input(operands[0])
        z = None if outputs[which[0]] is None else _joined([outputs[i] for i in which], -1)
        return (part.pulled(rule, a, z, g, books),)


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


@op(packed_linear)
def packed(call: Call) -> Op | Expansion:
    a, w, b, count = call.args
    if call.depends(w) or call.depends(b):
        return Expansion(lambda: tuple(t.contiguous() for t in torch.nn.functional.linear(a, w, b).chunk(count, -1)))
    return as_map(call, a, Packed(w, b, count))
