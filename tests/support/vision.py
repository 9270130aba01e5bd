"""torchvision beside the CPU build of torch, and helpers that prepare its models for tests."""

from __future__ import annotations

import functools
import importlib.util
import warnings

import torch
from torch import nn

from relprop.models.sources import import_torchvision


def declare_torchvision_operators() -> None:
    """Import torchvision, where it is installed, so that zennit, timm and transformers can: beside a torch that it was
    not built for its operators are to be declared first."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()


def vision_model(name: str, seed: int = 0, **settings: object) -> nn.Module:
    """A torchvision model with random weights and statistics, in eval mode, float64."""
    declare_torchvision_operators()
    import torchvision.models

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # googlenet announces a change of its own initialisation
        torch.manual_seed(seed)
        model = getattr(torchvision.models, name)(weights=None, **settings).eval().double()
        randomise_statistics(model)
        calibrate(model)
    return model


def randomise_statistics(model: nn.Module) -> None:
    """Give batch norms statistics and affine parameters that are not the trivial ones."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):
                parameter.uniform_(0.3, 1)  # ConvNeXt starts at 1e-6, where its blocks do next to nothing


@torch.no_grad()
def calibrate(model: nn.Module, size: int = 64) -> None:
    """Let the batch norms' variances be about those of their inputs, as after training.

    Random statistics let the activations of a deep network grow or vanish by many powers of ten.
    """

    def set_variance(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        offset = args[0] - norm.running_mean.view(1, -1, *(1,) * (args[0].ndim - 2))
        norm.running_var.mul_(offset.square().mean() / norm.running_var.mean())

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(set_variance) for norm in norms]
    try:
        model(photograph(size))
    finally:
        for handle in handles:
            handle.remove()


def zero_additive_terms(model: nn.Module) -> nn.Module:
    """Zero every bias, and every shift and mean of a norm: nothing but the input adds anything."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.rsplit(".", 1)[-1] in ("bias", "running_mean", "in_proj_bias"):
                tensor.zero_()
    calibrate(model)
    return model


@functools.cache
def photograph(height: int, width: int | None = None, batch: int = 1, seed: int = 3) -> torch.Tensor:
    """A smooth random picture, normalised: `[batch, 3, height, width]`, float64."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64)
    picture = nn.functional.interpolate(coarse, (height, width or height), mode="bicubic")
    return picture + 0.2 * torch.randn(picture.shape, generator=generator, dtype=torch.float64)
