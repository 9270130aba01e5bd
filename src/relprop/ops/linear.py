"""The calls that are linear maps: `linear`, convolutions, products with a constant, `einsum`, bilinear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.numerics import MANY, without_autocast
from relprop.ops.base import Call, Expansion, Native, Op, without_rule
from relprop.ops.convolution import Conv
from relprop.ops.maps import Dense, Einsum, LinearMap, Matmul, dense
from relprop.ops.product import (
    dependent_conv,
    dependent_linear,
    einsum_product,
    kernel_form,
    plus,
    product_of,
    spelled_out,
)
from relprop.ops.table import op


def as_map(call: Call, a: Tensor, made: LinearMap) -> LinearMap:
    fact = call.fact(a)
    if fact is not None:
        made.nonneg, made.pad, made.lift = fact.nonneg, fact.pad, fact.lift
    made.operands, made.run = (a,), call.run
    return made


def _constant(call: Call, value: Any) -> Any:
    return value if value is None or not call.depends(value) else None


@op("linear")
def linear(call: Call) -> Op | Native | Expansion:
    a, w, b = call.bind("input weight bias", bias=None)
    if call.depends(w) or call.depends(b):
        return dependent_linear(call, a, w, b)
    made = as_map(call, a, Dense(w if w.layout is torch.strided else w.to_dense(), b))
    made.run = partial(dense, a, w, b)
    return _by_row(made, a)


def _by_row(made: LinearMap, a: Tensor) -> LinearMap:
    """A map of rows to rows: those without relevance are left out, as torch's own gradient does not."""
    w, b = made.weight, made.bias
    alike = w.ndim == 2 and (b is None or b.ndim == 1) and made.pad is None and made.lift is None
    if alike and a.is_cpu and a.numel() >= MANY * a.shape[-1]:
        made.by_row = made.explicit = True
    return made


_CONVS = {f"conv{n}d": (n, False) for n in (1, 2, 3)} | {f"conv_transpose{n}d": (n, True) for n in (1, 2, 3)}


def _tuple(value: Any, n: int) -> list[int]:
    return [int(value)] * n if isinstance(value, int) else [int(v) for v in value] * (n if len(value) == 1 else 1)


@op(*_CONVS)
def conv(call: Call) -> Op | Native | Expansion:
    n, transposed = _CONVS[call.name]
    if transposed:
        a, w, b, stride, padding, output_padding, groups, dilation = call.bind(
            "input weight bias stride padding output_padding groups dilation",
            bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1,
        )  # fmt: skip
    else:
        a, w, b, stride, padding, dilation, groups = call.bind(
            "input weight bias stride padding dilation groups",
            bias=None,
            stride=1,
            padding=0,
            dilation=1,
            groups=1,
        )
        output_padding = 0
    if call.depends(w) or call.depends(b):
        if not call.depends(a) and not call.depends(b):
            form = kernel_form(call)
            return as_map(call, w, Einsum(a, lambda v, u: form(u, v), _shaped(b, n)))
        return dependent_conv(call, a, w, b)
    stride, dilation = _tuple(stride, n), _tuple(dilation, n)
    made: LinearMap
    if isinstance(padding, str):
        numeric = _same_padding(padding, list(w.shape[2:]), dilation)
        if numeric is None:
            made = Einsum(w, _uneven(call.func, padding, dilation, groups), _shaped(b, n))
            made.kind = "conv"
            return as_map(call, a, made)
        padding = numeric
    made = Conv(w, b, stride, _tuple(padding, n), dilation, transposed, _tuple(output_padding, n), groups)
    return as_map(call, a, made)


def _shaped(b: Tensor | None, n: int) -> Tensor | None:
    return None if b is None else b.reshape(-1, *(1,) * n)


def _same_padding(padding: str, kernel: list[int], dilation: list[int]) -> list[int] | None:
    """The symmetric padding that a string stands for, or None where "same" pads one side more."""
    if padding == "valid":
        return [0] * len(kernel)
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return None if any(t % 2 for t in total) else [t // 2 for t in total]


def _uneven(func: Any, padding: str, dilation: list[int], groups: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, w: func(a, w, None, 1, padding, dilation, groups)


@op("torchvision::deform_conv2d")
def deformable(call: Call) -> Op | Expansion:
    """Where its kernel reads, and how much of it counts there, are constants of the map, whatever they depend on."""
    a, w, offset, mask, b = call.bind("input weight offset mask bias")
    func, rest = call.func, call.args[5:]
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "offset", "mask", "bias")}
    if call.depends(offset) or call.depends(mask):
        fixed = [call.cut(t) if call.depends(t) else t for t in (offset, mask)]
        return Expansion(lambda: func(a, w, *fixed, b, *rest, **kwargs))
    if call.depends(w) or call.depends(b):
        raise without_rule(call, "weights that depend on the input have no rule")
    none = torch.zeros_like(b)
    made = Einsum(w, lambda u, v: func(u, v, offset, mask, none, *rest, **kwargs), _shaped(b, 2))
    made.kind = "conv"
    return as_map(call, a, made)


@op("matmul", "mm", "bmm", "mv", "rmatmul")
def matmul(call: Call) -> Op | Native | Expansion:
    x, y = call.bind("input other", **({"other": None} if call.name != "matmul" else {}))
    if y is None:
        y = call.kwargs.get("mat2", call.kwargs.get("vec"))
    if call.name == "rmatmul":
        x, y = y, x
    return _matmul(call, x, y, None)


def _matmul(call: Call, x: Tensor, y: Tensor, bias: Tensor | None) -> Op | Native | Expansion:
    if call.depends(x) and call.depends(y):
        return product_of(call, x, y, torch.matmul, bias)
    if (y if call.depends(x) else x).layout is not torch.strided:  # a graph's edges: as `torch.sparse.mm`, no map
        return Native(form="reduce") if bias is None else Expansion(lambda: plus(torch.matmul(x, y), bias))
    if call.depends(x):
        return _by_row(as_map(call, x, Matmul(y, bias, left=False)), x)
    return as_map(call, y, Matmul(x, bias, left=True))


@op("dot", "inner", "vdot")
def dot(call: Call) -> Op | Native | Expansion:
    x, y = call.bind("input other", other=call.kwargs.get("tensor"))
    form = torch.inner
    if call.depends(x) and call.depends(y):
        return product_of(call, x, y, form, None)
    if call.depends(x):
        return as_map(call, x, Einsum(y, form))
    return as_map(call, y, Einsum(x, lambda a, w: form(w, a)))


@op("addmm", "baddbmm", "addmv", "addbmm")
def addmm(call: Call) -> Op | Native | Expansion:
    base, x, y, beta, alpha = call.bind(
        "input mat1 mat2 beta alpha",
        mat1=call.kwargs.get("batch1", call.kwargs.get("mat")),
        mat2=call.kwargs.get("batch2", call.kwargs.get("vec")),
        beta=1,
        alpha=1,
    )
    if not call.depends(base) and call.name != "addbmm":
        bias = base * beta if beta != 1 else base
        if call.depends(x) and call.depends(y):
            return Expansion(lambda: plus(torch.matmul(x, y) * alpha if alpha != 1 else torch.matmul(x, y), bias))
        if call.depends(x):
            return _matmul(call, x, y * alpha if alpha != 1 else y, bias)
        return _matmul(call, x * alpha if alpha != 1 else x, y, bias)
    if call.name == "addbmm":
        return Expansion(lambda: plus(torch.bmm(x, y).sum(0) * alpha, base * beta))
    return Expansion(lambda: plus(torch.matmul(x, y) * alpha, base * beta))


@op("einsum")
def einsum(call: Call) -> Op | Native | Expansion:
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if not isinstance(equation, str):
        return Expansion(lambda: torch.einsum(*_sublists(equation, operands)))
    moving = [i for i, x in enumerate(operands) if call.depends(x)]
    if len(moving) > 1:
        return einsum_product(call, equation, operands)
    at = moving[0]
    if len(operands) == 1:
        return Native(form="reduce")
    if len(operands) == 2:
        other = operands[1 - at]
        if at == 0:
            return as_map(call, operands[0], Einsum(other, lambda a, w: torch.einsum(equation, a, w)))
        return as_map(call, operands[1], Einsum(other, lambda a, w: torch.einsum(equation, w, a)))
    return as_map(call, operands[at], _many(equation, operands, at))


def _many(equation: str, operands: list[Tensor], at: int) -> Einsum:
    """Several constants: their product is the map's weight, so that rules see the signs of the whole entry."""
    terms, out = spelled_out(equation, operands)
    rest = [t for i, t in enumerate(terms) if i != at]
    fixed = [x for i, x in enumerate(operands) if i != at]
    letters = "".join(c for c in dict.fromkeys("".join(rest)) if c in terms[at] or c in out)
    with without_autocast():
        weight = torch.einsum(",".join(rest) + "->" + letters, *fixed)
    joined = f"{terms[at]},{letters}->{out}"
    return Einsum(weight, lambda a, w: torch.einsum(joined, a, w))


def _sublists(first: Tensor, rest: Sequence[Any]) -> list[Any]:
    """The `einsum(tensor, [0, 1], tensor, [1, 2], [0, 2])` form written as an equation."""
    items = [first, *rest]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    spell = lambda axes: "".join("..." if x is ... else letters[x] for x in axes)  # noqa: E731
    tensors, axes = items[: len(items) // 2 * 2 : 2], items[1::2]
    equation = ",".join(spell(x) for x in axes[: len(tensors)])
    if len(items) % 2:
        equation += "->" + spell(items[-1])
    return [equation, *tensors]


@op("tensordot")
def tensordot(call: Call) -> Op | Native | Expansion:
    x, y, dims = call.bind("a b dims", dims=2)
    form = lambda a, w: torch.tensordot(a, w, dims)  # noqa: E731
    if call.depends(x) and call.depends(y):
        return product_of(call, x, y, form, None)
    if call.depends(x):
        return as_map(call, x, Einsum(y, form))
    return as_map(call, y, Einsum(x, lambda a, w: torch.tensordot(w, a, dims)))


@op("bilinear")
def bilinear(call: Call) -> Op | Native | Expansion:
    x, y, w, b = call.bind("input1 input2 weight bias", bias=None)
    if call.depends(w) or call.depends(b):

        def run() -> Tensor:
            z = torch.einsum("...i,oij,...j->...o", x, w, y)
            return z if b is None else plus(z, b)

        return Expansion(run)
    if call.depends(x) and call.depends(y):
        return product_of(call, x, y, lambda u, v: F.bilinear(u, v, w), b)
    if call.depends(x):
        with without_autocast():
            joint = torch.einsum("...j,oij->...oi", y, w)
        return as_map(call, x, Einsum(joint, lambda a, v: torch.einsum("...i,...oi->...o", a, v), b))
    with without_autocast():
        joint = torch.einsum("...i,oij->...oj", x, w)
    return as_map(call, y, Einsum(joint, lambda a, v: torch.einsum("...j,...oj->...o", a, v), b))


@op("_grouped_mm", "grouped_mm")
def grouped_mm(call: Call) -> Op | Native | Expansion:
    """One matrix for each group of rows: the experts of a mixture."""
    x, y = call.args[:2]
    rest, kwargs, func = call.args[2:], call.kwargs, call.func
    form = lambda a, w: func(a, w, *rest, **kwargs)  # noqa: E731
    if call.depends(x) and call.depends(y):
        return product_of(call, x, y, form, None)
    if call.depends(x):
        return as_map(call, x, Einsum(y, form))
    return as_map(call, y, Einsum(x, lambda a, w: form(w, a)))
