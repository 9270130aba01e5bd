"""Calls of degree one that need no rule: moving, selecting, averaging and adding up. They run natively.

What they tell: whether signs are kept, which relevance their constants absorb, and whether a sum is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.errors import ModelStateError
from relprop.numerics import dot, nonzero, tau
from relprop.ops.base import Call, Expansion, Fact, Native, Op, without_rule
from relprop.ops.cuts import step
from relprop.ops.normalised import masked, moved
from relprop.ops.stem import stemmed
from relprop.ops.table import op

#: Move, copy or select entries: signs are kept, nothing is absorbed.
MOVES = (
    "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "permute",
    "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "contiguous", "expand",
    "expand_as", "broadcast_to", "broadcast_tensors", "repeat", "repeat_interleave", "tile", "flip", "fliplr",
    "flipud", "rot90", "roll", "getitem", "select", "narrow", "index_select", "gather", "take", "take_along_dim",
    "masked_select", "chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit", "unbind",
    "unsafe_chunk", "unsafe_split", "diagonal", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "unfold", "as_strided", "real", "imag",
    "view_as_real", "view_as_complex", "resolve_conj", "resolve_neg", "atleast_1d", "atleast_2d", "atleast_3d",
    "type_as", "cpu", "cuda", "meshgrid",
)  # fmt: skip
#: The same entries one by one: a chain of elementwise calls goes through them.
SAME = ("clone", "to", "float", "double", "half", "bfloat16", "cfloat", "cdouble", "type", "positive")
#: Sums and averages with non-negative weights.
AVERAGES = ("mean", "nansum", "nanmean", "cumsum", "trace", "fold", "col2im", "sum_to_size")
#: Linear with weights of either sign.
LINEAR = (
    "conj", "conj_physical", "fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "fftn", "ifftn", "rfft2",
    "irfft2", "rfftn", "irfftn", "hfft", "ihfft", "fftshift", "ifftshift", "stft", "istft",
)  # fmt: skip
#: Norms: of degree one.
NORMS = ("norm", "vector_norm", "matrix_norm", "std", "std_mean", "frobenius_norm", "nuclear_norm")


def _first(call: Call) -> Any:
    return call.args[0] if call.args else next(iter(call.kwargs.values()))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    if isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, Tensor):
                found.append(item)
            elif isinstance(item, (list, tuple)):
                found += _tensors(item)
    return found


def _kept(call: Call, *tensors: Any) -> Fact:
    fact = Fact()
    fact.nonneg = bool(tensors) and all((f := call.fact(t)) is not None and f.nonneg for t in tensors)
    return fact


@op(*MOVES)
def move(call: Call) -> Native:
    tensors = _tensors(call.args) or _tensors(tuple(call.kwargs.values()))
    known = [call.fact(t) for t in tensors if call.depends(t)]
    first = known[0] if known else None
    if first is None:
        return Native()
    fact = Fact()
    fact.nonneg = all(k is not None and k.nonneg for k in known)
    fact.gate, fact.inverse = first.gate, first.inverse
    if first.total is not None:
        fact.total = moved(call, first.total)
    elif first.over is not None:
        fact.over = moved(call, first.over)
    return Native(fact=fact)


@op("tril", "triu", "diag", "diag_embed", "diagflat")
def among_zeros(call: Call) -> Native:
    """Entries moved or kept among zeros, which are constants."""
    x, func, rest = _first(call), call.func, call.args[1:]
    shape, dtype, device = x.shape, x.dtype, x.device
    kwargs = {k: v for k, v in call.kwargs.items() if v is not x}

    def share(g: Tensor) -> Tensor:
        kept = func(torch.ones(shape, dtype=dtype, device=device), *rest, **kwargs)
        return torch.where(kept == 0, g, 0.0).sum() * tau(g.dtype)

    return Native(share=share, fact=_kept(call, x))


#: Attributes that are views or parts of a tensor.
GETTERS = tuple(getattr(torch.Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "real", "imag"))


@op(*GETTERS)
def attribute(call: Call) -> Native:
    return Native(fact=_kept(call, call.args[0]))


@op(*SAME)
def same(call: Call) -> Native:
    x = _first(call)
    fact = stemmed(call, Fact(), x) if isinstance(x, Tensor) else Fact()
    known = call.fact(x) if isinstance(x, Tensor) else None
    if known is not None:
        fact.nonneg, fact.gate, fact.inverse, fact.chained = known.nonneg, known.gate, known.inverse, False
    return Native(fact=fact)


@op(
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
    "feature_dropout",
)
def dropout(call: Call) -> Native:
    x, p, training = call.bind("input p training", p=0.5, training=call.name == "dropout")
    if training and p > 0:
        raise ModelStateError(
            f"dropout with p = {p} in training mode (module {call.path or '(model)'!r}): the explanation would be "
            "random. Call model.eval() first."
        )
    return Native(fact=call.fact(x) or Fact())


@op("complex")
def joined_parts(call: Call) -> Native:
    """Real and imaginary parts put together: a constant one absorbs its share."""
    real, imag = call.bind("real imag")
    if call.depends(real) and call.depends(imag):
        return Native()
    if call.depends(real):
        return Native(share=lambda g: dot(imag, g.imag))
    return Native(share=lambda g: dot(real, g.real))


@op(*AVERAGES)
def average(call: Call) -> Native:
    return Native(form="reduce", fact=_kept(call, _first(call)))


_SHORT: dict[str, Any] = {"hop_length": None, "win_length": None, "window": None}


@op(*LINEAR)
def linear(call: Call) -> Native:
    if call.name == "stft" and call.depends(call.bind("input n_fft hop_length win_length window", **_SHORT)[4]):
        raise without_rule(call, "a window that depends on the input has no rule")
    return Native(form="reduce")


@op("diff")
def diff(call: Call) -> Native | Expansion:
    """What is put before and after stands in a `cat` of its own, for it may be constant."""
    x, n, dim, before, after = call.bind("input n dim prepend append", n=1, dim=-1, prepend=None, append=None)
    if before is None and after is None:
        return Native(form="reduce")
    return Expansion(lambda: torch.diff(torch.cat([t for t in (before, x, after) if t is not None], dim), n, dim))


@op(*NORMS)
def norm(call: Call) -> Op | Native | Expansion:
    if call.name in ("norm", "vector_norm") and call.bind("input ord", ord=call.kwargs.get("p"))[1] == 0:
        return step(call)  # a count
    fact = Fact()
    fact.nonneg = True
    return Native(form="reduce", fact=fact)


@op("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
def interpolate(call: Call) -> Native:
    mode = call.bind("input size scale_factor mode", size=None, scale_factor=None, mode="nearest")[3]
    return Native(fact=Fact() if mode == "bicubic" else _kept(call, _first(call)))


@op("renorm")
def renorm(call: Call) -> Expansion:
    """Parts that are longer than `maxnorm` are brought to that length: their lengths are constants."""
    x, p, dim, longest = call.bind("input p dim maxnorm")

    def run() -> Tensor:
        others = [d for d in range(x.ndim) if d != dim % x.ndim]
        length = torch.linalg.vector_norm(call.constant(x), p, others, keepdim=True)
        return x * torch.where(length > longest, longest / (length + 1e-7), 1.0)  # the 1e-7 is torch's

    return Expansion(run)


@op("cat", "concat", "concatenate", "stack")
def cat(call: Call) -> Native:
    parts = _tensors(_first(call))
    fixed = [not call.depends(p) for p in parts]
    share = None
    if any(fixed):
        dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else 0)
        share = _cat_share(parts, fixed, dim, stacked=call.name == "stack")
    fact = _kept(call, *[p for p, f in zip(parts, fixed, strict=True) if not f]) if not any(fixed) else Fact()
    return Native(share=share, fact=fact)


@op("hstack", "vstack", "row_stack", "dstack", "column_stack", "block_diag")
def joined(call: Call) -> Native | Expansion:
    """A `cat` of parts in another shape."""
    parts = _tensors(_first(call) if call.name != "block_diag" else call.args)
    if all(map(call.depends, parts)) and call.name != "block_diag":  # its zeros are constants
        return Native(fact=_kept(call, *parts))
    return Expansion(lambda: _JOINED[call.name](parts))


def _blocks(parts: Sequence[Tensor]) -> Tensor:
    blocks = [torch.atleast_2d(p) for p in parts]
    width, left, rows = sum(b.shape[1] for b in blocks), 0, []
    for b in blocks:
        right = width - left - b.shape[1]
        rows.append(torch.cat([b.new_zeros(len(b), left), b, b.new_zeros(len(b), right)], 1))
        left += b.shape[1]
    return torch.cat(rows, 0)


_JOINED: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "hstack": lambda parts: torch.cat([torch.atleast_1d(p) for p in parts], 0 if parts[0].ndim < 2 else 1),
    "vstack": lambda parts: torch.cat([torch.atleast_2d(p) for p in parts], 0),
    "row_stack": lambda parts: torch.cat([torch.atleast_2d(p) for p in parts], 0),
    "dstack": lambda parts: torch.cat([torch.atleast_3d(p) for p in parts], 2),
    "column_stack": lambda parts: torch.cat([p.reshape(-1, 1) if p.ndim < 2 else p for p in parts], 1),
    "block_diag": _blocks,
}


def _cat_share(parts: Sequence[Tensor], fixed: Sequence[bool], dim: int, stacked: bool) -> Callable[[Tensor], Tensor]:
    """The constants among the parts absorb what reaches them."""
    sizes = [0 if p.ndim == 1 and p.numel() == 0 else 1 if stacked else p.shape[dim] for p in parts]
    constants = [p if f else None for p, f in zip(parts, fixed, strict=True)]

    def share(g: Tensor) -> Tensor:
        total, start = g.real.new_zeros(()), 0
        for size, value in zip(sizes, constants, strict=True):
            if value is not None and size:
                piece = g.select(dim, start) if stacked else g.narrow(dim, start, size)
                total = total + finite_product(piece, value)
            start += size
        return total

    return share


def finite_product(g: Tensor, value: Any) -> Tensor:
    """`sum(g * value)`: an infinite constant (a mask) that carries nothing counts as nothing, and relevance that
    stands on a zero is read as everywhere else."""
    value = nonzero(value) if isinstance(value, Tensor) else value or tau(g.dtype)
    product = (g * torch.as_tensor(value, device=g.device).conj()).real if g.is_complex() else g * value
    return torch.where(g == 0, 0.0, product).sum() if not _known_finite(value) else product.sum()


def _known_finite(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == value and abs(value) != float("inf")


@op("cartesian_prod")
def cartesian(call: Call) -> Native | Expansion:
    """Every entry of each with every one of the others, side by side."""
    parts = _tensors(call.args)
    if len(parts) == 1:
        return Native(fact=_kept(call, *parts))
    return Expansion(lambda: torch.stack([t.reshape(-1) for t in torch.meshgrid(*parts, indexing="ij")], 1))


@op("pad")
def pad(call: Call) -> Native:
    x, amounts, mode, value = call.bind("input pad mode value", mode="constant", value=None)
    fact, shape = _kept(call, x), x.shape

    def lift(bound: Tensor) -> Tensor:
        return torch.nn.functional.pad(bound.expand(1, *shape[1:]), amounts, mode=mode)

    fact.lift = lift
    if mode != "constant":
        return Native(fact=fact)
    if value:
        fact.nonneg = fact.nonneg and value >= 0

        def share(g: Tensor) -> Tensor:
            outside = torch.nn.functional.pad(torch.zeros(shape, dtype=g.dtype, device=g.device), amounts, value=1.0)
            return (g * outside).sum() * value

        return Native(share=share, fact=fact)
    known = call.fact(x)
    before = known.pad if known is not None else None
    crop = [slice(None)] * x.ndim
    for i in range(len(amounts) // 2):
        low, high = amounts[2 * i], amounts[2 * i + 1]
        size = x.shape[-1 - i]
        crop[-1 - i] = slice(max(low, 0), max(low, 0) + size + min(low, 0) + min(high, 0))
    inside = tuple(crop)
    at: Any = (..., *inside)

    def support(a: Tensor) -> Tensor:
        out = torch.zeros_like(a)
        out[at] = a[at]
        return out if before is None else _padded_before(out, before, inside)

    fact.pad = support
    return Native(share=lambda g: (g.sum() - g[at].sum()) * tau(g.dtype), fact=fact)


def _padded_before(a: Tensor, before: Callable[[Tensor], Tensor], inside: tuple[slice, ...]) -> Tensor:
    """A pad of a pad: what stood on the first one is zero as well."""
    at = (slice(None),) * (a.ndim - len(inside)) + inside
    out = a.clone()
    out[at] = before(a[at])
    return out


@op(torch._C._VariableFunctions._pack_padded_sequence, torch._C._VariableFunctions._pad_packed_sequence)
def packed(call: Call) -> Native:
    return Native()


@op("where")
def where(call: Call) -> Native | Expansion:
    if len(call.args) < 3 and "other" not in call.kwargs:
        return Native()
    condition, x, y = call.bind("condition input other", input=call.kwargs.get("self"))
    if isinstance(call.args[0], Tensor) and call.func is torch.Tensor.where:
        x, condition, y = call.args[0], call.args[1], call.args[2]
    share = None
    if not call.depends(x):
        share = lambda g: finite_product(torch.where(condition, g, 0.0), x)  # noqa: E731
    elif not call.depends(y):
        share = lambda g: finite_product(torch.where(condition, 0.0, g), y)  # noqa: E731
    both = [t for t in (x, y) if isinstance(t, Tensor)]
    fact = _kept(call, *both) if len(both) == 2 else Fact()
    if isinstance(x, Tensor) and isinstance(y, (int, float)) and y == 0:
        fact = masked(call, x, condition) or fact
    return Native(share=share, fact=fact)


@op("masked_fill")
def masked_fill(call: Call) -> Native:
    x, mask, value = call.bind("input mask value")
    if call.depends(value):
        return Native(share=None if call.depends(x) else lambda g: finite_product(torch.where(mask, 0.0, g), x))
    fact = masked(call, x, mask) if isinstance(value, (int, float)) and value == 0 else None
    return Native(share=lambda g: finite_product(torch.where(mask, g, 0.0), value), fact=fact)


@op(torch.linalg.solve_triangular, torch.linalg.solve)
def solve(call: Call) -> Native:
    """`X = A^-1 B` is linear in B; the matrix stands in the denominator, so it is a constant, as denominators are."""
    a, b = call.bind("A B")
    if not call.depends(b):
        raise without_rule(
            call, "the matrix depends on the input, the right-hand side does not; an inverse has no rule"
        )
    rest = {k: v for k, v in call.kwargs.items() if k not in ("A", "B")}
    matrix, func, more = call.constant(a), call.func, call.args[2:]
    return Native(form="reduce", run=lambda b: func(matrix, b, *more, **rest), operands=(b,))


@op(torch.sparse.mm, "smm")
def sparse(call: Call) -> Native:
    return Native(form="reduce")


@op("grid_sample")
def grid_sample(call: Call) -> Native | Expansion:
    """Linear in the image; the grid is routing, so it takes nothing."""
    image, grid = call.bind("input grid")
    if not call.depends(grid):
        return Native()
    rest = call.args[2:]
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("input", "grid")}
    places = call.constant(grid)
    if not call.depends(image):
        return Expansion(lambda: torch.nn.functional.grid_sample(image, places, *rest, **kwargs))
    return Native(run=lambda image: torch.nn.functional.grid_sample(image, places, *rest, **kwargs), operands=(image,))


@op("affine_grid")
def affine_grid(call: Call) -> Native:
    return Native()


@op("embedding_bag")
def embedding_bag(call: Call) -> Native:
    return Native(form="reduce")
