"""The preset for a model whose user named none: by what runs in it."""

from __future__ import annotations

from relprop.composite import Composite
from relprop.plan import Plan
from relprop.presets import LSTMLRP, AttnLRP, EpsilonPlus, MambaLRP, UniformEpsilon


def choose(plan: Plan) -> tuple[Composite, str]:
    """A preset, and the sentence that says why."""
    kinds = {site.kind for site in plan.sites}
    convs = sum(site.kind == "conv" for site in plan.sites)
    # a graph's is written out: a softmax by division over the edges into a node, times what comes along them
    graph = "product" in kinds and any(site.kind == "softmax" and site.name == "div" for site in plan.sites)
    attention = bool(kinds & {"attention"}) or {"softmax", "matmul"} <= kinds or graph
    if "selection" in kinds:
        return _said(MambaLRP(), "a selective state space runs in the model")
    if attention and convs:
        return _said(AttnLRP(conv_gamma=0.25, feed_forward_gamma=0.05), "attention and convolutions run in the model")
    if attention:
        return _said(AttnLRP(), "attention runs in the model")
    if "recurrent" in kinds:
        return _said(LSTMLRP(), "a recurrent layer runs in the model")
    if convs:
        return _said(EpsilonPlus(), "convolutions run in the model")
    if "linear" in kinds:
        return _said(UniformEpsilon(), "dense layers run in the model")
    return _said(UniformEpsilon(), "no convolution, attention, recurrent or dense layer was seen to run in the model")


def _said(preset: Composite, why: str) -> tuple[Composite, str]:
    return preset, f"preset {preset.name} chosen: {why}"
