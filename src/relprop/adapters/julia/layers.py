"""Layers and their indices: Flux's data-flow layers as modules, and the tree of a model's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

CONV_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOLING_LAYERS = tuple(
    getattr(nn, f"{kind}{n}d")
    for kind in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "LPPool")
    for n in (1, 2, 3)
    if hasattr(nn, f"{kind}{n}d")
)
DROPOUT_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
RESHAPING_LAYERS = (nn.Flatten, nn.Unflatten)
NORMALIZATION_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign, nn.Identity,
)  # fmt: skip

Index = tuple[int, ...]


class Parallel(nn.Module):
    """Flux's `Parallel(connection, layers...)`: every layer gets the input, the connection joins what they make."""

    def __init__(self, connection: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.connection = connection
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.connection(*(layer(x) for layer in self.layers))


class SkipConnection(nn.Module):
    """Flux's `SkipConnection(layers, connection)`: the connection joins what the layers make with the input."""

    def __init__(self, layers: nn.Module, connection: Callable[[Tensor, Tensor], Tensor] = torch.add) -> None:
        super().__init__()
        self.layers, self.connection = layers, connection

    def forward(self, x: Tensor) -> Tensor:
        return self.connection(self.layers(x), x)


class Scale(nn.Module):
    """Flux's `Scale`: `weight * x + bias`, entry by entry of the last dimensions."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * self.weight
        return scaled if self.bias is None else scaled + self.bias

    def extra_repr(self) -> str:
        return "x".join(map(str, self.weight.shape))


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that a module holds, with their names in it; none of a layer."""
    if isinstance(module, Parallel):
        return [(f"layers.{i}", layer) for i, layer in enumerate(module.layers)]
    return list(module.named_children())


def layers(model: nn.Module) -> Iterator[tuple[Index, str, nn.Module]]:
    """The layers that hold no other: index, path, module."""

    def walk(module: nn.Module, index: Index, path: str) -> Iterator[tuple[Index, str, nn.Module]]:
        inner = children(module)
        if not inner:
            yield index, path, module
        for i, (name, child) in enumerate(inner):
            yield from walk(child, (*index, i), f"{path}.{name}" if path else name)

    return walk(model, (), "")


def layer_indices(model: nn.Module) -> Any:
    """The indices of all layers in the structure of the model: tuples in tuples."""

    def build(module: nn.Module, index: Index) -> Any:
        inner = children(module)
        return index if not inner else [build(child, (*index, i)) for i, (_, child) in enumerate(inner)]

    return build(model, ())


def show_layer_indices(model: nn.Module) -> str:
    """Print the indices of all layers with their paths, for `LayerMap`. Returns what was printed."""
    found = list(layers(model))
    shown = [str(index if len(index) != 1 else index[0]) for index, _, _ in found]
    width, names = max(map(len, shown), default=0), max((len(path) for _, path, _ in found), default=0)
    text = "\n".join(
        f"{index:<{width}}  {path:<{names}}  {type(module).__name__}"
        for index, (_, path, module) in zip(shown, found, strict=True)
    )
    print(text)
    return text
