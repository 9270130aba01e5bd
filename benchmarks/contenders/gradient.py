"""Gradient x input as anyone writes it in plain torch: the unit of all ratios."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.cases import Problem
from benchmarks.contenders.base import Call, Contender


def prepare(problem: Problem, preset: str) -> Call:
    """The same for every preset, and for one target also where the problem has several."""

    def call() -> Tensor:
        x = problem.x.detach().clone().requires_grad_()
        value = problem.model(x).gather(1, problem.target[:, None]).sum()
        (gradient,) = torch.autograd.grad(value, x)
        return x.detach() * gradient

    return call


CONTENDER = Contender("gradient x input", prepare)
