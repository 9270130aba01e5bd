"""Calls that write entries into a tensor, or add them up in it, in place or not. They run natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relprop.numerics import dot, vjp
from relprop.ops.base import Call, Fact, Native, Share, without_rule
from relprop.ops.normalised import segmented
from relprop.ops.structure import finite_product
from relprop.ops.table import op

#: They write a plain number, if no tensor.
_NUMBERS = ("fill", "zero", "fill_diagonal", "index_fill", "constant_pad_nd", "scatter")
#: They add to what stands there.
_ADDS = ("index_add", "scatter_add")


@op(*_NUMBERS, *_ADDS, "copy", "index_copy", "index_put", "masked_scatter", "select_scatter", "slice_scatter",
    "diagonal_scatter", "put")  # fmt: skip
def placed(call: Call) -> Native:
    """Entries written into a tensor: what stood there before takes nothing, constants absorb their share."""
    adds = call.name in _ADDS or (call.name == "index_put" and _accumulates(call))
    return Native(share=_share(call), fact=segmented(call) if adds else None)


@op("scatter_reduce", "index_reduce")
def reduced(call: Call) -> Native:
    """Sums, averages and extremes of what comes to one entry."""
    reduce = call.bind("input dim index src reduce", src=call.kwargs.get("source"))[4]
    if reduce == "prod":
        raise without_rule(call, "products by an index have no rule")
    if not _constants(call):
        return Native(form="reduce")
    fact = segmented(call) if reduce == "sum" else None
    share = _won(call) if reduce in ("amax", "amin") else _added(call)
    return Native(form="reduce", share=share, fact=fact)


@op("segment_reduce")
def segments(call: Call) -> Native:
    if call.bind("data reduce")[1] == "prod" or call.kwargs.get("initial") is not None:
        raise without_rule(call, "products, and segments that begin with a number, have no rule")
    return Native(form="reduce")


@op("setitem")
def setitem(call: Call) -> Native:
    base, index, value = call.args
    if call.depends(base) and not call.depends(value):
        return Native(share=lambda g: finite_product(g[index], value))
    if not call.depends(value) or call.depends(base):
        return Native()
    values = base.detach().clone()

    def share(g: Tensor) -> Tensor:
        rest = g.clone()
        rest[index] = 0
        return dot(values, rest)

    return Native(share=share)


@op("nan_to_num")
def numbers(call: Call) -> Native:
    """Entries pass as they are; what is put where one is not finite is a constant."""
    x, nan = call.bind("input nan", nan=None)
    known, fact, held = call.fact(x), Fact(), call.constant(x)
    if known is not None:
        fact.gate, fact.inverse = known.gate, known.inverse
        fact.nonneg = known.nonneg and (nan or 0) >= 0
    at = ~held.isfinite()
    values = _again(call, lambda t: torch.where(at, held, 0.0))
    return Native(share=lambda g: finite_product(torch.where(at, g, 0.0), values), fact=fact)


@op("new_tensor")
def new_tensor(call: Call) -> Native:
    return Native()


def _constants(call: Call) -> list[Tensor]:
    given = (*call.args, *call.kwargs.values())
    values = [t for t in given if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())]
    return [t for t in values if not call.depends(t)]


def _share(call: Call) -> Share | None:
    """What the constant ones of target and written values absorb."""
    if call.name == "copy" and call.depends(call.bind("input src")[1]):
        return None  # nothing is left of the target
    number = call.name in _NUMBERS and (call.name != "scatter" or not _tensor_written(call))
    if not number and not _constants(call):
        return None
    if call.name in _ADDS or _accumulates(call):
        return _added(call)
    result = _again(call, lambda t: torch.full_like(t, torch.nan))
    at = ~result.isnan()
    values = torch.where(at, result, 0.0)
    return lambda g: finite_product(torch.where(at, g, 0.0), values)


def _tensor_written(call: Call) -> bool:
    return isinstance(call.bind("input dim index src", src=call.kwargs.get("value"))[3], Tensor)


def _accumulates(call: Call) -> bool:
    if call.name not in ("index_put", "put"):
        return False
    return bool(call.args[3] if len(call.args) > 3 else call.kwargs.get("accumulate", False))


def _added(call: Call) -> Share:
    """What constants absorb of a call that is linear in target and values: what it makes of them alone."""
    values = _again(call, torch.zeros_like)
    return lambda g: dot(values, g)


def _won(call: Call) -> Share:
    """What constants absorb that may be an extreme."""
    constants = {id(t): t.clone() for t in _constants(call)}
    target = call.bind("input")[0]
    before = {id(target): target.detach().clone()}  # the call may change it in place

    def result(*given: Tensor) -> Tensor:
        values = before | dict(zip(constants, given, strict=True))
        return _called(call, lambda t: values.get(id(t), t.detach()))

    def share(g: Tensor) -> Tensor:
        values = [*constants.values()]
        return torch.stack([dot(c, part) for c, part in zip(values, vjp(result, values, g), strict=True)]).sum()

    return share


def _again(call: Call, instead: Callable[[Tensor], Tensor]) -> Tensor:
    """The call with something instead of every tensor that depends on the input."""
    with torch.no_grad():
        return _called(call, lambda t: instead(t) if call.depends(t) else t)


def _called(call: Call, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The call on other tensors, its target left as it is."""

    def given(value: Any, first: bool) -> Any:
        if not isinstance(value, Tensor):
            return value
        changed = change(value)
        return changed.clone() if first else changed

    args = [given(value, i == 0) for i, value in enumerate(call.args)]
    result: Tensor = call.func(*args, **{k: given(v, k in ("input", "self")) for k, v in call.kwargs.items()})
    return result
