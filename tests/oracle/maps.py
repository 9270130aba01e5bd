"""The linear maps that every rule is tried on, and how each is written in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from tests.oracle.dense import Dense, densify


class Call(nn.Module):
    """A map written as one torch call on a constant, not as a module."""

    def __init__(
        self, call: Callable[..., torch.Tensor], weight: tuple[int, ...], bias: tuple[int, ...] | None
    ) -> None:
        super().__init__()
        self.call = call
        self.register_buffer("weight", torch.randn(weight, dtype=torch.float64))
        self.register_buffer("bias", None if bias is None else torch.randn(bias, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x, self.weight) if self.bias is None else self.call(x, self.weight, self.bias)


class HalfBilinear(nn.Module):
    """A bilinear layer whose other side is a constant: what is left is a linear map."""

    def __init__(self, first: bool, bias: bool) -> None:
        super().__init__()
        self.first = first
        self.layer = nn.Bilinear(*((4, 3) if first else (3, 4)), 5, bias=bias)
        self.register_buffer("other", torch.rand(1, 3, dtype=torch.float64) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = self.other.expand(*x.shape[:-1], -1)
        return self.layer(x, other) if self.first else self.layer(other, x)


@dataclass(frozen=True)
class Map:
    """One row: how to build the map with or without a bias, and the shape of a sample.

    `border` and `unpadded` are for padding that copies elements: what it copies, and the map without it.
    `kind` is the selector kind a rule has to be given to; linear maps get it without being asked.
    """

    name: str
    build: Callable[[bool], nn.Module]
    in_shape: tuple[int, ...]
    biases: tuple[bool, ...] = (True, False)
    border: Callable[[torch.Tensor], torch.Tensor] | None = None
    unpadded: Callable[[bool], nn.Module] | None = None
    kind: str | None = None

    def make(self, bias: bool) -> nn.Module:
        torch.manual_seed(5)
        module = self.build(bias).double().eval()
        with torch.no_grad():
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if name.endswith("bias"):
                    tensor.normal_()  # torch's own initialisation makes biases too small to be seen
        return module

    def dense(self, bias: bool) -> Dense:
        """The dense form, found once a run."""
        return _dense(self, bias)

    def find_dense(self, bias: bool) -> Dense:
        module = self.make(bias)
        if self.border is None or self.unpadded is None:
            return densify(module, self.in_shape)
        core = self.unpadded(bias).double().eval()
        core.load_state_dict(module.state_dict())
        return densify(core, self.in_shape, self.border)

    def __str__(self) -> str:
        return self.name


@functools.cache
def _dense(row: Map, bias: bool) -> Dense:
    return row.find_dense(bias)


def _module(cls: type[nn.Module], *args: object, **settings: object) -> Callable[[bool], nn.Module]:
    return lambda bias: cls(*args, bias=bias, **settings)


def _call(
    call: Callable[..., torch.Tensor], weight: tuple[int, ...], bias: tuple[int, ...] = ()
) -> Callable[[bool], nn.Module]:
    return lambda with_bias: Call(call, weight, bias if with_bias else None)


def _bordered(
    name: str,
    cls: type[nn.Module],
    channels: tuple[int, int],
    kernel: object,
    in_shape: tuple[int, ...],
    mode: str,
    amounts: tuple[int, ...],
    padding: object,
    **settings: object,
) -> Map:
    """A convolution whose padding copies: `amounts` says, last dimension first, how far on each side."""
    return Map(
        name,
        _module(cls, *channels, kernel, padding=padding, padding_mode=mode, **settings),
        in_shape,
        border=lambda t: functional.pad(t, amounts, mode=mode),
        unpadded=_module(cls, *channels, kernel, **settings),
    )


def _batch_norm(cls: type[nn.Module], channels: int) -> Callable[[bool], nn.Module]:
    def build(bias: bool) -> nn.Module:
        norm = cls(channels)
        with torch.no_grad():
            norm.running_var.uniform_(0.5, 2)
            norm.weight.normal_()
            if bias:
                norm.running_mean.normal_()
                norm.bias.normal_()
        if not bias:
            norm.bias = None
        return norm

    return build


_CONVS = [
    Map("conv1d", _module(nn.Conv1d, 2, 3, 3), (2, 6)),
    Map("conv1d-stride-padding", _module(nn.Conv1d, 2, 3, 3, stride=2, padding=1), (2, 7)),
    Map("conv1d-same-dilated", _module(nn.Conv1d, 2, 3, 2, padding="same", dilation=3), (2, 6)),
    Map("conv1d-depthwise", _module(nn.Conv1d, 3, 3, 3, padding=1, groups=3), (3, 5)),
    Map("conv2d", _module(nn.Conv2d, 2, 3, 3), (2, 5, 4)),
    Map("conv2d-1x1", _module(nn.Conv2d, 3, 2, 1), (3, 3, 3)),
    Map("conv2d-1x1-stride", _module(nn.Conv2d, 3, 2, 1, stride=2), (3, 4, 5)),
    Map("conv2d-padding", _module(nn.Conv2d, 2, 2, 3, padding=1), (2, 4, 4)),
    Map("conv2d-wide-padding", _module(nn.Conv2d, 2, 2, 2, padding=3), (2, 3, 3)),
    Map("conv2d-stride", _module(nn.Conv2d, 2, 3, 3, stride=2, padding=1), (2, 6, 5)),
    Map("conv2d-stride-uneven", _module(nn.Conv2d, 2, 2, (2, 3), stride=(3, 2), padding=(0, 1)), (2, 7, 6)),
    Map("conv2d-dilated", _module(nn.Conv2d, 2, 2, 3, padding=2, dilation=2), (2, 5, 5)),
    Map("conv2d-grouped", _module(nn.Conv2d, 4, 6, 3, padding=1, groups=2), (4, 4, 3)),
    Map("conv2d-depthwise", _module(nn.Conv2d, 3, 3, 3, padding=1, groups=3), (3, 4, 4)),
    Map("conv2d-depthwise-multiplier", _module(nn.Conv2d, 2, 4, 2, stride=2, groups=2), (2, 4, 4)),
    Map("conv2d-same", _module(nn.Conv2d, 2, 2, 3, padding="same"), (2, 4, 4)),
    Map("conv2d-same-even", _module(nn.Conv2d, 2, 2, (2, 4), padding="same"), (2, 4, 5)),
    Map("conv2d-valid", _module(nn.Conv2d, 2, 2, 2, padding="valid", stride=2), (2, 5, 4)),
    Map("conv3d", _module(nn.Conv3d, 2, 2, 2), (2, 3, 3, 3)),
    Map(
        "conv3d-all",
        _module(nn.Conv3d, 2, 4, (2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0), dilation=(1, 1, 2), groups=2),
        (2, 2, 4, 3),
    ),
    Map(
        "conv2d-call",
        _call(lambda x, w, b=None: functional.conv2d(x, w, b, stride=2, padding=1), (3, 2, 3, 3), (3,)),
        (2, 5, 5),
    ),
    Map(
        "conv1d-call-same",
        _call(lambda x, w, b=None: torch.conv1d(x, w, b, padding="same"), (3, 2, 4), (3,)),
        (2, 5),
    ),
]

_TRANSPOSED = [
    Map("convt1d", _module(nn.ConvTranspose1d, 2, 3, 3, stride=2), (2, 4)),
    Map("convt2d", _module(nn.ConvTranspose2d, 2, 3, 2, stride=2), (2, 3, 3)),
    Map(
        "convt2d-all",
        _module(nn.ConvTranspose2d, 4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (4, 3, 2),
    ),
    Map("convt2d-dilated", _module(nn.ConvTranspose2d, 2, 2, 2, stride=3, dilation=2, padding=1), (2, 3, 3)),
    Map("convt2d-depthwise", _module(nn.ConvTranspose2d, 3, 3, 3, groups=3), (3, 3, 3)),
    Map("convt3d", _module(nn.ConvTranspose3d, 2, 2, 2, stride=2, padding=(1, 0, 0)), (2, 2, 2, 2)),
]

_BORDERS = [
    _bordered("conv1d-circular", nn.Conv1d, (2, 3), 3, (2, 5), "circular", (1, 1), 1),
    _bordered("conv2d-reflect", nn.Conv2d, (2, 3), 3, (2, 4, 4), "reflect", (1, 1, 1, 1), 1),
    _bordered("conv2d-circular", nn.Conv2d, (2, 2), 3, (2, 4, 3), "circular", (1, 1, 2, 2), (2, 1)),
    _bordered("conv2d-replicate-stride", nn.Conv2d, (2, 2), 3, (2, 4, 5), "replicate", (1, 1, 1, 1), 1, stride=2),
    _bordered("conv2d-reflect-same-even", nn.Conv2d, (2, 2), 2, (2, 4, 4), "reflect", (0, 1, 0, 1), "same"),
    _bordered("conv2d-replicate-depthwise", nn.Conv2d, (2, 2), 3, (2, 3, 3), "replicate", (1, 1, 1, 1), 1, groups=2),
    _bordered("conv3d-replicate", nn.Conv3d, (1, 2), 2, (1, 2, 2, 3), "replicate", (1, 1, 1, 1, 1, 1), 1),
]

_PRODUCTS = [
    Map("linear", _module(nn.Linear, 5, 4), (5,)),
    Map("linear-square", _module(nn.Linear, 4, 4), (4,)),
    Map("linear-3d", _module(nn.Linear, 4, 3), (3, 4)),
    Map("linear-4d", _module(nn.Linear, 3, 2), (2, 2, 3)),
    Map("linear-one-output", _module(nn.Linear, 5, 1), (5,)),
    Map("linear-call", _call(lambda x, w, b=None: functional.linear(x, w, b), (3, 4), (3,)), (2, 4)),
    Map("matmul", _call(lambda x, w: torch.matmul(x, w), (5, 4)), (5,), (False,)),
    Map("matmul-operator-3d", _call(lambda x, w: x @ w, (4, 3)), (3, 4), (False,)),
    Map("matmul-vector", _call(lambda x, w: x @ w, (4,)), (3, 4), (False,)),
    Map("matmul-reflected", _call(lambda x, w: w @ x, (4, 3)), (3, 2), (False,)),
    Map("matmul-transposed", _call(lambda x, w: x @ w.t(), (3, 5)), (5,), (False,)),
    Map("mm", _call(lambda x, w: x.mm(w), (5, 3)), (5,), (False,)),
    Map("bmm", _call(lambda x, w: torch.bmm(x, w.expand(x.shape[0], -1, -1)), (1, 4, 3)), (2, 4), (False,)),
    Map(
        "bmm-constant-first",
        _call(lambda x, w: torch.bmm(w.expand(x.shape[0], -1, -1), x), (1, 3, 4)),
        (4, 2),
        (False,),
    ),
    Map("addmm", _call(lambda x, w, b: torch.addmm(b, x, w), (5, 3), (3,)), (5,), (True,)),
    Map(
        "addmm-scaled",
        _call(lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=2.0), (5, 3), (3,)),
        (5,),
        (True,),
    ),
    Map("einsum", _call(lambda x, w: torch.einsum("ni,io->no", x, w), (5, 3)), (5,), (False,)),
    Map(
        "einsum-constant-first",
        _call(lambda x, w: torch.einsum("oi,nti->nto", w, x), (3, 4)),
        (2, 4),
        (False,),
    ),
    Map("einsum-two-sums", _call(lambda x, w: torch.einsum("nij,ijo->no", x, w), (2, 3, 4)), (2, 3), (False,)),
    Map(
        "einsum-shared-index",
        _call(lambda x, w: torch.einsum("nhi,hio->nho", x, w), (2, 3, 2)),
        (2, 3),
        (False,),
    ),
    Map("einsum-ellipsis", _call(lambda x, w: torch.einsum("...i,io->...o", x, w), (4, 3)), (2, 4), (False,)),
    Map("bilinear-first", lambda bias: HalfBilinear(True, bias), (4,)),
    Map("bilinear-second", lambda bias: HalfBilinear(False, bias), (4,)),
    Map("batch-norm-1d", _batch_norm(nn.BatchNorm1d, 5), (5,), kind="scale"),
    Map("batch-norm-1d-sequence", _batch_norm(nn.BatchNorm1d, 3), (3, 4), kind="scale"),
    Map("batch-norm-2d", _batch_norm(nn.BatchNorm2d, 3), (3, 2, 2), kind="scale"),
]

MAPS = [*_CONVS, *_TRANSPOSED, *_BORDERS, *_PRODUCTS]
SQUARE = {"linear-square", "conv2d-padding"}  # the maps that keep the shape and that `Pass` is tried on
