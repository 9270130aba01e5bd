"""Stabilisers of every form, other dtypes, and a sample without a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.oracle import formulas as f
from tests.oracle.dense import Dense
from tests.oracle.formulas import Formula
from tests.oracle.maps import MAPS, Map
from tests.oracle.rules import RULES, Row
from tests.support.compare import assert_close

BY_NAME = {case.name: case for case in MAPS}


def _signed(z: Tensor) -> Tensor:
    return torch.where(z >= 0, 1.0, -1.0).double()


STABILISERS: dict[str, tuple[object, Callable[[Tensor], Tensor]]] = {
    "clip": (rp.Stabilizer(0.5, clip=True), lambda z: _signed(z) * z.abs().clamp(min=0.5)),
    "norm-scale": (
        rp.Stabilizer(0.2, norm_scale=True),
        lambda z: z + _signed(z) * 0.2 * z.square().mean().sqrt(),
    ),
    "clip and norm-scale": (
        rp.Stabilizer(0.3, clip=True, norm_scale=True),
        lambda z: _signed(z) * torch.maximum(z.abs(), 0.3 * z.square().mean().sqrt()),
    ),
    "callable": (lambda z: 2 * z + z.sign(), lambda z: 2 * z + z.sign()),
}
STABILISED: dict[str, tuple[Callable[[object], rp.Rule], f.Terms]] = {
    "epsilon": (lambda e: rp.Epsilon(e), f.plain),
    "gamma": (lambda e: rp.Gamma(0.25, epsilon=e), f.gamma_generalised(0.25)),
    "gamma-standard": (lambda e: rp.Gamma(0.25, variant="standard", epsilon=e), f.gamma_standard(0.25)),
    "z-plus": (lambda e: rp.ZPlus(epsilon=e), f.alpha_beta(1, 0)),
    "z-box": (lambda e: rp.ZBox(-4.0, 4.0, epsilon=e), f.z_box(-4.0, 4.0)),
    "w-square": (lambda e: rp.WSquare(epsilon=e), f.w_square),
}


@pytest.mark.parametrize("case", ["linear", "linear-3d", "conv2d-padding", "convt2d-all", "einsum-two-sums"])
@pytest.mark.parametrize("stabiliser", STABILISERS)
@pytest.mark.parametrize("rule", STABILISED)
def test_stabiliser(rule: str, stabiliser: str, case: str) -> None:
    row, (build, terms), (value, reference) = BY_NAME[case], STABILISED[rule], STABILISERS[stabiliser]
    bias = row.biases[0]
    x = torch.randn(3, *row.in_shape, dtype=torch.float64)
    relevance = torch.randn(3, *row.dense(bias).out_shape, dtype=torch.float64)
    if rule == "gamma":
        # one denominator for each output, whichever of its two signs it has
        def both(a: Tensor, m: Dense) -> list[f.Term]:
            (_, up, b_up), (_, down, b_down) = f.gamma_generalised(0.25)(a, m)
            return [(1.0, up + down, b_up + b_down)]

        terms = both
    found = rp.LRP(row.make(bias), build(value)).explain(x, target=relevance).relevance
    assert_close(found, Formula(terms, reference)(row.dense(bias), x, relevance))


@pytest.mark.parametrize("case", ["conv2d-padding", "conv1d-stride-padding", "convt2d", "linear", "conv3d"])
@pytest.mark.parametrize("row", RULES, ids=str)
def test_sample_without_a_batch(row: Row, case: str) -> None:
    """A single sample, without a batch dimension, gets what it gets as a batch of one."""
    place: Map = BY_NAME[case]
    model, x = place.make(True), torch.randn(place.in_shape, dtype=torch.float64)
    relevance = torch.randn(place.dense(True).out_shape, dtype=torch.float64)
    lrp = rp.LRP(model, row.rule(place.in_shape))
    single = lrp.explain(x, target=relevance).relevance
    assert_close(single, lrp.explain(x[None], target=relevance[None]).relevance[0], 1e-12)


# What rounding allows: ratios are formed from a rounded output. Float16's zeros stand for 2^-10 as well.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 5e-2}
ORDINARY = [
    rp.Zero(),
    rp.Epsilon(1e-2),
    rp.Gamma(0.25),
    rp.ZPlus(),
    rp.ZPlus(bias="distribute"),
    rp.AlphaBeta(2, 1),
    rp.WSquare(),
    rp.Flat(),
    rp.ZBox(-4.0, 4.0),
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("relus", [False, True], ids=["alone", "between relus"])
@pytest.mark.parametrize("case", ["linear-3d", "conv2d-padding", "conv2d-depthwise", "convt2d"])
@pytest.mark.parametrize("rule", ORDINARY, ids=str)
def test_narrower_dtype(rule: rp.Rule, case: str, relus: bool, dtype: torch.dtype) -> None:
    """The same numbers in a narrower dtype, up to its rounding; denominators are formed in float32 at least."""
    place: Map = BY_NAME[case]

    def build() -> nn.Module:
        model = place.make(True).to(dtype)
        return nn.Sequential(nn.ReLU(), model, nn.ReLU()) if relus else model

    x = torch.randn(3, *place.in_shape).to(dtype)
    v = torch.rand(3, *place.dense(True).out_shape).to(dtype)

    def target(z: Tensor) -> Tensor:
        return (z * v.to(z.dtype)).flatten(1).sum(1)

    expected = rp.LRP(build().double(), rule).explain(x.double(), target=target).relevance
    found = rp.LRP(build(), rule).explain(x, target=target).relevance
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
