"""What is explained: models with random weights, their inputs and targets, and the goals set for relprop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import presets
from relprop.models.sources import import_torchvision


@dataclass(frozen=True)
class Problem:
    """One model, one input and what to explain of its output.

    `model(x)` is `[N, K]`; `target` is `[N]`, one output a sample; `targets` is `[M, N]` where a case asks
    for several explanations of the same forward.
    """

    model: nn.Module
    x: Tensor
    target: Tensor
    targets: Tensor | None = None
    bounds: tuple[float, float] = (presets.LOW, presets.HIGH)


Build = Callable[[torch.dtype, torch.device], Problem]
"""Makes the same problem every time; it is picklable, so that other processes make it too."""


@dataclass(frozen=True)
class Goal:
    """The most that relprop should need, as a multiple of gradient x input."""

    time: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Case:
    """A problem, the rule sets it is explained by, and the goal for each.

    `repeats` is the number of calls that one timing adds up, for models too small to time alone.
    """

    name: str
    title: str
    build: Build
    goals: Mapping[str, Goal]
    repeats: int = 1
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def presets(self) -> tuple[str, ...]:
        return tuple(self.goals)


def problem(
    model: nn.Module, x: Tensor, dtype: torch.dtype, device: torch.device, targets: int | None = None
) -> Problem:
    """Put a model and its input on the device and choose what is explained: the strongest outputs."""
    model = disturb(model).eval().to(device, dtype)
    x = x.to(device, dtype)
    with torch.no_grad():
        strongest = model(x).topk(targets or 1).indices.T.contiguous()
    return Problem(model, x, strongest[0], strongest if targets else None)


def disturb(model: nn.Module) -> nn.Module:
    """Replace what an initialisation leaves at zero or one, so that no rule gets its work for nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02, generator=generator)
    return model


def photographs(batch: int, size: int = 224) -> Tensor:
    """Random pictures within the bounds of the z-box rule, `[batch, 3, size, size]`."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, size, size, generator=generator).clamp(presets.LOW, presets.HIGH)


def vision(
    dtype: torch.dtype,
    device: torch.device,
    *,
    name: str,
    batch: int,
    size: int = 224,
    targets: int | None = None,
) -> Problem:
    """A torchvision model on a batch of pictures."""
    import_torchvision()
    from torchvision import models

    torch.manual_seed(0)
    return problem(getattr(models, name)(weights=None), photographs(batch, size), dtype, device, targets)


class NextToken(nn.Module):
    """A causal language model from embeddings `[N, T, D]` to the last position's logits `[N, K]`."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, embeddings: Tensor) -> Tensor:
        output = self.language_model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1)
        logits: Tensor = output.logits
        return logits[:, -1]


def llama(dtype: torch.dtype, device: torch.device, *, tokens: int, shape: Mapping[str, int]) -> Problem:
    """A stock Llama of a given shape on random embeddings."""
    import_torchvision()  # transformers imports it where it is installed
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(max_position_embeddings=tokens, attn_implementation="sdpa", **shape)
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(1, tokens, config.hidden_size, generator=generator) * config.initializer_range
    return problem(NextToken(LlamaForCausalLM(config)), embeddings, dtype, device)


def tiny_vit(dtype: torch.dtype, device: torch.device) -> Problem:
    """Twelve stock layers of hardly any width."""
    import_torchvision()
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(32, patch_size=16, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32)
    return problem(model, photographs(1, 32), dtype, device)


def perceptron(dtype: torch.dtype, device: torch.device) -> Problem:
    """Three small linear layers on one row: here the cost of a call is what the library itself costs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    generator = torch.Generator().manual_seed(2)
    return problem(model, torch.randn(1, 32, generator=generator), dtype, device)


SMALL_LLAMA = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8192,
}
TINY_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
}
BILLION_LLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}

_ALL = (
    Case(
        "mlp",
        "MLP 32-64-64-10, batch 1",
        perceptron,
        {presets.EPSILON: Goal()},
        repeats=100,
    ),
    Case(
        "vgg16",
        "VGG-16, 2 x 224²",
        partial(vision, name="vgg16", batch=2),
        {
            presets.EPSILON: Goal(1.05, 1.0),
            presets.PLUS: Goal(1.55, 1.5),
            presets.BOX: Goal(1.6, 1.5),
            presets.ALPHA_BETA: Goal(2.6, 2.0),
        },
    ),
    Case(
        "resnet50",
        "ResNet-50, 4 x 224²",
        partial(vision, name="resnet50", batch=4),
        {
            presets.EPSILON: Goal(1.08, 1.0),
            presets.PLUS: Goal(1.65, 1.2),
            presets.BOX: Goal(1.95, 1.25),
            presets.ALPHA_BETA: Goal(2.6, 1.35),
        },
    ),
    Case(
        "vit",
        "ViT-B/16, 2 x 224²",
        partial(vision, name="vit_b_16", batch=2),
        {
            presets.ATTENTION: Goal(1.03, 0.9),
            presets.VALUES_ONLY: Goal(0.65),
            presets.ATTENTION_GAMMA: Goal(2.2),
        },
    ),
    Case(
        "llama",
        "Llama shape, 8 layers x 512, 512 tokens",
        partial(llama, tokens=512, shape=SMALL_LLAMA),
        {presets.ATTENTION: Goal(1.02, 0.95), presets.ATTENTION_GAMMA: Goal(2.1)},
    ),
    Case(
        "vit-tiny",
        "ViT, 12 layers x 16, one image of 32²: what the library itself costs",
        tiny_vit,
        {presets.ATTENTION: Goal()},
        repeats=5,
    ),
    Case(
        "llama-tiny",
        "Llama shape, 8 layers x 16, 8 tokens: what the library itself costs",
        partial(llama, tokens=8, shape=TINY_LLAMA),
        {presets.ATTENTION: Goal()},
        repeats=5,
    ),
    Case(
        "targets",
        "ResNet-50, 4 x 224², ten targets from one forward, in units of one gradient",
        partial(vision, name="resnet50", batch=4, targets=10),
        {presets.PLUS: Goal(4.5)},
    ),
    Case(
        "resnet50-64",
        "ResNet-50, 64 x 224²",
        partial(vision, name="resnet50", batch=64),
        {preset: Goal() for preset in presets.CONVOLUTIONAL},
        devices=("cuda",),
    ),
    Case(
        "vit-64",
        "ViT-B/16, 64 x 224²",
        partial(vision, name="vit_b_16", batch=64),
        {presets.ATTENTION: Goal(), presets.VALUES_ONLY: Goal(), presets.ATTENTION_GAMMA: Goal()},
        devices=("cuda",),
    ),
    Case(
        "llama-1b",
        "Llama shape, 16 layers x 2048 (1.2 billion parameters), 4096 tokens",
        partial(llama, tokens=4096, shape=BILLION_LLAMA),
        {presets.ATTENTION: Goal(), presets.ATTENTION_GAMMA: Goal()},
        devices=("cuda",),
    ),
)

CASES: dict[str, Case] = {case.name: case for case in _ALL}
