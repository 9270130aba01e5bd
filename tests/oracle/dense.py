"""The dense form of a linear map: one row per output, one column per input, found by unit vectors.

Slow and obvious on purpose, and without a line of the library. A map is a module whose additive tensors are
called `bias` (or `running_mean`) and whose multiplicative ones are called `weight`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Dense:
    """`z = W a + b` of one sample, and which input reaches which output.

    w [O, I], b [O], taps [O, I] of zeros and ones, source [I] -> index of the sample's element, -1 for none.
    `I` counts the elements the map really reads: a mirrored border reads some elements more than once.
    """

    w: torch.Tensor
    b: torch.Tensor
    taps: torch.Tensor
    source: torch.Tensor
    in_shape: Shape
    out_shape: Shape


def _filled(module: nn.Module, value: float | None) -> nn.Module:
    """A copy without additive terms and, if a value is given, with every weight set to it."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            leaf = name.rsplit(".", 1)[-1]
            if leaf in ("bias", "running_mean"):
                tensor.zero_()
            elif leaf == "weight" and value is not None:
                tensor.fill_(value)
    return module


@torch.no_grad()
def densify(module: nn.Module, in_shape: Shape, border: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Dense:
    """The dense form of `module` on samples of `in_shape`.

    With a `border`, the module is the map without its own padding, and the border is what copies elements
    around the sample first; it is only asked where it takes each element from.
    """
    count = math.prod(in_shape)
    source = torch.arange(count, dtype=torch.float64).reshape(1, *in_shape)
    if border is not None:
        source = border(source)
    read_shape = tuple(source.shape[1:])
    source = source.flatten().long()

    units = torch.eye(source.numel(), dtype=torch.float64).reshape(-1, *read_shape)
    linear, ones = _filled(module, None), _filled(module, 1.0)
    columns = linear(units)  # sample i of the batch is column i
    taps = ones(units).flatten(1).t()
    b = module(torch.zeros(1, *read_shape, dtype=torch.float64)).flatten()
    return Dense(columns.flatten(1).t(), b, (taps != 0).double(), source, tuple(in_shape), tuple(columns.shape[1:]))
