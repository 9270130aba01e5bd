"""In-place calls keep their meaning, also where their return value is ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.errors import ModelStateError
from relprop.ops import TABLE, Expansion, Native, Op
from relprop.ops.arithmetic import Sum
from relprop.ops.elementwise import Elementwise
from relprop.record.call import SeenCall
from relprop.record.marks import mark, mark_written, upcoming
from relprop.record.rectified import absorb
from relprop.record.tensors import out_of_place
from relprop.rules.base import as_is

if TYPE_CHECKING:
    from relprop.record.recorder import Recorder

#: Calls that replace what stood in their target.
WRITERS = frozenset(("setitem", "copy", "fill", "zero"))
_PLACERS = frozenset(
    "fill_diagonal index_add index_copy index_put index_fill scatter scatter_add masked_scatter put".split()
)
#: They add up in their target, of which something may be known then.
_ADDERS = ("index_add", "scatter_add", "scatter_reduce", "index_put")
#: The functions of torch.nn.functional that take `inplace` last.
_INPLACE_LAST = frozenset(
    "relu relu6 silu mish hardswish hardsigmoid elu selu celu leaky_relu rrelu hardtanh threshold dropout "
    "alpha_dropout dropout1d dropout2d dropout3d feature_alpha_dropout".split()
)


def is_inplace(call: SeenCall, entry: Any) -> bool:
    if entry.inplace or entry.name == "setitem" or (call.kwargs and call.kwargs.get("inplace")):
        return True
    return len(call.args) > 1 and call.args[-1] is True and _positional(call)


def written(func: Any, entry: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The tensor that a call on constants changes in place, if any."""
    if kwargs.get("out") is not None:
        return kwargs["out"]
    if entry is None:
        name = getattr(func, "__name__", "")
        changes = name.endswith("_") and not name.endswith("__")
    else:
        asked = entry.name in _INPLACE_LAST and (kwargs.get("inplace") or any(a is True for a in args[-1:]))
        changes = entry.inplace or entry.name == "setitem" or asked
    target = args[0] if args else kwargs.get("input")
    return target if changes and isinstance(target, Tensor) else None


def _positional(call: SeenCall) -> bool:
    """`F.relu(x, True)`."""
    return getattr(call.func, "__module__", "") == "torch.nn.functional" and call.name in _INPLACE_LAST


def inplace(rec: Recorder, call: SeenCall, entry: Any) -> Any:
    """In-place calls keep their meaning: computed as any other, then written into the target."""
    target = call.args[0] if call.args else call.kwargs["input"]
    if entry.name in WRITERS or entry.name in _PLACERS:
        return _write_natively(rec, call, entry, target)
    kwargs = {k: v for k, v in call.kwargs.items() if k != "inplace"}
    args = call.args
    if len(args) > 1 and args[-1] is True and _positional(call):
        args = args[:-1]
    constant = not rec.graph.depends(target)
    if constant:  # what stands there absorbs its share
        args, kwargs = rec.graph.hold(args, kwargs, 0)
    elif entry.name == "exp":  # what it is of is asked for where it is divided by its sum
        with rec:
            source = target.clone()
        rec.facts.move(target, source)
        args = (source, *args[1:])
    func = out_of_place(call.func)
    outer = rec.call(func, entry.name, args, kwargs)
    parsed = rec.parse(entry, outer)
    if (
        not constant
        and rec.graph.in_place
        and _runs_natively(rec, parsed, outer)
        and not (target._is_view() and _books(parsed))
    ):
        if entry.name == "relu" and absorb(rec, target, parsed, call):
            return target
        if isinstance(parsed, Sum) and rec.boxes.alone_with(target):
            return adopt(rec, target, rec.carry_out(outer, parsed))
        rec.boxes.before_write(target)
        fresh = rec.call(call.func, entry.name, call.args, call.kwargs)
        if isinstance(parsed, Op):
            parsed.run = fresh.run
        result = rec.carry_out(fresh, parsed)
        mark_written(target)
        return result
    result = rec.carry_out(outer, parsed)
    if result is target:
        return target  # dropout that drops nothing
    if not rec.graph.in_place and isinstance(result, Tensor) and result._base is target:
        raise ModelStateError(
            f"create_graph=True cannot follow {entry.name}_, which gives a tensor another shape in place (in module "
            f"{rec.scope.paths[0] or '(model)'!r}): call {entry.name}, or explain without create_graph"
        )
    return write(rec, target, result)


def _runs_natively(rec: Recorder, parsed: Op | Native | Expansion, call: SeenCall) -> bool:
    """A call that torch itself may carry out in place: an activation of degree one, a signed sum, a factor."""
    if isinstance(parsed, Native) and parsed.form == "move":
        return parsed.run is None
    if rec.sites.carrying(rec.seen(call.args, call.kwargs)):
        return False
    if isinstance(parsed, Native):
        return parsed.run is None
    if isinstance(parsed, (Elementwise, Sum)):
        if "site" in rec.captures.kinds:
            return False  # its result may have to be handed on as another tensor
        if isinstance(parsed, Elementwise) and not parsed.degree_one:
            return False
        site = rec.sites.here(parsed.kind, getattr(parsed, "name", "add"), parsed.family, count=False)
        for inner in rec.sites.positions.counted:
            if inner.matches(site):
                return False
        return rec.composite.decide(site).rule.native(parsed) is as_is
    return False


def _books(parsed: Op | Native | Expansion) -> bool:
    """Whether a hook would hang on the result; on a written view it would be lost to who reads the base."""
    return (isinstance(parsed, Native) and parsed.share is not None) or (
        isinstance(parsed, Sum) and parsed.constant is not None
    )


class Adopt(torch.autograd.Function):
    """The target becomes the result, memory and all; what is kept of it keeps the old memory."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, result: Tensor) -> Tensor:
        ctx.mark_dirty(target)
        target.data = result.detach()
        return target

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, g


def adopt(rec: Recorder, target: Tensor, result: Tensor) -> Tensor:
    """A write that costs no copy: what was kept for the backward would have been copied, and the result after it."""
    if (result.shape, result.stride(), result.dtype) != (target.shape, target.stride(), target.dtype):
        return write(rec, target, result)
    fact, seen = rec.facts.get(result), rec.facts.seen(result)
    Adopt.apply(target, result)
    mark_written(target)
    rec.facts.put(target, fact)
    rec.facts.mark_seen(target, seen)
    return target


def write(rec: Recorder, target: Tensor, result: Any) -> Any:
    if rec.graph.depends(target) and not rec.graph.depends(result):
        if rec.graph.in_place and rec.boxes.free(target):
            rec.facts.put(target.detach_().copy_(result), None)  # nothing is left of it
            return target
        copy = TABLE.get(torch.Tensor.copy_)
        return _write_natively(rec, rec.call(torch.Tensor.copy_, "copy", (target, result), {}), copy, target)
    rec.boxes.before_write(target)
    rec.graph.before_write(target, rec.scope.paths[0])
    fact, seen = rec.facts.get(result), rec.facts.seen(result)
    target.copy_(result)
    mark_written(target)
    rec.graph.written(target, result)
    rec.facts.put(target, fact)
    rec.facts.mark_seen(target, seen)
    return target


def _write_natively(rec: Recorder, call: SeenCall, entry: Any, target: Tensor) -> Any:
    if rec.graph.in_place:
        rec.boxes.before_write(target)
    seen = rec.seen(call.args, call.kwargs)
    parsed = entry.parse(call)
    share = parsed.share if isinstance(parsed, Native) else None
    fact = parsed.fact if isinstance(parsed, Native) and entry.name in _ADDERS else None
    if not rec.graph.in_place:
        write(rec, target, rec.graph.placed(call, target, share))
        rec.facts.put(target, fact)
        rec.facts.mark_seen(target, seen)
        return target
    if share is not None and target._is_view() and rec.graph.depends(target):
        since = upcoming()
        whole = target.clone()  # a hook on a written view would be lost to who reads its base
        call.func(*(whole if a is target else a for a in call.args), **call.kwargs)
        mark(whole, since, rec.ledger, share)
        write(rec, target, whole)
        rec.facts.put(target, fact)
        rec.facts.mark_seen(target, seen)
        return target
    since = upcoming()
    result = call.run()
    mark(target, since, rec.ledger, share)
    mark_written(target)
    rec.facts.put(target, fact)
    rec.facts.mark_seen(target, seen)
    return result
