"""Which sums are residual: one addend was computed from the other, or both from one tensor with a map on the short way.

`x + f(x)` is, and `down(x) + f(x)`; a rotation's `x cos + turned(x) sin`, word and position embeddings or scores and
their bias are not.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from relprop.ops import LinearMap
from relprop.record.coverage import bare

#: Nodes that a short way may hold, beside linear maps that a rule pulls: a projection and its norm.
_SHORT = frozenset("Convolution NativeBatchNorm CudnnBatchNorm MiopenBatchNorm Addmm Mm AvgPool2D View T".split())
_STEPS = 6


def residual(x: Tensor, y: Tensor) -> bool:
    """Whether `x + y` joins a way around with the way through."""
    if x.shape != y.shape or x.grad_fn is None or y.grad_fn is None:
        return False
    return _around(x.grad_fn, y.grad_fn) or _around(y.grad_fn, x.grad_fn)


def _around(short: Any, way: Any) -> bool:
    """Whether the short way, followed down through its maps, meets the other one."""
    for _ in range(_STEPS):
        if _reaches(way, short):
            return True
        if not (bare(short.name()) in _SHORT or _pulled(short)):
            return False
        before = _input(short)
        if before is None:
            return False
        short = before
    return False


def _made(node: Any) -> int:
    return int(node._sequence_nr())


def _pulled(node: Any) -> bool:
    return isinstance(getattr(getattr(node, "visit", None), "op", None), LinearMap)


def _input(node: Any) -> Any:
    """The node that made what a linear map was applied to: the one of its inputs that depends on anything."""
    inputs = [n for n, _ in node.next_functions if n is not None]
    return inputs[0] if len(inputs) == 1 else None


def _reaches(start: Any, target: Any) -> bool:
    """Whether `target` lies below `start`. Nodes are numbered as they are made, so older ones need no look."""
    floor, stack, seen = _made(target), [start], {start}
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is target:
                return True
            if node is not None and node not in seen and _made(node) > floor:
                seen.add(node)
                stack.append(node)
    return False
