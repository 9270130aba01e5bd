"""relprop, with its default settings: the audit is part of what is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import presets
from benchmarks.cases import Problem
from benchmarks.contenders.base import Call, Contender


def prepare(problem: Problem, preset: str) -> Call:
    import relprop

    lrp = relprop.LRP(problem.model, composite(problem, preset))

    def call() -> Tensor:
        relevance: Tensor = lrp.explain(problem.x, target=problem.target).relevance
        return relevance

    def call_each() -> Tensor:
        assert problem.targets is not None
        explanations = lrp.explain(problem.x, targets=list(problem.targets))
        return torch.stack([explanation.relevance for explanation in explanations])

    return call if problem.targets is None else call_each


def composite(problem: Problem, preset: str) -> object:
    import relprop as rp

    low, high = problem.bounds
    if preset == presets.BOX:
        return rp.EpsilonGammaBox(low=low, high=high)
    if preset == presets.ATTENTION_GAMMA:
        return rp.AttnLRP(conv_gamma=presets.GAMMA, linear_gamma=presets.GAMMA)
    return getattr(rp, preset)()  # the others are named as in relprop


CONTENDER = Contender("relprop", prepare, package="relprop")
