"""Tiny networks that several tests explain. Float64, eval mode, nothing trivial in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.vision import randomise_statistics


def ready(model: nn.Module) -> nn.Module:
    """Float64, eval mode, statistics and biases that can be seen."""
    model = model.double().eval()
    randomise_statistics(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model


class Cubed(torch.autograd.Function):
    """A function that is not seen as it runs: its node alone is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 3 * g * ctx.saved_tensors[0] ** 2


class Of(nn.Module):
    """Any function of tensors, as a model."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Tensor:
        return self.function(*args)


class Block(nn.Module):
    """A residual block; with `plain` every call is out of place and every module its own."""

    def __init__(self, channels: int, plain: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=not plain)
        self.relu2 = nn.ReLU() if plain else self.relu
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.relu(self.norm1(self.conv1(x))))
        if self.plain:
            return self.relu2(h + x)
        h += x
        return self.relu2(h)


class ResidualNet(nn.Module):
    """Stem, two blocks, pools, a linear head. [N, 3, 8, 8] -> [N, 5]"""

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(4, plain), Block(4, plain))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.max_pool2d(functional.relu(self.stem(x)), 2)
        return self.head(functional.adaptive_avg_pool2d(self.blocks(h), 1).flatten(1))


class GatedNet(nn.Module):
    """Convolution, SiLU, squeeze and excite, average pool, head. [N, 3, 8, 8] -> [N, 5]"""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.silu(self.norm(self.conv(x)), inplace=True)
        gate = torch.sigmoid(self.excite(functional.silu(self.squeeze(h.mean((2, 3), keepdim=True)))))
        return self.head((h * gate).mean((2, 3)))


class UNet(nn.Module):
    """Transposed convolution, interpolation and skips by cat. [N, 2, 8, 8] -> [N, 2, 8, 8]"""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.bottom = nn.Conv2d(6, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.mix = nn.Conv2d(10, 4, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = functional.relu(self.norm(self.down1(x)))
        two = functional.relu(self.down2(functional.max_pool2d(one, 2)))
        low = functional.relu(self.bottom(functional.max_pool2d(two, 2)))
        middle = torch.cat([functional.relu(self.up(low)), two], 1)
        middle = functional.relu(self.mix(middle))
        wide = functional.interpolate(middle, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(torch.cat([wide, one], 1))


class TwoTowers(nn.Module):
    """A picture and a table row in, one regression value out. [N, 3, 8, 8], [N, 4] -> [N, 1]"""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.table = nn.Linear(4, 4)
        self.out = nn.Linear(8, 1)

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        seen = functional.relu(self.conv(picture)).amax((2, 3))
        read = functional.gelu(self.table(row))
        return self.out(torch.cat([seen, read], 1))


def residual_net(plain: bool = False) -> nn.Module:
    torch.manual_seed(4)
    return ready(ResidualNet(plain))


def gated_net() -> nn.Module:
    torch.manual_seed(4)
    return ready(GatedNet())


def unet() -> nn.Module:
    torch.manual_seed(4)
    return ready(UNet())


def two_towers() -> nn.Module:
    torch.manual_seed(4)
    return ready(TwoTowers())
