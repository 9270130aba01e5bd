"""Captum's calls give Captum's results, on any model, and leave no trace."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.adapters.tables import Row, check, rows, set_up
from tests.support.state import assert_same_state, snapshot

pytest.importorskip("captum", reason="compares with Captum")

from captum.attr import LRP as CaptumLRP
from captum.attr import visualization
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule, IdentityRule, PropagationRule

from relprop.captum import LRP, LayerLRP

pytestmark = pytest.mark.filterwarnings("ignore:Setting .*hooks:UserWarning")


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return set_up("captum.md")


@pytest.mark.parity
@pytest.mark.parametrize("row", rows("captum.md"), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names)


class Sum(nn.Module):
    """Captum's way to write a residual sum, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.add, self.out = nn.Linear(4, 5), nn.Linear(3, 5), Addition_Module(), nn.Linear(5, 1)
        self.act = nn.Tanh()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(self.act(self.add(self.left(a), self.right(b))))


@pytest.mark.parity
def test_two_inputs_and_a_sum() -> None:
    model = Sum().double()
    given = (torch.randn(3, 4).double(), torch.randn(3, 3).double())
    theirs, their_delta = CaptumLRP(model).attribute(given, return_convergence_delta=True)
    ours, delta = LRP(model).attribute(given, return_convergence_delta=True)
    assert isinstance(ours, tuple)
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(delta, their_delta.detach(), rtol=1e-5, atol=1e-7)


def test_the_numbers_of_captums_own_tests() -> None:
    """W1 = 2 (3x3) with one entry -2, W2 = 3 (1x3), no bias, x = (1, 2, 3), ReLU between; gamma 1 below, .25 above."""

    def net() -> nn.Sequential:
        made = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
        nn.init.constant_(made[0].weight, 2.0)
        nn.init.constant_(made[2].weight, 3.0)
        return made

    x = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(LRP(net()).attribute(x), torch.tensor([[18.0, 36.0, 54.0]]))
    model = net()
    model[0].rule, model[2].rule = IdentityRule(), EpsilonRule()
    torch.testing.assert_close(LRP(model).attribute(x), torch.tensor([[36.0, 36.0, 36.0]]))
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = -2
    model[0].rule, model[2].rule = GammaRule(gamma=1.0), GammaRule(gamma=0.25)
    torch.testing.assert_close(LRP(model).attribute(x), torch.tensor([[28 / 3, 104 / 3, 52.0]]))


class Halved(PropagationRule):
    """A rule as Captum's users write them."""

    def _manipulate_weights(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        module.weight.data = module.weight.data.square() * (1 if module.weight.ndim == 2 else 0)
        module.bias.data = module.bias.data / 2


class Hooked(EpsilonRule):
    def _create_backward_hook_input(self, inputs: Any) -> Any:
        return super()._create_backward_hook_input(inputs)


@pytest.mark.parity
def test_a_rule_of_the_users_own() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x = torch.randn(3, 4).double()
    theirs, ours = copy.deepcopy(model), copy.deepcopy(model)
    theirs[0].rule, ours[0].rule = Halved(), Halved()
    before = ours[0].weight.detach().clone()
    found = LRP(ours).attribute(x, target=1)
    torch.testing.assert_close(found, CaptumLRP(theirs).attribute(x, target=1).detach(), rtol=1e-6, atol=1e-8)
    assert torch.equal(ours[0].weight, before) and isinstance(ours[0].rule, Halved)


def test_a_rule_that_works_on_captums_hooks_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    model[0].rule = Hooked()
    with pytest.raises(rp.RelpropError, match=r"0\.rule: Hooked overrides _create_backward_hook_input.*StepRule"):
        LRP(model)
    model[0].rule = rp.Epsilon()
    with pytest.raises(rp.RelpropError, match="one of Captum's propagation rules"):
        LRP(model)


def test_a_softmax_at_the_end_gives_the_delta_of_the_logits() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(-1)).double()
    x = torch.randn(3, 4).double()
    plain = model[:3]
    for target in (1, [0, 2, 1], torch.tensor([2, 1, 0])):
        relevance, delta = LRP(model).attribute(x, target=target, return_convergence_delta=True)
        wanted, wanted_delta = LRP(plain).attribute(x, target=target, return_convergence_delta=True)
        torch.testing.assert_close(relevance, wanted)
        torch.testing.assert_close(delta, wanted_delta)


def test_layers_that_run_twice_and_inputs_of_layers_with_several() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.mix = nn.Linear(4, 4), nn.Bilinear(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.shared(x), self.shared(x.relu()))

    model, x = Net().double(), torch.randn(2, 4).double()
    twice = LayerLRP(model, model.shared).attribute(x)
    assert isinstance(twice, tuple) and [t.shape for t in twice] == [(2, 4), (2, 4)]
    into = LayerLRP(model, "mix").attribute(x, attribute_to_layer_input=True)
    assert isinstance(into, tuple) and len(into) == 2
    for a, b in zip(twice, into, strict=True):
        torch.testing.assert_close(a, b)


def test_a_layer_that_is_called_by_keywords() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mix = nn.Linear(4, 4), nn.Bilinear(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(input2=self.first(input=x), input1=x.relu())

    model, x = Net().double(), torch.randn(2, 4).double()
    into = LayerLRP(model, model.mix).attribute(x, attribute_to_layer_input=True)
    out_of = LayerLRP(model, "first").attribute(x)
    assert isinstance(into, tuple) and any(torch.equal(part, out_of) for part in into)


def test_the_relevance_at_a_layers_input_is_that_at_the_output_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2)).double().eval()
    x = torch.randn(2, 2, 6, 6).double()
    below = LayerLRP(model, "1", rp.EpsilonPlus()).attribute(x, target=0)
    above = LayerLRP(model, "2", rp.EpsilonPlus()).attribute(x, target=0, attribute_to_layer_input=True)
    torch.testing.assert_close(below, above, rtol=0, atol=0)
    assert float(above.abs().sum()) > 0


def test_token_ids_have_attributions_of_their_own_shape() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.emb(ids).relu().mean(1))

    ids = torch.randint(0, 9, (2, 5))
    relevance = LRP(Net()).attribute(ids, target=0)
    assert relevance.shape == ids.shape and relevance.is_floating_point()


def test_every_layer_that_runs_and_the_model_itself() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    model[1].add_module("unused", nn.Linear(3, 3))
    x = torch.randn(2, 4).double()
    every = LayerLRP(model, None).attribute(x, target=1)
    assert [r.shape for r in every] == [(2, 5), (2, 3)]
    whole, delta = LayerLRP(model, model).attribute(x, target=1, return_convergence_delta=True)
    torch.testing.assert_close(whole[:, 1], model(x)[:, 1].detach())
    assert float(delta.abs().max()) == 0


def test_numpys_numbers_and_relevance_are_targets_too() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double(), torch.randn(2, 4).double()
    lrp = LRP(model)
    torch.testing.assert_close(lrp.attribute(x, target=np.int64(2)), lrp.attribute(x, target=2))
    torch.testing.assert_close(lrp.attribute(x, target=np.array([2, 0])), lrp.attribute(x, target=[2, 0]))
    seed = torch.zeros(2, 3).double()
    seed[:, 1] = model(x)[:, 1].detach()
    given, delta = lrp.attribute(x, target=seed, return_convergence_delta=True)
    wanted, wanted_delta = lrp.attribute(x, target=1, return_convergence_delta=True)
    torch.testing.assert_close(given, wanted)
    torch.testing.assert_close(delta, wanted_delta)


def test_the_model_is_as_it_was_also_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    before = snapshot(model)
    x = torch.randn(2, 4)
    LayerLRP(model, [model[0], model[2]]).attribute(x, target=1, attribute_to_layer_input=True)
    with pytest.raises(rp.RelpropError):
        LayerLRP(model, "2").attribute(x, target=99, attribute_to_layer_input=True)
    assert_same_state(before, snapshot(model))


def test_pictures_by_captum() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    relevance = LRP(model, rp.EpsilonPlus()).attribute(torch.rand(1, 3, 8, 8), target=0)
    figure, _ = visualization.visualize_image_attr(
        np.transpose(relevance[0].numpy(), (1, 2, 0)), method="heat_map", sign="all", use_pyplot=False
    )
    assert figure.axes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: LRP(m).attribute(x), "target is needed: the output has shape \\(2, 3\\)"),
        (lambda m, x: LRP(m).attribute(x, target=3), "out of range"),
        (lambda m, x: LRP(m).attribute([x], target=0), "a tensor or a tuple of tensors"),
        (lambda m, x: LRP(m).attribute(x, target=[(0,)]), "1 targets, 2 samples"),
        (lambda m, x: LayerLRP(m, "body.first"), "no module named 'body.first'; nearest names: body.fist"),
        (lambda m, x: LayerLRP(m, nn.Linear(4, 5)), "not a module of this model; modules of its class: body.fist"),
        (lambda m, x: LayerLRP(m, 3), "a module or its path, got int"),
        (lambda m, x: LayerLRP(m, "unused").attribute(x, target=0), "passed 'unused' in this forward"),
        (lambda m, x: LRP(m.forward), "a torch.nn.Module, got method"),
        (lambda m, x: LRP(m).attribute(x, target="cat"), "not understood"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleDict({"fist": nn.Linear(4, 5)})
            self.out, self.unused = nn.Linear(5, 3), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.body["fist"](x))

    with pytest.raises(rp.RelpropError, match=message):
        call(Net().eval(), torch.randn(2, 4))


def test_without_captum_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['captum'] = None; import relprop as rp; rp.captum"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "pip install 'relprop[captum]'" in last and "MissingExtraError" in last


def test_captum_is_not_imported_before_it_is_used() -> None:
    code = "import sys, relprop; assert not any(m.split('.')[0] == 'captum' for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
