"""pnpxai's explainers beside ours, and what ours refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.adapters.pnpxai import LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from tests.adapters.tables import Row, check, rows, set_up
from tests.support.state import assert_same_state, snapshot

PEERS = "pnpxai"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    pytest.importorskip("pnpxai", reason="compares with pnpxai")
    pytest.importorskip("optuna", reason="tuning is done with Optuna")
    pytest.importorskip("quantus", reason="the table tunes with one of its metrics")
    return set_up("pnpxai.md")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("row", rows("pnpxai.md"), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names, rtol=5e-5)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) + self.right(b)


def test_two_inputs_layers_and_arguments_by_name() -> None:
    model, given = Pair(), (torch.randn(5, 4), torch.randn(5, 2))
    before = snapshot(model)
    both = LRPUniformEpsilon(model, epsilon=1e-6, stabilizer=0.0).attribute(given, 1)
    wanted = rp.LRP(model, rp.UniformEpsilon()).explain(*given, target=1, seed="one").relevance
    assert isinstance(both, tuple)
    for mine, engine in zip(both, wanted, strict=True):
        torch.testing.assert_close(mine, engine)
    explainer = LRPUniformEpsilon(model, epsilon=1e-6, stabilizer=0.0, layer=["b", "left"])
    at_b, at_left = explainer.attribute(given, torch.ones(5, dtype=torch.long))
    torch.testing.assert_close(at_b, both[1])
    assert at_left.shape == (5, 3) and float(at_left[:, 0].abs().max()) == 0
    assert_same_state(before, snapshot(model))


def test_parameters_count_when_it_is_called() -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    first = LRPUniformEpsilon(model)
    second = first.set_kwargs(epsilon=1e-6)
    assert not torch.allclose(first.attribute(x, 0), second.attribute(x, 0))
    torch.testing.assert_close(second.attribute(x, 0), LRPUniformEpsilon(model, 1e-6).attribute(x, 0))
    assert repr(second) == "LRPUniformEpsilon(epsilon=1e-06, stabilizer=1e-06)" and second.model is model
    assert second.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: LRPUniformEpsilon(m, epsilon=-1.0), "epsilon must be a finite number >= 0"),
        (lambda m: LRPEpsilonGammaBox(m, low=3.0, high=-3.0), "low must not exceed high"),
        (lambda m: LRPUniformEpsilon(m).set_kwargs(epsilom=1.0), "no parameter 'epsilom'; there are epsilon"),
        (lambda m: LRPUniformEpsilon(m).set_kwargs(epsilon=-1.0), "epsilon must be a finite number >= 0"),
        (lambda m: LRPEpsilonPlus(m, layer="lefd"), "no module named 'lefd'; nearest names: left"),
        (lambda m: LRPEpsilonPlus(m, layer=nn.Linear(1, 1)), "not a module of this model"),
        (lambda m: LRPEpsilonPlus(m, zennit_canonizers=[object()]), "nothing has to be canonized"),
        (lambda m: LRPEpsilonPlus(m, seed="logit"), 'seed must be "one" or "value"'),
        (lambda m: LRPUniformEpsilon(m, n_classes=7).attribute((torch.ones(2, 4), torch.ones(2, 2)), 0), r"\(2, 3\)"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(rp.RelpropError, match=message):
        call(Pair())
