"""Every rule on every linear map, against the explicit form on the dense matrix, with random relevance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop as rp
from tests.oracle.maps import MAPS, SQUARE, Map
from tests.oracle.rules import PASS, RULES, Row
from tests.support.compare import assert_close

# an even kernel with padding "same" makes torch remark that it pads on one side first
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def inputs(in_shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Inputs [N, *in_shape]: any sign, zeros, none negative, one sample, no sample, strided memory."""
    x = torch.randn(3, *in_shape, dtype=torch.float64)
    gaps = torch.where(torch.rand(x.shape, dtype=torch.float64) < 0.4, 0.0, x)
    wide = torch.randn(*in_shape, 5, dtype=torch.float64)
    strided = wide.movedim(-1, 0)[::2]
    assert not strided.is_contiguous()
    return {"any": x, "zeros": gaps, "relu": x.relu(), "one": x[:1], "none": x[:0], "strided": strided}


def composite(row: Row, case: Map) -> rp.Composite | rp.Rule:
    rule = row.rule(case.in_shape)
    return rule if case.kind is None else rp.Composite([(rp.Kind(case.kind), rule)])


CASES = [
    pytest.param(row, case, bias, id=f"{row}-{case}-{'bias' if bias else 'plain'}")
    for case in MAPS
    for bias in case.biases
    for row in (*RULES, *((PASS,) if case.name in SQUARE else ()))
    if bias or "-absorb" in row.name or row.name.count("-") == 0  # without a bias the three options are one
]


def check(row: Row, case: Map, bias: bool) -> None:
    """The library's rule gives what the explicit form gives, for every kind of input."""
    model, dense = case.make(bias), case.dense(bias)
    formula, lrp = row.formula(case.in_shape), rp.LRP(model, composite(row, case))
    for name, x in inputs(case.in_shape).items():
        relevance = torch.randn(x.shape[0], *dense.out_shape, dtype=torch.float64)
        found = lrp.explain(x, target=relevance).relevance
        assert_close(found, formula(dense, x, relevance), label=f"input '{name}'")


@pytest.mark.parametrize(("row", "case", "bias"), CASES)
def test_rule_equals_explicit_form(row: Row, case: Map, bias: bool) -> None:
    check(row, case, bias)


@pytest.mark.parametrize("relus", [False, True], ids=["alone", "between relus"])
@pytest.mark.parametrize(("row", "case", "bias"), CASES)
def test_rule_on_relevance_of_its_output(row: Row, case: Map, bias: bool, relus: bool) -> None:
    """Relevance `v z` with random `v`, from a weighted sum of the outputs: none of it stands on zeros.

    What is then known around a map (no negative input, a ReLU as only reader) saves work, no more.
    """
    model = nn.Sequential(nn.ReLU(), case.make(bias), nn.ReLU()) if relus else case.make(bias)
    dense, x = case.dense(bias), torch.randn(3, *case.in_shape, dtype=torch.float64)
    v = torch.randn(3, *dense.out_shape, dtype=torch.float64)
    with torch.no_grad():
        relevance = v * model(x)
    found = rp.LRP(model, composite(row, case)).explain(x, target=lambda z: (z * v).flatten(1).sum(1))
    assert_close(found.relevance, row.formula(case.in_shape)(dense, x.relu() if relus else x, relevance))
    # the same relevance, given entry by entry
    explicit = rp.LRP(model, composite(row, case)).explain(x, target=relevance)
    assert_close(explicit.relevance, found.relevance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", MAPS, ids=str)
def test_dense_form_is_the_map(case: Map, bias: bool) -> None:
    """The reference stands on the dense matrix, so that one is checked by itself."""
    if bias not in case.biases:
        bias = case.biases[0]
    dense, x = case.dense(bias), torch.randn(2, *case.in_shape, dtype=torch.float64)
    z = x.flatten(1)[:, dense.source] @ dense.w.t() + dense.b
    assert_close(z.reshape(2, *dense.out_shape), case.make(bias)(x), 1e-13)
