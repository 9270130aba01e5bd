"""Losses inside a model: functions of a difference, entry by entry, added up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

from relprop.ops.base import Call, Expansion
from relprop.ops.table import op


@op(F.l1_loss, F.mse_loss)
def power(call: Call) -> Expansion:
    names = "input target size_average reduce reduction weight"
    x, y, average, reduce, reduction, weight = call.bind(
        names, size_average=None, reduce=None, reduction="mean", weight=None
    )
    of = torch.abs if call.name == "l1_loss" else torch.square
    return Expansion(lambda: _reduced(of(x - y), _words(average, reduce, reduction), weight))


@op(F.smooth_l1_loss)
def smooth(call: Call) -> Expansion:
    names = "input target size_average reduce reduction beta"
    x, y, average, reduce, reduction, beta = call.bind(
        names, size_average=None, reduce=None, reduction="mean", beta=1.0
    )
    of: Callable[[Tensor], Tensor] = torch.abs if beta == 0 else lambda d: _huber(d, beta) / beta
    return Expansion(lambda: _reduced(of(x - y), _words(average, reduce, reduction)))


@op(F.huber_loss)
def huber(call: Call) -> Expansion:
    names = "input target reduction delta weight"
    x, y, reduction, delta, weight = call.bind(names, reduction="mean", delta=1.0, weight=None)

    def run() -> Tensor:
        value = _huber(x - y, delta)
        return _reduced(value if weight is None else value * weight, reduction)  # a mean of weight one, as torch's

    return Expansion(run)


def _huber(difference: Tensor, delta: float) -> Tensor:
    """`d^2 / 2` up to `|d| = delta`, straight from there on: one function of `|d|`."""
    size = difference.abs()
    low = size.clamp(max=delta)
    return low * (size - 0.5 * low)


def _words(average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction, which torch has had two older ways to say."""
    if average is None and reduce is None:
        return reduction
    return _reduction.legacy_get_string(average, reduce)


def _reduced(value: Tensor, reduction: str, weight: Any = None) -> Tensor:
    if weight is not None:
        value = value * weight
    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()
    return value.mean() if weight is None else value.sum() / weight.sum()
