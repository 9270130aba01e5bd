"""Normalisations: layer, RMS, group, instance, local response, `F.normalize`, batch norm on fixed statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.errors import ModelStateError
from relprop.numerics import HALF, dot, vjp
from relprop.ops.base import Call, Expansion, Fact, Native, Op
from relprop.ops.elementwise import attach
from relprop.ops.maps import LinearMap, Scale
from relprop.ops.table import op


class Norm(Op):
    """`y = (x - mean) * inv * weight + bias` where `mean` and `inv` are statistics of x over `dims`.

    centred   whether the mean is subtracted
    view      brings x into the shape in which statistics are taken over `dims` (groups), and back by `reshape`
    inverse   one over the standard deviation, where the forward's kernel gave it: then x need not be kept
    """

    family = "norm"
    kind = "norm"
    inverse: Tensor | None = None

    def __init__(
        self,
        dims: tuple[int, ...],
        eps: float,
        weight: Tensor | None,
        bias: Tensor | None,
        centred: bool,
        native: Callable[[Tensor], Tensor],
        groups: int | None = None,
    ) -> None:
        self.dims, self.eps, self.weight, self.bias, self.centred = dims, eps, weight, bias, centred
        self.native, self.groups = native, groups

    def grouped(self, x: Tensor) -> Tensor:
        return x if self.groups is None else x.reshape(x.shape[0], self.groups, -1)

    def inverse_scale(self, x: Tensor) -> Tensor:
        """One over the standard deviation (or root mean square), in the grouped shape."""
        one_pass = self.centred and self.groups is None and self.dims[-1] == -1 and not torch.is_grad_enabled()
        if one_pass:  # in torch's kernel, whose statistics have no derivative
            return torch.native_layer_norm(x, x.shape[self.dims[0] :], None, None, self.eps)[2].to(x.dtype)
        x = self.grouped(x)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if self.centred:
            return torch.rsqrt(wide.var(self.dims, correction=0, keepdim=True) + self.eps).to(x.dtype)
        return torch.rsqrt(wide.square().mean(self.dims, keepdim=True) + self.eps).to(x.dtype)

    def bias_share(self, g: Tensor) -> Tensor:
        """`sum(g * bias)`."""
        assert self.bias is not None
        if self.bias.ndim != 1 or g.shape[-1:] != self.bias.shape:
            return (g * self.bias).sum()
        return dot(g.reshape(-1, g.shape[-1]).sum(0), self.bias)

    def pull_back(self, g: Tensor, x: Tensor | None) -> Tensor:
        """The transposed map with the statistics held constant: scale, then centre."""
        s = self.grouped(g if self.weight is None else g * self.weight)
        if x is None:
            assert self.inverse is not None
            inverse = self.inverse.to(g.dtype)
        else:
            inverse = self.inverse_scale(x)
        s = s * inverse if self.weight is None or torch.is_grad_enabled() else s.mul_(inverse)
        if self.centred:
            mean = s.mean(self.dims, keepdim=True)
            s = s - mean if torch.is_grad_enabled() else s.sub_(mean)
        return s.reshape(g.shape)


def _made(call: Call, x: Tensor, norm: Norm) -> Norm:
    norm.operands, norm.run = (x,), call.run
    return norm


def _alone(call: Call, weight: Any, bias: Any, norm: Callable[[], Tensor], channels: bool = True) -> Expansion | None:
    """A norm whose scale or shift depends on the input: by itself, then a product and a sum."""
    if not (call.depends(weight) or call.depends(bias)):
        return None

    def run() -> Tensor:
        y = norm()
        w, b = (_per_channel(t, y) if channels else t for t in (weight, bias))
        y = y if w is None else y * w
        return y if b is None else y + b

    return Expansion(run)


@op("layer_norm", "native_layer_norm")
def layer_norm(call: Call) -> Op | Expansion:
    x, shape, weight, bias, eps = call.bind("input normalized_shape weight bias eps", weight=None, bias=None, eps=1e-5)
    if call.name == "native_layer_norm":
        fixed = call.constant(x)
        statistics = torch.native_layer_norm(fixed, shape, None, None, eps)[1:]
        return Expansion(lambda: (torch.nn.functional.layer_norm(x, shape, weight, bias, eps), *statistics))
    bare = lambda: torch.nn.functional.layer_norm(x, shape, None, None, eps)  # noqa: E731
    if (parts := _alone(call, weight, bias, bare, channels=False)) is not None:
        return parts
    dims = tuple(range(-len(tuple(shape)), 0))
    native = lambda u: torch.nn.functional.layer_norm(u, shape, weight, bias, eps)  # noqa: E731
    made = _made(call, x, Norm(dims, eps, weight, bias, True, native))

    def run() -> Tensor:
        y, _, made.inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
        return y

    made.run = run
    return made


@op("rms_norm")
def rms_norm(call: Call) -> Op | Expansion:
    x, shape, weight, eps = call.bind("input normalized_shape weight eps", weight=None, eps=None)
    bare = lambda: torch.nn.functional.rms_norm(x, shape, None, eps)  # noqa: E731
    if (parts := _alone(call, weight, None, bare, channels=False)) is not None:
        return parts
    eps = torch.finfo(torch.float32 if x.dtype in HALF else x.dtype).eps if eps is None else eps  # as the kernel has it
    dims = tuple(range(-len(tuple(shape)), 0))
    native = lambda u: torch.nn.functional.rms_norm(u, shape, weight, eps)  # noqa: E731
    return _made(call, x, Norm(dims, eps, weight, None, False, native))


def _per_channel(value: Tensor | None, x: Tensor) -> Tensor | None:
    return None if value is None else value.reshape(-1, *(1,) * (x.ndim - 2))


@op("group_norm")
def group_norm(call: Call) -> Op | Expansion:
    x, groups, weight, bias, eps = call.bind("input num_groups weight bias eps", weight=None, bias=None, eps=1e-5)
    bare = lambda: torch.nn.functional.group_norm(x, groups, None, None, eps)  # noqa: E731
    if (parts := _alone(call, weight, bias, bare)) is not None:
        return parts
    native = lambda u: torch.nn.functional.group_norm(u, groups, weight, bias, eps)  # noqa: E731
    return _made(call, x, Norm((-1,), eps, _per_channel(weight, x), _per_channel(bias, x), True, native, int(groups)))


def _bound(call: Call, names: str, **defaults: Any) -> list[Any]:
    """Input, running mean and variance, weight, bias and these: torch itself takes weight and bias first."""
    known = dict.fromkeys(("running_mean", "running_var", "weight", "bias")) | {"momentum": 0.1, "eps": 1e-5}
    first = call.func in (torch.batch_norm, torch.instance_norm)
    order = "weight bias running_mean running_var" if first else "running_mean running_var weight bias"
    x, a, b, c, d, *rest = call.bind(f"input {order} {names}", **known | defaults)
    return [x, c, d, a, b, *rest] if first else [x, a, b, c, d, *rest]


@op("instance_norm")
def instance_norm(call: Call) -> Op | Expansion:
    x, mean, var, weight, bias, use_input, momentum, eps = _bound(
        call, "use_input_stats momentum eps", use_input_stats=True
    )
    if not use_input:
        return Expansion(lambda: torch.nn.functional.batch_norm(x, mean, var, weight, bias, False, momentum, eps))
    bare = lambda: torch.nn.functional.instance_norm(x, None, None, None, None, True, momentum, eps)  # noqa: E731
    if (parts := _alone(call, weight, bias, bare)) is not None:
        return parts
    native = lambda u: torch.nn.functional.instance_norm(u, None, None, weight, bias, True, momentum, eps)  # noqa: E731
    dims = tuple(range(2 - x.ndim, 0))
    return _made(call, x, Norm(dims, eps, _per_channel(weight, x), _per_channel(bias, x), True, native))


@op("local_response_norm", "normalize")
def divided(call: Call) -> Op:
    """Divided by a norm of the input, which is a constant: relevance passes element by element."""
    x = call.args[0] if call.args else call.kwargs["input"]
    made = attach(call, x)
    made.kind = "norm"
    made.fact = Fact()
    return made


@op("batch_norm")
def batch_norm(call: Call) -> Op | Native | Expansion:
    x, mean, var, weight, bias, training, _, eps = _bound(call, "training momentum eps", training=False)
    if training or mean is None:
        raise ModelStateError(
            "batch norm on the statistics of the batch: an item's relevance would depend on the others. "
            "Call model.eval() first (a BatchNorm without running statistics cannot be explained)."
        )
    bare = lambda: torch.nn.functional.batch_norm(x, mean, var, None, None, False, 0.0, eps)  # noqa: E731
    if (parts := _alone(call, weight, bias, bare)) is not None:
        return parts
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    merged = _merged(call, x, scale, shift)
    if merged is not None:
        return merged
    tail = (1,) * (x.ndim - 2)
    made = Scale(scale.reshape(-1, *tail), shift.reshape(-1, *tail))
    made.operands, made.run = (x,), call.run
    return made


def _merged(call: Call, z: Tensor, scale: Tensor, shift: Tensor) -> Op | None:
    """The batch norm and the linear map that made its input as one map, if they are."""
    fact = call.fact(z)
    producer = fact.producer if fact is not None else None
    if producer is None or not isinstance(producer.op, LinearMap) or producer.op.channels(z) != 1:
        return None
    operand = producer.operand()
    if operand is None:
        return None
    made = producer.op.scaled(scale, shift)
    if made is None:
        return None
    made.operands, made.run = (operand,), call.run
    made.merged_into = producer
    made.shift = shift  # type: ignore[attr-defined]
    return made


class Variance(Op):
    """`var(x)`, of degree two: its native gradient counts everything twice, so half of it is the relevance."""

    family = "fixed"
    kind = "statistic"

    def __init__(self, gradient: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.gradient = gradient

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        return (self.gradient(operands[0], gs[0]) / 2,)


@op("var")
def var(call: Call) -> Op:
    x = call.args[0] if call.args else call.kwargs["input"]
    rest, kwargs, func = call.args[1:], {k: v for k, v in call.kwargs.items() if k != "input"}, call.func

    def gradient(values: Tensor, g: Tensor) -> Tensor:
        return vjp(lambda x: func(x, *rest, **kwargs), (values,), g)[0]

    made = Variance(gradient)
    made.operands, made.run = (x,), call.run
    made.fact = Fact()
    made.fact.nonneg = True
    return made


@op("var_mean")
def var_mean(call: Call) -> Expansion:
    args, kwargs = call.args, call.kwargs
    x = args[0] if args else kwargs["input"]

    def run() -> tuple[Tensor, Tensor]:
        dim = kwargs.get("dim", args[1] if len(args) > 1 and not isinstance(args[1], bool) else None)
        mean = x.mean(dim, keepdim=kwargs.get("keepdim", False)) if dim is not None else x.mean()
        return torch.var(*args, **kwargs), mean

    return Expansion(run)
