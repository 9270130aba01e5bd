"""Stock convolutional networks as loaded: every preset runs, the books balance, nothing is lost."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close
from tests.support.presets import vision_presets
from tests.support.state import assert_same_state, snapshot
from tests.support.vision import (
    calibrate,
    photograph,
    randomise_statistics,
    vision_model,
    zero_additive_terms,
)

PRESETS = vision_presets(5.0)


def hf_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], num_labels=7)
    model = ResNetForImageClassification(config).eval().double()
    randomise_statistics(model)
    calibrate(model)
    return model


MODELS: dict[str, dict[str, Any]] = {
    "densenet121": {},
    "efficientnet_b0": {},
    "mobilenet_v3_small": {},
    "shufflenet_v2_x0_5": {},
    "regnet_y_400mf": {},
    "convnext_tiny": {},
    "googlenet": {"init_weights": True, "aux_logits": False},
    "hf_resnet": {},
}


@functools.lru_cache(maxsize=1)  # the tests come model by model
def load(name: str) -> nn.Module:
    return hf_resnet() if name == "hf_resnet" else vision_model(name, num_classes=7, **MODELS[name])


def logit(output: Any) -> Tensor:
    """The explained logit, of a tensor or of a transformers output."""
    return getattr(output, "logits", output)[:, 3]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", MODELS)
def test_preset_explains(name: str, preset: str) -> None:
    model, x = load(name), photograph(64)
    with torch.no_grad():
        plain = logit(model(x))
    before = snapshot(model)
    found = rp.LRP(model, PRESETS[preset]).explain(x, target=logit)
    assert_same_state(before, snapshot(model))
    assert torch.equal(logit(found.output), plain)
    assert found.relevance.shape == x.shape
    assert torch.isfinite(found.relevance).all()
    assert found.relevance.abs().sum() > 0
    if preset not in ("GuidedBackprop", "Deconvnet"):  # gradients, which have no sum to keep
        assert abs(float(found.audit.unexplained)) < 1e-4 * abs(float(plain.sum()))


@pytest.mark.parametrize("preset", ["UniformEpsilon", "EpsilonPlus", "EpsilonAlpha2Beta1"])
@pytest.mark.parametrize("name", MODELS)
def test_preset_explains_in_float32(name: str, preset: str) -> None:
    """As it is loaded: the books balance to the rounding of float32, relative to what was added up."""
    model = copy.deepcopy(load(name)).float()
    found = rp.LRP(model, PRESETS[preset]).explain(photograph(64).float(), target=logit)
    assert torch.isfinite(found.relevance).all()
    books = found.audit
    assert abs(books.unexplained) < max(1e-4 * abs(books.seed), 1e-6 * books.scale)


@functools.lru_cache(maxsize=1)
def load_without_additive_terms(name: str, positive: bool = False) -> nn.Module:
    model = hf_resnet() if name == "hf_resnet" else vision_model(name, num_classes=7, **MODELS[name])
    if positive:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_()
    return zero_additive_terms(model)


@pytest.mark.parametrize("rule", [rp.Zero(), rp.UniformEpsilon(epsilon=1e-14)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_epsilon_sums_to_the_seed(name: str, rule: Any) -> None:
    """Nothing but the input adds anything, so the relevance of the input is all there is."""
    found = rp.LRP(load_without_additive_terms(name), rule).explain(photograph(64), target=logit)
    assert_close(found.relevance.sum(), logit(found.output).sum(), 1e-4)


Z_PLUS = {"EpsilonPlus": rp.EpsilonPlus(epsilon=1e-12, stabiliser=1e-12), "ZPlus": rp.ZPlus(epsilon=1e-12)}


@pytest.mark.parametrize("preset", Z_PLUS)
@pytest.mark.parametrize("name", MODELS)
def test_z_plus_sums_to_the_seed(name: str, preset: str) -> None:
    """With weights and input >= 0 every output has a positive contribution, and z+ loses nothing.

    A layer norm centres: in ConvNeXt windows of negative entries remain, and what they lose is booked as excess.
    """
    model, x = load_without_additive_terms(name, positive=True), photograph(64).abs()
    found = rp.LRP(model, Z_PLUS[preset]).explain(x, target=logit)
    total = found.relevance.sum()
    if name == "convnext_tiny":
        total = total + found.audit.excess
    assert_close(total, logit(found.output).sum(), 1e-4)


@pytest.mark.parametrize("preset", Z_PLUS)
@pytest.mark.parametrize("name", MODELS)
def test_what_z_plus_loses_is_booked(name: str, preset: str) -> None:
    """With weights of any sign some outputs have no positive contribution at all: z+ gives their relevance to nobody.

    Networks with wide ReLU layers alone have no such outputs that carry relevance.
    """
    found = rp.LRP(load_without_additive_terms(name), Z_PLUS[preset]).explain(photograph(64), target=logit)
    seed, books = logit(found.output).sum(), found.audit
    lost = books.excess + books.epsilon
    assert_close(found.relevance.sum() + lost, seed, 1e-4)
    assert books.bias == 0 and books.constants == 0
    if name in ("densenet121", "googlenet"):
        assert abs(lost) < 1e-4 * abs(seed)
