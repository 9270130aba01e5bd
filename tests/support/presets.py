"""The presets that are tried on every network of images."""

from __future__ import annotations

from typing import Any

import relprop as rp


def vision_presets(bound: float) -> dict[str, Any]:
    """By name; the inputs lie between `-bound` and `bound`."""
    return {
        "Zero": rp.Zero(),
        "UniformEpsilon": rp.UniformEpsilon(),
        "EpsilonPlus": rp.EpsilonPlus(),
        "EpsilonPlusFlat": rp.EpsilonPlusFlat(),
        "EpsilonGammaBox": rp.EpsilonGammaBox(low=-bound, high=bound),
        "EpsilonAlpha2Beta1": rp.EpsilonAlpha2Beta1(),
        "EpsilonAlpha2Beta1Flat": rp.EpsilonAlpha2Beta1Flat(),
        "ExcitationBackprop": rp.ExcitationBackprop(),
        "GuidedBackprop": rp.GuidedBackprop(),
        "Deconvnet": rp.Deconvnet(),
    }
