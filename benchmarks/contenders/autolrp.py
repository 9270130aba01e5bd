"""autoLRP: rules as hooks on the nodes of the autograd graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks import presets
from benchmarks.cases import Problem
from benchmarks.contenders.base import Call, Contender, NotOffered

LINEAR = ("ConvolutionBackward", "AddmmBackward", "MmBackward")


def prepare(problem: Problem, preset: str) -> Call:
    import autolrp

    config = autolrp.LRPConfig(rule={**autolrp.BASE, **rules(problem, preset)}, eps=presets.STABILISER)

    def call() -> Tensor:
        x = autolrp.tensor(problem.x)
        value = problem.model(x).gather(1, problem.target[:, None])
        value.lrp(config=config)
        return scaled(x, value)

    def call_each() -> Tensor:
        assert problem.targets is not None
        x = autolrp.tensor(problem.x)
        output = problem.model(x)
        found = []
        for target in problem.targets:
            value = output.gather(1, target[:, None])
            value.lrp(config=config)
            found.append(scaled(x, value))
        return torch.stack(found)

    return call if problem.targets is None else call_each


def scaled(x: Any, value: Tensor) -> Tensor:
    """It seeds every value with one; ours is the value's own scale."""
    relevance = x.relevance.as_subclass(Tensor)
    per_sample = value.detach().as_subclass(Tensor).reshape(-1, *[1] * (relevance.dim() - 1))
    return relevance * per_sample


def rules(problem: Problem, preset: str) -> dict[str, Any]:
    import autolrp

    gamma = ("gamma", {"gamma": presets.GAMMA})
    attention = {**autolrp.ATTNLRP, **autolrp.on(autolrp.ELEMENTWISE_NODES, "yx")}
    low, high = problem.bounds
    table: dict[str, dict[str, Any]] = {
        presets.EPSILON: {},
        presets.PLUS: {"ConvolutionBackward": "zplus"},
        presets.BOX: {"ConvolutionBackward": gamma, "input_conv": ("zbox", {"low": low, "high": high})},
        presets.ALPHA_BETA: {"ConvolutionBackward": ("alpha_beta", {"alpha": 2.0, "beta": 1.0})},
        presets.ATTENTION: attention,
        presets.ATTENTION_GAMMA: {**attention, **autolrp.on(LINEAR, gamma)},
        presets.VALUES_ONLY: dict(autolrp.CPLRP),
    }
    if preset not in table:
        raise NotOffered(preset)
    return table[preset]


CONTENDER = Contender("autoLRP", prepare, package="autolrp")
