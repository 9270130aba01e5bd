"""VGG and ResNet as loaded against zennit, which edits a copy (canonizers) and hooks its modules.

Where the two differ by design, and what is done about it here:
- zennit stabilises residual sums and average pools too, this library does not: stabilisers are tiny;
- zennit merges a batch norm with its eps and leaves an identity that still has it: each divides by sqrt(1 + eps),
  which adds up to 4e-5 in vgg11_bn and 3e-3 in resnet18. Here the identities' eps is taken away;
- zennit returns a gradient for guided backpropagation and deconvnet, and so does this library;
- zennit keeps the positive part of the bias in excitation backprop, the paper and this library leave it out:
  zennit leaves it out on request;
- zennit's first layer is the first that is registered, ours the first that runs: here it is the same;
- zennit's w² squares the bias too: no composite uses it, and the tests of single rules zero its bias.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zennit import composites as zennit_composites
from zennit.canonizers import Canonizer
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

import relprop as rp
from tests.support.compare import assert_close
from tests.support.vision import photograph, vision_model

EPS = 1e-12
LOW, HIGH = -5.0, 5.0
MODELS: dict[str, type[Canonizer]] = {
    "vgg11": VGGCanonizer,
    "vgg11_bn": VGGCanonizer,
    "resnet18": ResNetCanonizer,
    "resnet50": ResNetCanonizer,
}
OURS, THEIRS = {"epsilon": EPS, "stabiliser": EPS}, {"epsilon": EPS, "stabilizer": EPS}
COMPOSITES: dict[str, tuple[Callable[[], object], Callable[..., zennit_composites.Composite]]] = {
    "EpsilonPlus": (
        lambda: rp.EpsilonPlus(**OURS),
        lambda **k: zennit_composites.EpsilonPlus(**THEIRS, **k),
    ),
    "EpsilonPlusFlat": (
        lambda: rp.EpsilonPlusFlat(**OURS),
        lambda **k: zennit_composites.EpsilonPlusFlat(**THEIRS, **k),
    ),
    "EpsilonGammaBox": (
        lambda: rp.EpsilonGammaBox(low=LOW, high=HIGH, **OURS),
        lambda **k: zennit_composites.EpsilonGammaBox(
            low=torch.tensor([[[[LOW]]]]).double(), high=torch.tensor([[[[HIGH]]]]).double(), **THEIRS, **k
        ),
    ),
    "EpsilonAlpha2Beta1": (
        lambda: rp.EpsilonAlpha2Beta1(**OURS),
        lambda **k: zennit_composites.EpsilonAlpha2Beta1(**THEIRS, **k),
    ),
    "EpsilonAlpha2Beta1Flat": (
        lambda: rp.EpsilonAlpha2Beta1Flat(**OURS),
        lambda **k: zennit_composites.EpsilonAlpha2Beta1Flat(**THEIRS, **k),
    ),
}


@functools.lru_cache(maxsize=1)  # VGG is large
def load(name: str) -> nn.Module:
    return vision_model(name, num_classes=7)


def by_zennit(
    model: nn.Module,
    composite: Callable[..., zennit_composites.Composite],
    canonizer: type[Canonizer],
    x: Tensor,
    seed: Tensor,
) -> Tensor:
    """What zennit's gradient is, for the output gradient `seed`; the model is left alone."""
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    with composite(canonizers=[canonizer()]).context(model) as prepared:
        for module in prepared.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eps = 1e-30
        (found,) = torch.autograd.grad(prepared(x), x, seed)
    return found


@pytest.mark.parity
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", MODELS)
def test_composite_equals_zennit(name: str, composite: str) -> None:
    model, x = load(name), photograph(64)
    ours, theirs = COMPOSITES[composite]
    v = torch.randn(1, 7, dtype=torch.float64)
    expected = by_zennit(model, theirs, MODELS[name], x, v * model(x).detach())
    found = rp.LRP(model, ours()).explain(x, target=lambda output: (output * v).sum(1))
    assert_close(found.relevance, expected, 1e-8)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
@pytest.mark.parametrize("preset", ["GuidedBackprop", "Deconvnet"])
def test_gradient_methods_equal_zennit(preset: str, name: str) -> None:
    """The seed is a gradient: relevance over output."""
    theirs = {"GuidedBackprop": zennit_composites.GuidedBackprop, "Deconvnet": zennit_composites.DeconvNet}[preset]
    model, x = load(name), photograph(64)
    gradient = torch.randn(1, 7, dtype=torch.float64)
    expected = by_zennit(model, theirs, MODELS[name], x, gradient)
    found = rp.LRP(model, getattr(rp, preset)()).explain(x, target=gradient * model(x).detach())
    assert_close(found.relevance, expected, 1e-8)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["vgg11", "resnet18"])
def test_excitation_backprop_equals_zennit(name: str) -> None:
    """The paper's rule has no bias; zennit leaves it out on request."""
    model, x = load(name), photograph(64)
    relevance = torch.rand(1, 7, dtype=torch.float64)

    def theirs(**k: object) -> zennit_composites.Composite:
        return zennit_composites.ExcitationBackprop(stabilizer=EPS, zero_params="bias", **k)

    expected = by_zennit(model, theirs, MODELS[name], x, relevance)
    found = rp.LRP(model, rp.ExcitationBackprop(stabiliser=EPS)).explain(x, target=relevance)
    assert_close(found.relevance, expected, 1e-5)
