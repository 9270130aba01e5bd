"""The same mathematics in two forms: as users write it, and with constants where the rules say so.

`Plain` holds ordinary functions. `Detached` computes the same values, but with `detach` in such places that
the ordinary gradient becomes the modified one: activations are a constant factor times their input,
statistics are constants, a product gives half to each factor. A network that takes its functions from one of
these is then its own oracle: relevance is the input times autograd's gradient of the `Detached` form. No
library code is involved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ratio(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The identity rule: ``y = x (y / x)`` with a constant ratio. For inputs that are not zero."""

    def passed(x: Tensor) -> Tensor:
        return x * (function(x) / x).detach()

    return passed


class Plain:
    silu = staticmethod(F.silu)
    gelu = staticmethod(F.gelu)
    sigmoid = staticmethod(torch.sigmoid)
    hardsigmoid = staticmethod(F.hardsigmoid)
    tanh = staticmethod(torch.tanh)
    softplus = staticmethod(F.softplus)
    square = staticmethod(torch.square)
    elu = staticmethod(F.elu)
    clamp = staticmethod(lambda x: x.clamp(min=-0.2))

    @staticmethod
    def rest(p: Tensor, gate: Tensor) -> Tensor:
        """``1 - sigmoid(p)`` where ``gate = sigmoid(p)`` is at hand."""
        return 1 - gate

    @staticmethod
    def mul(a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    def matmul(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    @staticmethod
    def constant(x: Tensor) -> Tensor:
        """A statistic or denominator: no relevance enters."""
        return x

    @staticmethod
    def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(x)

    @staticmethod
    def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
        return norm(x)


class Detached(Plain):
    silu = staticmethod(ratio(F.silu))
    gelu = staticmethod(ratio(F.gelu))
    sigmoid = staticmethod(ratio(torch.sigmoid))
    hardsigmoid = staticmethod(ratio(F.hardsigmoid))
    tanh = staticmethod(ratio(torch.tanh))
    softplus = staticmethod(ratio(F.softplus))
    square = staticmethod(ratio(torch.square))
    elu = staticmethod(ratio(F.elu))
    clamp = staticmethod(ratio(lambda x: x.clamp(min=-0.2)))

    @staticmethod
    def rest(p: Tensor, gate: Tensor) -> Tensor:
        # elementwise calls from one root are one function of that root
        return ratio(lambda t: 1 - torch.sigmoid(t))(p)

    @staticmethod
    def mul(a: Tensor, b: Tensor) -> Tensor:
        y = a * b
        return y / 2 + y.detach() / 2

    @staticmethod
    def matmul(a: Tensor, b: Tensor) -> Tensor:
        y = a @ b
        return y / 2 + y.detach() / 2

    @staticmethod
    def constant(x: Tensor) -> Tensor:
        return x.detach()

    @staticmethod
    def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        dims = tuple(range(-len(norm.normalized_shape), 0))
        std = (x.var(dims, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
        return (x - x.mean(dims, keepdim=True)) / std * norm.weight + norm.bias

    @staticmethod
    def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
        parts = x.unflatten(1, (norm.num_groups, -1)).flatten(2)
        std = (parts.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
        y = ((parts - parts.mean(-1, keepdim=True)) / std).reshape(x.shape)
        shape = (1, -1, *[1] * (x.ndim - 2))
        return y * norm.weight.view(shape) + norm.bias.view(shape)


def reference(
    model: Callable[..., Any], args: Sequence[Any], select: Callable[[Any], Tensor], relevance: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """What is explained and the relevance of every floating-point argument, from the `Detached` form.

    ``relevance`` is that of the selected output; None stands for the output's own value.
    """
    given = [a.detach().clone().requires_grad_() if _real(a) else a for a in args]
    y = select(model(*given))
    r = y.detach() if relevance is None else relevance
    asked = [a for a in given if _real(a)]
    gradients = torch.autograd.grad(y, asked, r / y.detach(), allow_unused=True)
    return y.detach(), [
        torch.zeros_like(a) if g is None else (a * g.conj()).real.detach() if a.is_complex() else (a * g).detach()
        for a, g in zip(asked, gradients, strict=True)
    ]


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
