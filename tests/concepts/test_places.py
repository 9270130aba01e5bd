"""Relevance inside the model: at modules, their inputs, functional calls and weights; start and stop there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.concepts.nets import RULES, small, written
from tests.oracle.dense import densify
from tests.support.compare import assert_close
from tests.support.networks import ResidualNet, ready
from tests.support.state import assert_same_state, snapshot

PLACES = ["conv1", "(model).relu", "conv2:in", "conv2", "(model).add", "(model).relu#1", "head"]


@pytest.mark.parametrize("rule", RULES)
def test_every_place_has_the_relevance_of_the_explicit_form(rule: str) -> None:
    model, x, relevance = small()
    library, formula = RULES[rule]
    made = written(model, x, formula)
    made.tape.back(made.y, relevance)
    before = snapshot(model)
    e = rp.LRP(model, library).explain(x, target=relevance, layers=PLACES)
    assert_same_state(before, snapshot(model))
    assert_close(e.relevance, made.x.relevance, 1e-10, "input")
    assert list(e.layers) == PLACES
    for name in PLACES:
        assert_close(e.layers[name], made.at[name].relevance, 1e-10, name)
        assert torch.equal(e.activations[name], made.at[name].data), name


@pytest.mark.parametrize("rule", RULES)
def test_asking_for_places_changes_no_relevance(rule: str) -> None:
    model, x, _ = small()
    lrp = rp.LRP(model, RULES[rule][0])
    plain, asked = lrp.explain(x, target=3), lrp.explain(x, target=3, layers=[*PLACES, "conv2.weight"])
    assert torch.equal(plain.output, asked.output)
    assert_close(asked.relevance, plain.relevance, 1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", ["conv1", "conv2", "head"])
def test_weights_have_the_relevance_of_the_messages_through_them(rule: str, layer: str) -> None:
    model, x, relevance = small()
    library, formula = RULES[rule]
    made = written(model, x, formula)
    made.tape.back(made.y, relevance)
    module = model.get_submodule(layer)
    given = {"conv1": x, "conv2": made.at["conv2:in"].data, "head": made.at["(model).relu#1"].data.flatten(1)}[layer]
    e = rp.LRP(model, library).explain(x, target=relevance, layers=[f"{layer}.weight"])
    assert_close(e.relevance, made.x.relevance, 1e-10, "input")
    assert_close(e.layers[f"{layer}.weight"], _messages(module, formula, given, made.at[layer].relevance), 1e-10)


def _messages(module: nn.Module, formula: object, a: Tensor, relevance: Tensor) -> Tensor:
    """Sum of the messages through each weight: one output at a time, by the dense matrix of the weights' numbers."""
    numbered = type(module).__new__(type(module))
    nn.Module.__init__(numbered)
    numbered.__dict__.update({k: v for k, v in module.__dict__.items() if k not in ("_parameters", "_buffers")})
    count = torch.arange(1, module.weight.numel() + 1, dtype=torch.float64).reshape(module.weight.shape)
    numbered.register_parameter("weight", nn.Parameter(count))
    numbered.register_parameter("bias", None)
    shape = tuple(a.shape[1:])
    numbers = densify(numbered, shape).w.round().long()
    dense = densify(module, shape)
    total = torch.zeros(count.numel() + 1, dtype=torch.float64)
    for k in range(numbers.shape[0]):
        one = torch.zeros_like(relevance).flatten(1)
        one[:, k] = relevance.flatten(1)[:, k]
        message = formula(dense, a, one.reshape(relevance.shape)).flatten(1).sum(0)
        total.index_add_(0, numbers[k], message)
    return total[1:].reshape(module.weight.shape)


def test_weights_merged_with_a_batch_norm_and_tied_ones() -> None:
    torch.manual_seed(1)
    model = ready(ResidualNet())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    e = rp.LRP(model, rp.EpsilonPlus()).explain(
        x, target=2, layers=["blocks.0.conv1:in", "blocks.0.conv1.weight", "stem:in", "stem.weight", "head.weight"]
    )
    for layer in ("blocks.0.conv1", "stem"):
        assert_close(e.layers[f"{layer}.weight"].sum(), e.layers[f"{layer}:in"].sum(), 1e-10, layer)
    assert_close(e.layers["stem:in"], e.relevance, 1e-12)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    tied = Tied().double()
    x = torch.randn(3, 4, dtype=torch.float64)
    e = rp.LRP(tied, rp.Zero()).explain(x, target=1, layers=["first.weight"])
    # what passes the second use is what passes the first and is lost nowhere: no bias, no stabiliser
    assert_close(e.layers["first.weight"].sum(), 2 * e.relevance.sum(), 1e-10)


def test_weights_that_a_model_cuts_in_parts() -> None:
    torch.manual_seed(2)

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            up, down = self.weight.chunk(2)
            return nn.functional.linear(nn.functional.linear(x, up).relu() @ down[:, :3].T, down[:, 1:].T.t())

    model, x = Packed().double(), torch.randn(3, 4, dtype=torch.float64)
    e = rp.LRP(model, rp.Zero()).explain(x, target=1, layers=["weight"])
    assert_close(e.layers["weight"].sum(), 3 * e.relevance.sum(), 1e-10)


def test_what_is_no_weight_has_no_relevance_of_its_own() -> None:
    model, x, _ = small()
    with pytest.raises(rp.InputError, match=r"'conv1\.bias' is not the weight of a linear map"):
        rp.LRP(model).explain(x, target=0, layers=["conv1.bias"])


def test_inputs_given_by_keyword_and_in_tuples() -> None:
    class Inner(nn.Module):
        def forward(self, a: Tensor, scale: float, *, b: Tensor) -> Tensor:
            a.mul_(scale)  # in place: what was captured stays as it was
            return a + b

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(2 * x, 3.0, b=x.square().sqrt()) + x

    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    e = rp.LRP(Outer(), rp.Zero()).explain(x, target=(slice(None),), layers=["inner:in", "inner"])
    a, b = e.layers["inner:in"]
    assert_close(a, 6 * x)
    assert_close(b, x.abs())
    assert_close(e.activations["inner:in"][0], 2 * x)
    assert_close(e.layers["inner"], 6 * x + x.abs())
    assert_close(e.relevance, 7 * x + x.abs())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["conv1", "conv2", "(model).add", "conv2:in"])
def test_start_at_a_place_with_a_given_relevance(rule: str, name: str) -> None:
    model, x, _ = small()
    library, formula = RULES[rule]
    made = written(model, x, formula)
    relevance = torch.randn_like(made.at[name].data)
    made.tape.back(made.at[name], relevance)
    e = rp.LRP(model, library).explain(x, start_at=name, target=relevance)
    assert_close(e.relevance, made.x.relevance, 1e-10)
    assert e.audit.seed == pytest.approx(relevance.sum().item(), rel=1e-12)
    assert torch.equal(e.output, model(x).detach()), "the output is the model's own"


def test_start_at_a_neuron() -> None:
    model, x, _ = small()
    e = rp.LRP(model, rp.Zero()).explain(x, start_at="conv1", target=(2, 1, 3))
    value = model.conv1(x)[:, 2, 1, 3].detach()
    assert_close(e.explained, value)
    assert_close(e.relevance.flatten(1).sum(1), value - model.conv1.bias[2].detach())


@pytest.mark.parametrize("rule", RULES)
def test_stop_at_a_place(rule: str) -> None:
    model, x, relevance = small()
    library, formula = RULES[rule]
    made = written(model, x, formula)
    made.tape.back(made.y, relevance)
    e = rp.LRP(model, library).explain(x, target=relevance, stop_at="(model).relu")
    assert_close(e.relevance, made.at["(model).relu"].relevance, 1e-10)
    assert set(e.audit.inputs) == {"0", "(model).relu"}
    beside = rp.LRP(model, library).explain(x, target=relevance, stop_at=["conv2"])
    assert set(beside.relevance) == {"0", "conv2"}, "the way around leads on to the input"
    assert_close(beside.relevance["conv2"], made.at["conv2"].relevance, 1e-10)
    assert beside.audit.balanced


def test_explained_is_the_value_of_every_sample() -> None:
    model, x, _ = small()
    y = model(x).detach()
    lrp = rp.LRP(model)
    assert_close(lrp.explain(x, target=[1, 4]).explained, y[[0, 1], [1, 4]])
    assert_close(lrp.explain(x, target=(slice(1, 3),)).explained, y[:, 1:3].sum(1))
    assert_close(lrp.explain(x, target=1, seed="one").explained, torch.ones(2).double())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": "conv3"}, r"layers: no module or parameter is named 'conv3'; nearest names: .*conv2"),
        ({"layers": "conv3:in"}, r"layers: no module is named 'conv3'; nearest names: .*conv2"),
        ({"layers": "(model).ad"}, r"'\(model\)\.ad' is no module, .*no operation of this forward.*\(model\)\.add"),
        ({"layers": [3]}, r"layers: a place is named by a string, got 3"),
        ({"start_at": "conv9"}, r"start_at: no module .*conv1"),
        ({"start_at": "conv*"}, r"must name one tensor of the forward, and names 2"),
        ({"start_at": "conv1.weight"}, r"start_at: 'conv1\.weight' names parameters"),
        ({"stop_at": "hed"}, r"stop_at: .*nearest names: head"),
    ],
)
def test_places_that_are_not_there(asked: dict[str, object], message: str) -> None:
    model, x, _ = small()
    before = snapshot(model)
    with pytest.raises(rp.InputError, match=message):
        rp.LRP(model).explain(x, target=0, **asked)
    assert_same_state(before, snapshot(model))


def test_a_module_that_does_not_run() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(rp.InputError, match="nothing that depends on the input passed 'idle'"):
        rp.LRP(Idle()).explain(torch.randn(1, 2), target=0, layers="idle")


def test_a_place_that_no_relevance_comes_to_is_named() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.aside = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.used(x)

    found = rp.LRP(Aside(), rp.Epsilon()).explain(torch.randn(2, 3), target=0, layers=["used", "aside"])
    assert set(found.layers) == {"used"}
    assert [note for note in found.audit.notes if "aside" in note] == [
        "no relevance comes to aside: it does not lie between the input and what is explained"
    ]
    assert "used" not in "".join(found.audit.notes)


def test_weights_in_another_memory_format() -> None:
    model, x, _ = small()
    asked = {"target": 1, "layers": ["conv2.weight"]}
    expected = rp.LRP(model, rp.EpsilonPlus()).explain(x, **asked).layers["conv2.weight"]
    model.to(memory_format=torch.channels_last)
    assert_close(rp.LRP(model, rp.EpsilonPlus()).explain(x, **asked).layers["conv2.weight"], expected, 1e-10)


def test_weights_under_every_name_that_was_asked_for() -> None:
    first = nn.Linear(4, 4, bias=False)
    model, x = nn.Sequential(first, nn.ReLU(), first).double(), torch.randn(3, 4, dtype=torch.float64)
    lrp = rp.LRP(model, rp.Zero())
    e = lrp.explain(x, target=1, layers="*.weight")
    assert list(e.layers) == ["0.weight", "2.weight"]
    assert torch.equal(e.layers["0.weight"], e.layers["2.weight"])
    assert_close(e.layers["0.weight"].sum(), 2 * e.relevance.sum(), 1e-10)
    with pytest.raises(rp.InputError, match=r"'0\.weight' cannot be differentiated"):
        lrp.explain(x, target=1, layers="0.weight", create_graph=True)
