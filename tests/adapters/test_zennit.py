"""zennit's composites, rules and attributors beside ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import relprop as rp
from relprop.adapters.zennit import Gradient, IntegratedGradients, Occlusion, SmoothGrad
from tests.adapters.tables import Row, check, rows, set_up
from tests.support.state import assert_same_state, snapshot


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    pytest.importorskip("zennit", reason="compares with zennit")
    return set_up("zennit.md")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", rows("zennit.md"), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names, rtol=2e-4)


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def test_the_gradient_is_torchs(net: nn.Sequential) -> None:
    x, seed = torch.randn(2, 6).double(), torch.randn(2, 3).double()
    output, found = Gradient(net)(x, seed)
    leaf = x.clone().requires_grad_()
    wanted = torch.autograd.grad(net(leaf), leaf, seed)[0]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(output, net(x))


def test_integrated_gradients_are_complete(net: nn.Sequential) -> None:
    x = torch.randn(2, 6).double()
    seed = torch.tensor([[0.0, 1.0, 0.0]]).double()
    _, found = IntegratedGradients(net, n_iter=400)(x, seed)
    difference = (net(x) - net(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(found.sum(1), difference, rtol=1e-2, atol=1e-2)


def test_without_noise_smoothgrad_is_the_gradient(net: nn.Sequential) -> None:
    x = torch.randn(2, 6).double()
    for composite in (None, rp.EpsilonPlus()):
        torch.testing.assert_close(
            SmoothGrad(net, composite, noise_level=0.0, n_iter=3)(x)[1], Gradient(net, composite)(x)[1]
        )


def test_occlusion_by_hand() -> None:
    model = nn.Linear(5, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    x = torch.arange(1.0, 6.0)[None]
    _, found = Occlusion(model, window=2, stride=2)(x)
    assert found.tolist() == [[6, 6, 14, 14, 10]]  # 2 (1 + 2), 2 (3 + 4), and the last window cut to 2 * 5


def test_the_model_is_not_touched(net: nn.Sequential) -> None:
    before = snapshot(net)
    with Gradient(net, rp.EpsilonPlus()) as attributor:
        attributor(torch.randn(2, 6).double())
        with attributor.inactive():
            net(torch.randn(2, 6).double())
    assert_same_state(before, snapshot(net))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: Gradient(m)(x, torch.ones(2, 4)), r"attr_output has shape \(2, 4\), the output \(2, 3\)"),
        (lambda m, x: SmoothGrad(m, n_iter=0), "n_iter must be at least 1"),
        (lambda m, x: IntegratedGradients(m, n_iter=0), "n_iter must be at least 1"),
        (lambda m, x: Occlusion(m, window=(1, 2, 3))(x), "too many entries"),
        (lambda m, x: Occlusion(m, window=(2,), stride=1)(x[:, None].expand(2, 3, 6)), "of one length"),
        (lambda m, x: Gradient(m, 3), "neither a preset"),
        (lambda m, x: Gradient(m)(x, 1.0), "attr_output must be a tensor, or give one of the output, got float"),
    ],
)
def test_bad_input(net: nn.Sequential, call: Any, message: str) -> None:
    with pytest.raises(rp.RelpropError, match=message):
        call(net, torch.randn(2, 6).double())


def test_a_composite_of_zennit_is_named_in_our_words(net: nn.Sequential) -> None:
    composites = pytest.importorskip("zennit.composites", reason="gives one of its composites")
    with pytest.raises(rp.RelpropError, match=r"EpsilonPlus is a composite of zennit; here it is relprop.EpsilonPlus"):
        Gradient(net, composites.EpsilonPlus())
    with pytest.raises(rp.RelpropError, match="here it is a preset, or rows of selectors"):
        Gradient(net, composites.LayerMapComposite([]))
