"""The preset for a model whose user named none: by what the model is made of."""

from __future__ import annotations

from torch import nn

from relprop.composite import Composite
from relprop.presets import EpsilonPlus, UniformEpsilon


def choose(model: nn.Module) -> tuple[Composite, str]:
    """A preset, and the sentence that says why."""
    kinds = {type(m).__name__ for m in model.modules()}
    if any(k.startswith("Conv") for k in kinds):
        return EpsilonPlus(), "preset EpsilonPlus chosen: the model is made of convolutions"
    return UniformEpsilon(), "preset UniformEpsilon chosen: the model is made of dense layers"
