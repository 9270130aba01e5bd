"""Model preparation that returns a copy: flattened, canonized, without its final softmax.

None of it is needed to explain a model with relprop: nested modules, batch norms and a final softmax are taken as they
are, and explaining the copy gives what explaining the model gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relprop.adapters.julia.layers import CONV_LAYERS, NORMALIZATION_LAYERS, Scale
from relprop.errors import InputError
from relprop.explain import LRP
from relprop.rules import Zero

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def flatten_model(model: nn.Module) -> nn.Module:
    """A copy in which no `nn.Sequential` lies directly in another."""
    return _changed(copy.deepcopy(model), _flatten)


def _changed(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """What `change` makes of every module in it, the innermost first, and of itself."""
    for name, child in list(module.named_children()):
        setattr(module, name, _changed(child, change))
    return change(module)


def _flatten(module: nn.Module) -> nn.Module:
    """A Sequential without others directly in it."""
    if type(module) is not nn.Sequential:
        return module
    parts: list[nn.Module] = []
    for child in module:
        parts += list(child) if type(child) is nn.Sequential else [child]
    return nn.Sequential(*parts).train(module.training)


def strip_softmax(model: nn.Module) -> nn.Module:
    """A copy without the softmax that a Sequential ends in; a copy as it is where it ends in none."""
    made = copy.deepcopy(model)
    parent, last = made, made
    while (inner := list(last.children())) and isinstance(last, nn.Sequential):
        parent, last = last, inner[-1]
    if isinstance(last, (nn.Softmax, nn.LogSoftmax, nn.Softmax2d)) and isinstance(parent, nn.Sequential):
        del parent[len(parent) - 1]
    return made


def canonize(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """A flattened copy with batch norms merged into the maps before them, and the affine part of LayerNorms apart.

    args  what the model takes. With them merged are the batch norms that run right behind a map, wherever they stand in
          the model; without, those right behind one in a Sequential

    The model must be in eval mode: a batch norm is then one affine map.
    """
    made = copy.deepcopy(model)
    if args or kwargs:
        for conv, norm in _running_pairs(model, args, kwargs):
            _replace(made, conv, fuse(made.get_submodule(conv), made.get_submodule(norm)))
            _replace(made, norm, nn.Identity())
    for change in (_split, _flatten, _merge):
        made = _changed(made, change)
    return made


def _running_pairs(model: nn.Module, args: Any, kwargs: Any) -> list[tuple[str, str]]:
    """Paths of maps and of the batch norms that a forward takes together with them."""
    pairs = []
    for site, _ in LRP(model, Zero()).plan(*args, **kwargs):
        for note in site.notes:
            if note.startswith("with batch norm "):
                pairs.append((site.path, note.removeprefix("with batch norm ")))
    if len({p for pair in pairs for p in pair}) != 2 * len(set(pairs)):
        raise InputError("a map or batch norm runs in several places: it cannot be merged in a copy")
    return list(dict.fromkeys(pairs))


def _replace(model: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def _split(module: nn.Module) -> nn.Module:
    """A LayerNorm with an affine part becomes one without and a Scale."""
    if isinstance(module, nn.LayerNorm) and module.weight is not None:
        norm = nn.LayerNorm(module.normalized_shape, module.eps, elementwise_affine=False)
        return nn.Sequential(norm, Scale(module.weight, module.bias)).train(module.training)
    return module


def _merge(module: nn.Module) -> nn.Module:
    """A Sequential with its batch norms merged into the maps before them."""
    if type(module) is not nn.Sequential:
        return module
    parts: list[nn.Module] = []
    for child in module:
        if parts and isinstance(child, NORMALIZATION_LAYERS) and _fusable(parts[-1], child):
            parts[-1] = fuse(parts[-1], child)
        else:
            parts.append(child)
    return nn.Sequential(*parts).train(module.training)


def _fusable(before: nn.Module, norm: Any) -> bool:
    if not isinstance(before, (nn.Linear, *CONV_LAYERS)):
        return False
    channels = before.out_features if isinstance(before, nn.Linear) else before.out_channels
    return channels == norm.num_features


def fuse(before: Any, norm: Any) -> nn.Module:
    """One map that does what a map and the batch norm behind it do."""
    if norm.training or norm.running_mean is None:
        raise InputError("a batch norm on batch statistics is no affine map: call model.eval() first")
    made: Any = copy.deepcopy(before)
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale if norm.bias is None else norm.bias - norm.running_mean * scale
        bias = shift if before.bias is None else before.bias * scale + shift
        made.weight = nn.Parameter(_scaled(before, scale), requires_grad=before.weight.requires_grad)
        made.bias = nn.Parameter(bias, requires_grad=before.weight.requires_grad)
    return made


def _scaled(before: nn.Module, scale: Tensor) -> Tensor:
    """The weight with its output channels scaled."""
    weight: Any = before.weight
    if not isinstance(before, _TRANSPOSED):
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    # [in, out / groups, ...]: the inputs of a group lead to its outputs alone
    grouped = weight.reshape(before.groups, -1, *weight.shape[1:])
    factors = scale.reshape(before.groups, 1, -1, *(1,) * (weight.ndim - 2))
    return (grouped * factors).reshape(weight.shape)
