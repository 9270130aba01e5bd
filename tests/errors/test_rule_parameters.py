"""A rule's parameter of a wrong type or out of range is refused where the rule is written, by its name and with what it
takes; numbers of numpy and torch are numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp

NUMBER = "must be a finite number >= 0"
#: With an epsilon, and how the message names what was written.
STABILISED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "Epsilon": (rp.Epsilon, "Epsilon"),
    "Gamma": (lambda v: rp.Gamma(epsilon=v), "Gamma"),
    "ZPlus": (lambda v: rp.ZPlus(v), "ZPlus"),
    "AlphaBeta": (lambda v: rp.AlphaBeta(2, 1, v), "AlphaBeta"),
    "ZBox": (lambda v: rp.ZBox(0, 1, v), "ZBox"),
    "WSquare": (rp.WSquare, "WSquare"),
    "Flat": (rp.Flat, "Flat"),
    "StepRule": (rp.StepRule, "StepRule"),
    "Signed": (rp.Signed, "Signed"),
    "EpsilonPool": (rp.EpsilonPool, "EpsilonPool"),
    "Gates": (lambda v: rp.Gates(epsilon=v), "Gates"),
    "Stabilizer": (rp.Stabilizer, "Stabilizer"),
    "a preset": (rp.UniformEpsilon, "Epsilon"),
    "a preset's stabiliser": (lambda v: rp.EpsilonPlus(stabiliser=v), "ZPlus"),
    "a preset with gamma": (lambda v: rp.CPLRP(v, conv_gamma=0.1), "Gamma"),
}
WRONG = ["a", None, [1e-6], 1j, True, float("nan"), float("inf"), -1e-9, torch.ones(2), Fraction(1, 4)]


@pytest.mark.parametrize("name", STABILISED)
@pytest.mark.parametrize("value", WRONG, ids=str)
def test_an_epsilon(name: str, value: Any) -> None:
    make, said = STABILISED[name]
    with pytest.raises(rp.RuleError, match=f"^{said}: epsilon {NUMBER}.*got {re.escape(repr(value))}"):
        make(value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (rp.Gamma, "Gamma: gamma"),
        (rp.ResidualGamma, "ResidualGamma: gamma"),
        (lambda v: rp.EpsilonGammaBox(gamma=v), "Gamma: gamma"),
        (lambda v: rp.AttnLRP(feed_forward_gamma=v), "Gamma: gamma"),
        (lambda v: rp.AlphaBeta(1, v if v is not None else "none"), "AlphaBeta: beta"),  # None: alpha - 1
    ],
    ids=["Gamma", "ResidualGamma", "EpsilonGammaBox", "AttnLRP", "AlphaBeta"],
)
@pytest.mark.parametrize("value", WRONG, ids=str)
def test_a_number(make: Callable[[Any], Any], said: str, value: Any) -> None:
    got = "'none'" if value is None and "beta" in said else repr(value)
    with pytest.raises(rp.RuleError, match=f"^{said} {NUMBER}, got {re.escape(got)}"):
        make(value)


@pytest.mark.parametrize("beta", [None, 1])
@pytest.mark.parametrize("value", ["2", None, float("nan"), float("inf"), 0.5, torch.ones(2)], ids=str)
def test_alpha(value: Any, beta: Any) -> None:
    with pytest.raises(
        rp.RuleError, match=f"^AlphaBeta: alpha must be a finite number >= 1, got {re.escape(repr(value))}"
    ):
        rp.AlphaBeta(value, beta)


@pytest.mark.parametrize("name", ["low", "high"])
@pytest.mark.parametrize("value", ["a", None, [1, "b"], [[1], [1, 2]], 1j, float("nan"), float("inf")], ids=str)
def test_bounds(name: str, value: Any) -> None:
    for make in (rp.ZBox, rp.EpsilonGammaBox):
        with pytest.raises(rp.RuleError, match=f"^ZBox: {name} must be .*, got {re.escape(repr(value))}"):
            make(**{"low": 0, "high": 1, name: value})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda v: rp.ZPlus(bias=v), 'ZPlus: bias must be "absorb", "zero" or "distribute"'),
        (lambda v: rp.Gates(bias=v), 'Gates: bias must be "absorb" or "distribute"'),
        (lambda v: rp.Gates(v), 'Gates: gate must be "all", "half", "proportional" or "absolute"'),
        (lambda v: rp.LSTMLRP(v), 'Gates: gate must be "all", "half", "proportional" or "absolute"'),
        (lambda v: rp.Gamma(variant=v), 'Gamma: variant must be "generalised" or "standard"'),
        (lambda v: rp.AttnLRP(router=v), 'AttnLRP: router must be "constant" or "half"'),
    ],
)
@pytest.mark.parametrize("value", ["other", 3, None, ["absorb"], torch.ones(2)], ids=str)
def test_a_word(make: Callable[[Any], Any], said: str, value: Any) -> None:
    with pytest.raises(rp.RuleError, match=f"^{said}, got {re.escape(repr(value))}"):
        make(value)


@pytest.mark.parametrize(
    "of", [float, np.float32, np.float64, torch.tensor], ids=["float", "float32", "float64", "tensor"]
)
def test_numbers_of_other_kinds_are_numbers(of: Callable[[float], Any]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double(), torch.randn(3, 4).double()
    for make in (
        lambda v: rp.Epsilon(v(0.125)),
        lambda v: rp.Gamma(v(0.25), epsilon=v(0.125)),
        lambda v: rp.AlphaBeta(v(2), v(1)),
        lambda v: rp.AlphaBeta(v(1.5)),
        lambda v: rp.ZBox(v(-3), v(3)),
    ):
        given, plain = (rp.LRP(model, make(v)).explain(x, target=0).relevance for v in (of, float))
        assert torch.equal(given, plain)
    assert rp.AlphaBeta(3) == rp.AlphaBeta(3, 2)
