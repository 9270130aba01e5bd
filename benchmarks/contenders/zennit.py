"""zennit: hooks on modules, with its canonizer for ResNets. Its hooks are attached once and stay.

It has rules for linear maps only. On transformers it is given its epsilon and gamma rules, which is as near
as it comes; the reported difference tells how near that is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import presets
from benchmarks.cases import Problem
from benchmarks.contenders.base import Call, Contender, NotOffered
from relprop.models.sources import import_torchvision


def prepare(problem: Problem, preset: str) -> Call:
    import_torchvision()  # zennit imports it at once
    from zennit.attribution import Gradient

    composite = make_composite(problem, preset)
    attributor = Gradient(problem.model, composite, retain_graph=problem.targets is not None or None)
    attributor.__enter__()

    def seed(output: Tensor, target: Tensor) -> Tensor:
        chosen = torch.zeros_like(output).scatter_(1, target[:, None], 1)
        return chosen * output.detach()

    def call() -> Tensor:
        _, relevance = attributor(problem.x, lambda output: seed(output, problem.target))
        return relevance

    def call_each() -> Tensor:
        # its hooks keep what they need, so one forward serves several backward passes
        assert problem.targets is not None
        x = problem.x.detach().clone().requires_grad_()
        output = problem.model(x)
        return torch.stack(
            [torch.autograd.grad(output, x, seed(output, target), retain_graph=True)[0] for target in problem.targets]
        )

    return call if problem.targets is None else call_each


def make_composite(problem: Problem, preset: str) -> object:
    from zennit import composites, rules, types

    stabiliser, canonizers = presets.STABILISER, find_canonizers(problem)
    if preset in (presets.EPSILON, presets.ATTENTION):
        layers = [(types.Linear, rules.Epsilon(epsilon=stabiliser))]
    elif preset == presets.ATTENTION_GAMMA:
        layers = [(types.Linear, rules.Gamma(gamma=presets.GAMMA, stabilizer=stabiliser))]
    elif preset == presets.PLUS:
        return composites.EpsilonPlus(canonizers=canonizers)
    elif preset == presets.ALPHA_BETA:
        return composites.EpsilonAlpha2Beta1(canonizers=canonizers)
    elif preset == presets.BOX:
        low, high = (torch.full_like(problem.x[:1], bound) for bound in problem.bounds)
        return composites.EpsilonGammaBox(low=low, high=high, gamma=presets.GAMMA, canonizers=canonizers)
    else:
        raise NotOffered(preset)
    return composites.LayerMapComposite(composites.layer_map_base(stabiliser) + layers, canonizers=canonizers)


def find_canonizers(problem: Problem) -> list[object]:
    """zennit's own for the model's family."""
    if type(problem.model).__name__ != "ResNet":
        return []
    from zennit.torchvision import ResNetCanonizer

    return [ResNetCanonizer()]


CONTENDER = Contender("zennit", prepare, package="zennit")
