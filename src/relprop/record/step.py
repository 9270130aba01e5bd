"""The one autograd function: the call as torch runs it forward, the rule backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relprop.ops.base import Op
from relprop.record.books import Ledger
from relprop.rules import Rule
from relprop.site import Site


class Visit:
    """One site with its operation and rule, as the graph's node keeps it (no activation in it)."""

    __slots__ = ("ledger", "op", "rule", "site")

    def __init__(self, op: Op, rule: Rule, site: Site, ledger: Ledger) -> None:
        self.op, self.rule, self.site, self.ledger = op, rule, site, ledger


class Step(torch.autograd.Function):
    """Forward: `run()`, untouched. Backward: the rule's modified gradients of the operands."""

    @staticmethod
    def forward(ctx: Any, visit: Visit, run: Callable[[], Any], *operands: Tensor) -> Any:
        result = run()
        if isinstance(result, tuple):
            outputs: tuple[Any, ...] = result
            integers = [o for o in outputs if isinstance(o, Tensor) and not (o.is_floating_point() or o.is_complex())]
            if integers:
                ctx.mark_non_differentiable(*integers)
        else:
            if result._is_view():
                result = _fresh(result, operands)
            outputs = (result,)
        ctx.set_materialize_grads(False)
        ctx.visit, ctx.count = visit, len(operands)
        kept = (operands, outputs) if visit.ledger.by_site else visit.op.keep(visit.rule, operands, outputs)
        ctx.save_for_backward(*kept[0], *kept[1])
        return result

    @staticmethod
    def backward(ctx: Any, *gs: Any) -> Any:
        visit, count = ctx.visit, ctx.count
        if gs[0] is None and visit.op.brought is None and all(g is None for g in gs):
            return (None,) * (2 + count)
        saved = ctx.saved_tensors  # may recompute a checkpointed segment, which the recorder has to see
        with torch._C.DisableTorchFunction():
            ledger = visit.ledger
            ledger.open(visit.site)
            pulled = visit.op.pull(visit.rule, saved[:count], saved[count:], gs, ledger)
            if ledger.by_site:
                ledger.flow(visit.site, saved[:count], () if visit.op.within else saved[count:], gs, pulled)
        return (None, None, *pulled)


class Plain(torch.autograd.Function):
    """A dense map under a rule that asks for its own gradient: what `Step` does, without what such a map never needs.

    Large models have hundreds of them, and there the time of every line counts.
    """

    @staticmethod
    def forward(ctx: Any, visit: Visit, run: Callable[[], Tensor], a: Tensor) -> Tensor:
        result = run()
        ctx.visit = visit
        ctx.set_materialize_grads(False)
        return _fresh(result, (a,)) if result._is_view() else result

    @staticmethod
    def backward(ctx: Any, *gs: Any) -> Any:
        if gs[0] is None:
            return None, None, None
        visit: Any = ctx.visit
        with torch._C.DisableTorchFunction():
            return None, None, visit.op.passed_plainly(visit.rule, gs[0], visit.ledger)


#: `Step.apply(visit, run, *operands)`, without what that does for functorch at every call.
take: Callable[..., Any] = super(torch.autograd.Function, Step).apply
take_plainly: Callable[..., Any] = super(torch.autograd.Function, Plain).apply


def _fresh(view: Tensor, operands: tuple[Tensor, ...]) -> Tensor:
    """The same memory under a tensor that is no view, which a model may then change in place.

    Unless the memory is an operand's: then it is one on purpose.
    """
    if view.layout is not torch.strided or view.is_conj() or view.is_neg():
        return view
    memory = view.untyped_storage()
    if any(o.layout is torch.strided and o.untyped_storage()._cdata == memory._cdata for o in operands):
        return view
    return view.new_empty(0).set_(memory, view.storage_offset(), view.size(), view.stride())
