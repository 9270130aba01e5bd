"""Distances and similarities of two tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.numerics import dot, vjp
from relprop.ops.base import Call, Expansion, Native, Op
from relprop.ops.cuts import step
from relprop.ops.table import op


@op("pairwise_distance", "dist")
def distance(call: Call) -> Expansion:
    """A norm of a difference: of degree one."""
    if call.name == "dist":
        x, y, p = call.bind("input other p", p=2)
        return Expansion(lambda: torch.linalg.vector_norm(x - y, p))
    x, y, p, eps, keepdim = call.bind("x1 x2 p eps keepdim", p=2.0, eps=1e-6, keepdim=False)
    return Expansion(lambda: torch.linalg.vector_norm(x - y + eps, p, -1, keepdim))


@op("cdist", "pdist")
def distances(call: Call) -> Op | Native | Expansion:
    """Norms of differences: of degree one in both tensors, so one that is constant absorbs its own share."""
    if call.bind("x1 x2 p" if call.name == "cdist" else "input p", p=2.0)[-1] == 0:
        return step(call)  # a count
    if call.name == "pdist":
        return Native()
    x, y = call.bind("x1 x2")
    if call.depends(x) and call.depends(y):
        return Native()
    rest, func = call.args[2:], call.func
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("x1", "x2")}
    first = call.depends(y)
    fixed, moving = (x, y) if first else (y, x)
    values = call.constant(moving)

    def share(g: Tensor) -> Tensor:
        form = lambda t: func(*((t, values) if first else (values, t)), *rest, **kwargs)  # noqa: E731
        return dot(fixed, vjp(form, (fixed,), g)[0])

    return Native(share=share)


@op("cosine_similarity")
def cosine(call: Call) -> Expansion:
    """A product of two directions: the lengths are constants."""
    x, y, dim, eps = call.bind("x1 x2 dim eps", dim=1, eps=1e-8)

    def run() -> Tensor:
        u, v = torch.broadcast_tensors(x, y)
        u = u / call.constant(u).norm(2, dim, keepdim=True).clamp_min(eps)
        v = v / call.constant(v).norm(2, dim, keepdim=True).clamp_min(eps)
        return (u * v).sum(dim)

    return Expansion(run)
