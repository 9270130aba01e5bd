"""LXT's efficient mode: patched model classes, then gradient x input. It gets a process of its own.

The packaged 2.1 works with transformers 4 only, the newer state of its repository with 5: whichever is
importable as `lxt` is taken. Its Llama patches are AttnLRP, its vision transformer patches are CP-LRP; gamma
on linear maps comes from zennit's rule, as its own examples do it.
"""

from __future__ import annotations

from benchmarks import presets
from benchmarks.cases import NextToken, Problem
from benchmarks.contenders import gradient
from benchmarks.contenders.base import Call, Contender, NotOffered
from relprop.models.sources import import_torchvision


def prepare(problem: Problem, preset: str) -> Call:
    import_torchvision()  # lxt imports it at once
    if isinstance(problem.model, NextToken):
        from transformers.models.llama import modeling_llama as family

        offered = {presets.ATTENTION, presets.ATTENTION_GAMMA}
    elif type(problem.model).__name__ == "VisionTransformer":
        from torchvision.models import vision_transformer as family

        offered = {presets.VALUES_ONLY}
    else:
        raise NotOffered(preset)
    if preset not in offered:
        raise NotOffered(preset)

    from lxt.efficient import monkey_patch, monkey_patch_zennit

    monkey_patch(family)
    if preset == presets.ATTENTION_GAMMA:
        from zennit.composites import LayerMapComposite
        from zennit.rules import Gamma
        from zennit.types import Linear

        monkey_patch_zennit()
        LayerMapComposite([(Linear, Gamma(presets.GAMMA))]).register(problem.model)
    return gradient.prepare(problem, preset)


CONTENDER = Contender("LXT", prepare, package="lxt", apart=True)
