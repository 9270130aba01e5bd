"""Calls that take no rule, for their own gradient carries the relevance: they run as they are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.ops import Native
from relprop.ops.arithmetic import Sum
from relprop.ops.elementwise import Elementwise
from relprop.ops.structure import SAME
from relprop.record.call import SeenCall
from relprop.record.marks import mark, upcoming
from relprop.record.step import Visit
from relprop.record.tensors import tensors
from relprop.rules import Identity, Signed

if TYPE_CHECKING:
    from relprop.record.recorder import Recorder


def moves(rec: Recorder, entry: Any, args: Any) -> bool:
    """Whether the call moves entries of a tensor of which nothing is known that its parts would share."""
    if entry.inplace or not args or not rec.graph.in_place or rec.sites.positions.entries:
        return False
    fact = rec.facts.get(args[0])
    return rec.graph.depends(args[0]) and (fact is None or not (fact.nonneg or fact.gate or fact.inverse))


def moved(rec: Recorder, func: Any, args: Any) -> Any:
    if rec.ledger.by_site:
        rec.natives.setdefault(func.__name__, rec.scope.paths[0])
    since = upcoming()
    result = func(*args)
    mark(result, since, rec.ledger)
    rec.facts.loosen()
    rec.scope.made = upcoming()
    return result


def run_natively(rec: Recorder, call: SeenCall, native: Native) -> Any:
    if rec.ledger.by_site:
        rec.natives.setdefault(call.name, rec.scope.paths[0])
    seen = rec.seen(call.args, call.kwargs)
    if native.form != "move" and rec.sites.carrying(seen):
        result = _carrying(rec, call, native)
    else:
        result = rec.graph.natively(call, native.run, native.operands if native.run else (), native.share)
    if call.name in SAME and isinstance(result, Tensor):
        rec.dtypes.add(result.dtype)
        if call.args and result is call.args[0]:  # nothing was to be changed: what is known of it stays
            return result
    rec.note(result, native.fact, seen)
    return result


def _carrying(rec: Recorder, call: SeenCall, native: Native) -> Any:
    """Scalings pass relevance entry by entry; sums stabilise it."""
    run, operands = native.run, native.operands if native.run else ()
    moving = native.operands or tuple(t for t in tensors((call.args, call.kwargs)) if rec.graph.depends(t))
    site = rec.sites.here("scale", call.name, "elementwise")
    carried_out = call.run if run is None else partial(run, *operands)
    if native.form == "scale" and len(moving) == 1:
        with torch.no_grad():
            shape = carried_out().shape
        if shape == moving[0].shape:
            op = Elementwise(call.name)
            op.carrying = True
            return rec.graph.step(Visit(op, Identity(), site, rec.ledger), carried_out, moving)
    result = rec.graph.natively(call, run, operands, native.share)
    if isinstance(result, Tensor):
        op_sum = Sum((1.0,))
        op_sum.carrying = True
        return rec.graph.step(Visit(op_sum, Signed(), site, rec.ledger), result.clone, (result,))
    return result
