"""The published rule sets by name. A preset is a composite; its docstring names its paper."""

from relprop.presets.base import Preset
from relprop.presets.language import CPLRP, LSTMLRP, AttnLRP, MambaLRP, ResLRP
from relprop.presets.vision import (
    Deconvnet,
    DeepTaylor,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    GuidedBackprop,
    UniformEpsilon,
)

__all__ = [
    "CPLRP",
    "LSTMLRP",
    "AttnLRP",
    "Deconvnet",
    "DeepTaylor",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "ExcitationBackprop",
    "GuidedBackprop",
    "MambaLRP",
    "Preset",
    "ResLRP",
    "UniformEpsilon",
]
