"""Functions that are constant in pieces, such as rounding: relevance ends there, and the audit names them as cuts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop.ops.base import Call, Expansion, Native
from relprop.ops.table import op


@op("round", "floor", "ceil", "trunc", "fix", "sign", "heaviside", "floor_divide")
def step(call: Call) -> Expansion:
    """Its gradient is zero, so its result counts as a constant."""

    def value(given: Any) -> Any:
        return call.cut(given) if call.depends(given) else given

    args, kwargs = [value(a) for a in call.args], {k: value(a) for k, a in call.kwargs.items()}
    return Expansion(lambda: call.func(*args, **kwargs))


@op("frac")
def fraction(call: Call) -> Native:
    """`x - trunc(x)`: what was taken away is a constant."""
    return _lessened(call, call.bind("input")[0])


@op("fmod", "remainder", "rmod")
def remainder(call: Call) -> Native | Expansion:
    """`x - n y` with the whole number n held constant, which is of degree one in both."""
    x, y = call.bind("input other")
    if call.name == "rmod":
        x, y = y, x
    if not call.depends(y):
        return _lessened(call, x)
    if call.depends(x):
        return Native()
    if isinstance(x, Tensor):
        return Native(share=lambda g: (g * x).sum())
    of = torch.fmod if call.name == "fmod" else torch.remainder  # of a number torch has no derivative
    return Expansion(lambda: of(torch.full(y.shape, x, dtype=y.dtype, device=y.device), y))


def _lessened(call: Call, x: Tensor) -> Native:
    """`x` less a constant."""
    values = call.constant(x)
    args = [values if a is x else a for a in call.args]
    kwargs = {k: values if a is x else a for k, a in call.kwargs.items()}
    taken = (values - call.func(*args, **kwargs)).detach()
    return Native(share=lambda g: -(g * taken).sum())
