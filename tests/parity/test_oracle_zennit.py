"""The tests' own explicit form against zennit's rules: two independent readings of the same formulas."""

from __future__ import annotations

import pytest
import torch
from zennit import rules as zennit_rules

from tests.oracle import formulas as f
from tests.oracle.maps import MAPS, Map
from tests.support.compare import assert_close

# an even kernel with padding "same" makes torch remark that it pads on one side first
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
EPS = 1e-3
# zennit squares the bias along with the weights in w²; with the bias zeroed both mean the same
RULES = {
    "epsilon": (lambda z: zennit_rules.Epsilon(EPS, zero_params=z), f.plain),
    "gamma": (lambda z: zennit_rules.Gamma(0.25, EPS, zero_params=z), f.gamma_generalised(0.25)),
    "z-plus": (lambda z: zennit_rules.ZPlus(EPS, zero_params=z), f.alpha_beta(1, 0)),
    "alpha2-beta1": (lambda z: zennit_rules.AlphaBeta(2.0, 1.0, EPS, zero_params=z), f.alpha_beta(2, 1)),
    "z-box": (lambda z: zennit_rules.ZBox(-4.0, 4.5, EPS, zero_params=z), f.z_box(-4.0, 4.5)),
    "w-square": (lambda z: zennit_rules.WSquare(EPS, zero_params="bias"), f.w_square),
    "flat": (lambda z: zennit_rules.Flat(EPS, zero_params=z), f.flat),
}
MODULES = [case for case in MAPS if case.name.startswith(("conv", "linear")) and "call" not in case.name]


@pytest.mark.parametrize("option", ["absorb", "zero"])
@pytest.mark.parametrize("case", MODULES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_formula_equals_zennit(rule: str, case: Map, option: str) -> None:
    make, terms = RULES[rule]
    module, dense = case.make(True), case.dense(True)
    x = torch.randn(3, *case.in_shape, dtype=torch.float64, requires_grad=True)
    relevance = torch.randn(3, *dense.out_shape, dtype=torch.float64)
    handles = make("bias" if option == "zero" else None).copy().register(module)
    try:
        (found,) = torch.autograd.grad(module(x), x, relevance)
    finally:
        handles.remove()
    assert_close(found, f.Formula(terms, EPS, option)(dense, x.detach(), relevance))
