"""Fused attention kernels: the kernel itself, with what enters it sharing out its gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from relprop.errors import ModelStateError
from relprop.ops.attention import Attention
from relprop.record.books import Ledger
from relprop.record.graph import Graph
from relprop.record.step import Visit
from relprop.rules.base import as_is
from relprop.site import Site


def attend(graph: Graph, ledger: Ledger, op: Attention, rule: Any, site: Site, operands: tuple[Tensor, ...]) -> Any:
    """Carry the kernel out, in the graph."""
    shares = rule.attention(op)
    if shares == {"v": 1.0} and "v" in op.roles and op.inputs["v"].is_cpu:
        weighting, constants = op.weighting()
        given = (operands[op.roles.index("v")], *(graph.constant(t) for t in constants))
        return graph.step(Visit(weighting, rule, site, ledger), partial(op.kernel, {}), given)
    taken = {r: t for r, t in zip(op.roles, operands, strict=True) if shares.get(r)}
    if not taken:
        return graph.without(partial(op.kernel, {}))
    entering, entrance = tuple(taken.values()), op.entrance(taken, shares, few=graph.in_place)
    onward = graph.step(Visit(entrance, rule, site, ledger), partial(_views, entering), entering)
    changed = {r: graph.constant(t) for r, t in zip(op.roles, operands, strict=True) if r not in taken}
    changed |= zip(taken, onward, strict=True)
    # the values' relevance is the output's
    lost = 1.0 - (shares.get("v", 0.0) if "v" in op.roles else 0.0)
    result = graph.attended(op, changed, lost, site, entrance.few if entrance.looks else as_is)
    if not result.requires_grad and any(t.requires_grad for t in changed.values()):
        raise ModelStateError(
            f"the attention kernel at {site.label} returned no gradient: choose another by torch.nn.attention."
        )
    return result


def _views(operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.view_as(t) for t in operands)
