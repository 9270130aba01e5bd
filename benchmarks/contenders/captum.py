"""captum's LRP: two forward passes with rewritten weights.

Of the presets it has epsilon on every linear map. It does not see residual additions. Every call takes the
rules off the modules, so every call attaches them anew.
"""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks import presets
from benchmarks.cases import Problem
from benchmarks.contenders.base import Call, Contender, NotOffered


def prepare(problem: Problem, preset: str) -> Call:
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    if preset not in (presets.EPSILON, presets.ATTENTION) or problem.targets is not None:
        raise NotOffered(preset)
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
    ruled = [module for module in problem.model.modules() if isinstance(module, kinds)]
    for module in problem.model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # its backward hooks refuse what is changed in place

    def call() -> Tensor:
        for module in ruled:
            module.rule = EpsilonRule(presets.STABILISER)
        lrp = LRP(problem.model)
        relevance: Tensor = lrp.attribute(problem.x, target=problem.target)
        return relevance.detach()

    return call


CONTENDER = Contender("captum", prepare, package="captum")
