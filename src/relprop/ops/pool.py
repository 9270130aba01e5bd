"""Pooling: max (winner takes all), average, LP, unpooling; and the maxima over dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.errors import RuleError
from relprop.numerics import tau, vjp
from relprop.ops.base import Call, Expansion, Fact, Kept, Native, Op
from relprop.ops.product import ROUTER
from relprop.ops.table import op


class Pool(Op):
    """A pooling call of degree one.

    form    the call as a function of its input alone (values only)
    maximum  whether one entry of a window wins
    """

    family = "pool"
    degree_one = True
    kind = "pool"

    def __init__(self, form: Callable[[Tensor], Tensor], maximum: bool, windows: Any = None) -> None:
        self.form, self.maximum, self.windows = form, maximum, windows

    def vjp(self, s: Tensor, x: Tensor) -> Tensor:
        return vjp(self.form, (x,), s)[0]

    def equal_ties(self, g: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """`g` in equal parts to all entries of each window that are its maximum."""
        name, rest, options = self.windows
        if name.startswith(("adaptive", "fractional")):
            raise RuleError(f"EqualTies needs windows of one size, which {name} has not: choose another rule for it")
        settings = dict(zip(("kernel_size", "stride", "padding", "dilation"), rest)) | options
        n = int(name[len("max_pool")])

        def each(value: Any) -> list[int]:
            return [value] * n if isinstance(value, int) else list(value)

        kernel = each(settings["kernel_size"])
        stride = each(settings.get("stride") or kernel)
        dilation, padding = each(settings.get("dilation", 1)), each(settings.get("padding", 0))
        sizes = list(y.shape[-n:])
        spans = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(sizes, stride, kernel, dilation)]
        amounts = [v for p, span, size in zip(padding, spans, x.shape[-n:]) for v in (p, max(span - size - p, 0))]
        amounts = [v for i in reversed(range(n)) for v in amounts[2 * i : 2 * i + 2]]
        padded = torch.nn.functional.pad(x, amounts, value=-torch.inf)
        views: list[Any] = [
            (..., *(slice(o * d, o * d + (m - 1) * s + 1, s) for o, d, m, s in zip(offset, dilation, sizes, stride)))
            for offset in itertools.product(*(range(k) for k in kernel))
        ]
        ties = torch.zeros_like(y)
        for view in views:
            ties += padded[view] == y
        part, pulled = g / ties, torch.zeros_like(padded)
        for view in views:
            pulled[view] += part * (padded[view] == y)
        inside: Any = (..., *(slice(p, p + size) for p, size in zip(padding, x.shape[-n:])))
        return pulled[inside]

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        return (rule.pool(self, operands[0], outputs[0], gs[0], books),)


def _first(call: Call) -> Tensor:
    return call.args[0] if call.args else call.kwargs["input"]


def _keeps(call: Call, x: Tensor) -> Fact:
    fact, known = Fact(), call.fact(x)
    fact.nonneg = known is not None and known.nonneg
    return fact


_MAX = [f"{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "adaptive_max")]
_MEAN = [f"{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("avg", "adaptive_avg")]


def _pool(call: Call, maximum: bool) -> Pool:
    x = _first(call)
    rest = call.args[1:]
    kwargs = {k: v for k, v in call.kwargs.items() if k != "input"}
    func = call.func

    def form(values: Tensor) -> Tensor:
        out = func(values, *rest, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    made = Pool(form, maximum, windows=(call.name, rest, kwargs))
    made.operands, made.run, made.fact = (x,), call.run, _keeps(call, x)
    return made


@op(*_MAX, *[f"{name}_with_indices" for name in _MAX], "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d_with_indices", "fractional_max_pool2d", "fractional_max_pool3d")  # fmt: skip
def max_pool(call: Call) -> Op:
    return _pool(call, maximum=True)


@op(*_MEAN)
def avg_pool(call: Call) -> Op:
    return _pool(call, maximum=False)


class Unpool(Op):
    """Entries put back to where a max pool took them from: those that are put to one place, where windows overlap, are
    one entry, which has given each its value, and share equally."""

    family = "fixed"
    kind = "pool"

    def __init__(self, indices: Tensor, dims: int) -> None:
        self.indices, self.dims = indices, dims

    def keep(self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor]) -> Kept:
        return (None,) * len(operands), (None,) * len(outputs)

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor | None],
        outputs: Sequence[Tensor | None],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        g, at = gs[0].flatten(-self.dims), self.indices.flatten(-self.dims)
        count = torch.zeros_like(g).scatter_add(-1, at, torch.ones_like(at, dtype=g.dtype))
        if self.carrying:  # on the zeros between them
            books.add("constants", g[count == 0].sum() * tau(g.dtype))
        return ((g / count.clamp(min=1)).gather(-1, at).view(self.indices.shape),)


@op("max_unpool1d", "max_unpool2d", "max_unpool3d")
def unpool(call: Call) -> Op:
    x, indices = call.bind("input indices")
    made = Unpool(indices, int(call.name[-2]))
    made.operands, made.run, made.fact = (x,), call.run, _keeps(call, x)
    return made


@op("lp_pool1d", "lp_pool2d", "lp_pool3d")
def lp_pool(call: Call) -> Op:
    """A norm over windows: of degree one. The roots of zero need the explicit gradient."""
    made = _pool(call, maximum=False)
    made.kind = "pool"
    return made


@op("max", "min", "amax", "amin", "topk", "sort", "median", "kthvalue", "cummax", "cummin", "aminmax", "msort",
    "nanmedian", "mode", "quantile", "nanquantile")  # fmt: skip
def selected(call: Call) -> Op | Native | Expansion:
    """Entries selected by value: routing, of degree one."""
    x = _first(call)
    other = call.args[1] if len(call.args) > 1 else call.kwargs.get("other")
    if call.name in ("max", "min") and isinstance(other, Tensor) and other.is_floating_point():
        return Expansion(lambda: (torch.maximum if call.name == "max" else torch.minimum)(x, other))
    fact, known = _keeps(call, x), call.fact(x)
    if call.name == "topk" and known is not None and known.gate == ROUTER - 1:
        fact.gate = ROUTER
    return Native(fact=fact)
