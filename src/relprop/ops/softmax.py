"""Softmax in all its spellings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.numerics import unmasked
from relprop.ops.base import Call, Called, Expansion, Fact, Native, Op
from relprop.ops.normalised import Segments, Total, whole
from relprop.ops.stem import link
from relprop.ops.table import op


class Softmax(Op):
    """`y = softmax(x)` along `dim` (log: `y = log_softmax(x)`), or over every one of `segments`."""

    family = "softmax"
    kind = "softmax"

    segments: Segments | None = None

    def __init__(self, dim: int | tuple[int, ...], log: bool = False, sign: float = 1.0) -> None:
        self.dim, self.log, self.sign = dim, log, sign

    def gradient(self, g: Tensor, y: Tensor) -> Tensor:
        """The native vector-Jacobian product from the output alone."""
        if self.log:
            return g - y.exp() * g.sum(self.dim, keepdim=True)
        part = g * y
        total = part.sum(self.dim, keepdim=True) if self.segments is None else self.segments.summed(part)
        pulled = y * (g - total)
        return pulled if self.sign == 1 else self.sign * pulled


def _softmax(call: Call, x: Tensor, dim: int, log: bool = False, sign: float = 1.0) -> Softmax:
    made = Softmax(dim, log, sign)
    made.operands, made.run = (x,), call.run
    made.fact = Fact()
    made.fact.nonneg = not log
    made.fact.gate = 0 if log else 2
    made.fact.logarithm = (link(x), dim) if log else None
    return made


@op("softmax", "log_softmax", "_safe_softmax")
def softmax(call: Call) -> Op:
    x, dim = call.bind("input dim", dim=None)
    if dim is None:
        dim = 0 if x.ndim in (0, 1, 3) else 1
    return _softmax(call, x, dim, log=call.name == "log_softmax")


def of_logarithm(call: Call, x: Tensor) -> Op | None:
    """`exp(x)` where x is the logarithm of a softmax."""
    known = call.fact(x)
    if known is None or known.logarithm is None:
        return None
    source, dim = known.logarithm[0].get(), known.logarithm[1]
    return None if source is None or source.shape != x.shape else _softmax(call, source, dim)


@op("softmin")
def softmin(call: Call) -> Op:
    x, dim = call.bind("input dim", dim=-1)
    return _softmax(call, x, dim, sign=-1.0)


def hand_softmax(
    call: Call, exponential: Tensor, other: Tensor, total: Total, by: Callable[[Tensor, Tensor], Tensor]
) -> Op | Expansion:
    """`exp(u) / sum(exp(u))`: attached to `u`, or where that is `x - c` and c cancels, to `x`.

    other, by   the sum, or one over it, and what is done with it
    """
    fact = call.fact(exponential)
    scores = fact.exponent.get() if fact is not None and fact.exponent is not None else None
    if scores is None:  # u is gone: the exponential's own node leads to it
        fixed = call.constant(other)
        return Expansion(lambda: by(exponential, fixed))
    known = call.fact(scores)
    if known is not None and known.shift is not None:
        source, shift = known.shift if isinstance(known.shift, tuple) else (known.stem[0], None)
        unshifted = source.get()
        if unshifted is not None and unshifted.shape == scores.shape and total.alike(shift, scores):
            scores = unshifted
    made = _softmax(call, scores, 0)
    made.dim, made.segments = total.dims, total.segments
    return made


@op("sum")
def total(call: Call) -> Native:
    """A sum; of exponentials it may be the denominator of a softmax."""
    x, dim = call.bind("input dim", dim=None)
    fact = Fact()
    known = call.fact(x)
    if known is not None:
        fact.nonneg = known.nonneg
        fact.total = whole(call, x, dim)
    return Native(form="reduce", fact=fact)


class LogSumExp(Op):
    """`y = log(sum(exp(x)))`: the native gradient weighs x by its softmax; the entropy term takes nothing."""

    family = "fixed"
    kind = "logsumexp"

    def __init__(self, dim: Any, keepdim: bool) -> None:
        self.dim, self.keepdim = dim, keepdim

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        x, g = operands[0], gs[0]
        weights = torch.exp(x - torch.logsumexp(x, self.dim, True)).nan_to_num(0.0)  # where everything is masked
        if not self.keepdim:
            for d in sorted(self.dim if isinstance(self.dim, (tuple, list)) else (self.dim,)):
                g = g.unsqueeze(d)
        pulled = weights * g
        books.add("excess", unmasked(outputs[0], gs[0]))
        books.add("excess", unmasked(x, pulled), -1.0)
        return (pulled,)


@op("logsumexp")
def logsumexp(call: Call) -> Op:
    x, dim, keepdim = call.bind("input dim keepdim", keepdim=False)
    made = LogSumExp(dim, keepdim)
    made.operands, made.run = (x,), call.run
    made.fact = Fact()
    made.fact.logsum = (link(x), dim) if keepdim else None
    return made


@op("logcumsumexp")
def logcumsumexp(call: Call) -> Op:
    x, dim = call.bind("input dim")
    func = call.func
    made = Called(LogSumExp(dim, keepdim=True), lambda x: func(x, dim))
    made.operands, made.run = (x,), call.run
    made.fact = Fact()
    return made


@op("gumbel_softmax")
def gumbel(call: Call) -> Expansion:
    logits, tau, hard, _, dim = call.bind("logits tau hard eps dim", tau=1, hard=False, eps=1e-10, dim=-1)

    def run() -> Tensor:
        noise = -torch.empty_like(call.constant(logits)).exponential_().log()
        soft = torch.softmax((logits + noise) / tau, dim)
        if not hard:
            return soft
        index = soft.max(dim, keepdim=True)[1]
        fixed = call.constant(soft)
        return torch.zeros_like(fixed).scatter_(dim, index, 1.0) - fixed + soft

    return Expansion(run)
