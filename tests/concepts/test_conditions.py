"""Conditions: relevance that passes chosen units of chosen places, against the explicit form."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop import units as u
from tests.concepts.nets import RULES, small, written
from tests.support.compare import assert_close
from tests.support.networks import ResidualNet, ready
from tests.support.state import assert_same_state, snapshot

PLACES = ["conv1", "(model).relu", "conv2:in", "conv2", "(model).add", "(model).relu#1"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PLACES)
def test_one_condition(rule: str, name: str) -> None:
    """Without exclusion: a mask at one place of the explicit form; the ways around are as they were."""
    model, x, relevance = small()
    library, formula = RULES[rule]
    shape = written(model, x, formula).at[name].data.shape
    mask = torch.rand(shape[1:], dtype=torch.float64) > 0.5
    made = written(model, x, formula, {name: mask})
    made.tape.back(made.y, relevance)
    before = snapshot(model)
    e = rp.LRP(model, library).explain(x, target=relevance, conditions={name: mask}, exclude_parallel=False)
    assert_same_state(before, snapshot(model))
    assert_close(e.relevance, made.x.relevance, 1e-10)
    assert_close(e.layers[name], made.at[name].relevance * mask, 1e-10)
    assert e.audit.balanced and e.audit.excluded != 0


@pytest.mark.parametrize("rule", RULES)
def test_parallel_ways_are_left_out(rule: str) -> None:
    model, x, relevance = small()
    library, formula = RULES[rule]
    mask = torch.tensor([1.0, 0.0, 1.0]).double().reshape(3, 1, 1)
    made = written(model, x, formula, {"conv2": mask}, around=False)
    made.tape.back(made.y, relevance)
    e = rp.LRP(model, library).explain(x, target=relevance, conditions={"conv2": [0, 2]})
    assert_close(e.relevance, made.x.relevance, 1e-10)
    assert e.audit.balanced


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_several_places_at_once(rule: str, exclude: bool) -> None:
    model, x, relevance = small()
    library, formula = RULES[rule]
    masks = {
        "conv2": torch.tensor([0.0, 1.0, 1.0]).double().reshape(3, 1, 1),
        "conv1": torch.tensor([1.0, 1.0, 0.0]).double().reshape(3, 1, 1),
    }
    made = written(model, x, formula, masks, around=not exclude)
    made.tape.back(made.y, relevance)
    asked = {"conv1": u.Channels(0, 1), "conv2": u.Channels(1, 2)}
    e = rp.LRP(model, library).explain(x, target=relevance, conditions=asked, exclude_parallel=exclude)
    assert_close(e.relevance, made.x.relevance, 1e-10)


def test_places_that_run_beside_each_other() -> None:
    """Neither lies below the other: both let their units pass."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.left(x).relu() + self.right(x).relu() + x[:, :3])

    torch.manual_seed(0)
    model, x = Beside().double(), torch.randn(3, 4, dtype=torch.float64)
    lrp = rp.LRP(model, rp.Epsilon(1e-3))
    left, right, both = lrp.explain(x, target=1, conditions=[{"left": 1}, {"right": 2}, {"left": 1, "right": 2}])
    assert_close(both.relevance, left.relevance + right.relevance, 1e-12)
    assert both.audit.balanced and left.relevance.abs().sum() > 0 and right.relevance.abs().sum() > 0


@pytest.mark.parametrize("exclude", [True, False])
def test_the_units_of_a_layer_add_up(exclude: bool) -> None:
    """Relevance that passes any channel is the sum over the channels; the way around belongs to none of them."""
    torch.manual_seed(8)
    model = ready(ResidualNet())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    lrp = rp.LRP(model, rp.EpsilonPlusFlat())
    every = [{"blocks.0.conv1": i} for i in range(4)]
    each = lrp.explain(x, target=1, conditions=every, exclude_parallel=exclude)
    whole = lrp.explain(x, target=1, conditions={"blocks.0.conv1": u.Channels()}, exclude_parallel=exclude)
    around = 0.0 if exclude else 3 * (lrp.explain(x, target=1).relevance - _through(lrp, x).relevance)
    assert_close(sum(e.relevance for e in each), whole.relevance + around, 1e-10)
    assert all(e.audit.balanced for e in each)


def _through(lrp: rp.LRP, x: Tensor) -> rp.Explanation:
    return lrp.explain(x, target=1, conditions={"blocks.0.conv1": u.Channels()})


def test_one_forward_serves_many_conditions_and_targets() -> None:
    model, x, _ = small()
    runs: list[int] = []
    handle = model.conv1.register_forward_hook(lambda *_: runs.append(1))
    lrp = rp.LRP(model, rp.EpsilonPlus())
    found = lrp.explain(x, targets=[0, 3], conditions=[{"conv1": 0}, {"conv2": 1}, {}])
    handle.remove()
    assert len(found) == 6 and len(runs) == 1
    alone = [lrp.explain(x, target=t, conditions=c) for t in (0, 3) for c in ({"conv1": 0}, {"conv2": 1}, {})]
    for a, b in zip(found, alone, strict=True):
        assert_close(a.relevance, b.relevance, 1e-12)
        assert a.audit.seed == b.audit.seed and a.target == b.target


WEIGHTS = torch.tensor([0.5, 0.0, 2.0]).reshape(3, 1, 1)
UNITS = {
    "channel": (u.Channels(1), lambda v: torch.tensor([0.0, 1, 0]).reshape(3, 1, 1)),
    "last channel": (u.Channels(-1), lambda v: torch.tensor([0.0, 0, 1]).reshape(3, 1, 1)),
    "columns": (u.Channels(0, 2, dim=-1), lambda v: torch.tensor([1.0, 0, 1, 0])),
    "dimension": (u.Dimensions(3), lambda v: torch.tensor([0.0, 0, 0, 1])),
    "heads": (u.Heads(1, of=2), lambda v: torch.tensor([0.0, 0, 1, 1])),
    "neuron": (u.Neurons((2, 0, 1)), lambda v: _one(v, (2, 0, 1))),
    "flat neuron": (u.Neurons(5), lambda v: _one(v, (0, 1, 1))),
    "mask": (u.Mask(WEIGHTS), lambda v: WEIGHTS),
}


def _one(values: Tensor, at: tuple[int, ...]) -> Tensor:
    mask = torch.zeros(values.shape[1:])
    mask[at] = 1
    return mask


@pytest.mark.parametrize("name", UNITS)
def test_units(name: str) -> None:
    model, x, relevance = small()
    units, mask = UNITS[name]
    library, formula = RULES["epsilon"]
    made = written(model, x, formula, {"conv1": mask(model.conv1(x)).double()})
    made.tape.back(made.y, relevance)
    e = rp.LRP(model, library).explain(x, target=relevance, conditions={"conv1": units})
    assert_close(e.relevance, made.x.relevance, 1e-10)


def test_totals_of_units_are_sums_of_relevance() -> None:
    r = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    assert_close(u.Channels().total(r), r.sum((2, 3)))
    assert_close(u.Channels(dim=2).total(r), r.sum((1, 3)))
    assert_close(u.Neurons().total(r), r.flatten(1))
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    assert_close(u.Channels().total(tokens), tokens.sum(1))
    assert_close(u.Tokens().total(tokens), tokens.sum(2))
    assert_close(u.Heads(of=4).total(tokens), tokens.reshape(2, 5, 4, 2).sum((1, 3)))
    flat = torch.randn(2, 8, dtype=torch.float64)
    assert_close(u.Heads(of=4).total(flat), flat.reshape(2, 4, 2).sum(2))
    assert_close(u.Channels().total(flat), flat)


def test_directions_are_an_inserted_layer() -> None:
    """A direction as a concept: as if the layer were written in a basis that holds it, and back."""
    torch.manual_seed(4)
    vectors = torch.randn(2, 3, dtype=torch.float64)  # neither orthogonal nor of length one

    class Inserted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            rest = torch.linalg.svd(vectors)[2][2:]  # a basis: the directions, and what is orthogonal to both
            self.basis = torch.cat([vectors, rest])
            self.concepts = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            a = self.inner.conv1(x).movedim(1, -1)
            h = self.concepts(a @ torch.linalg.inv(self.basis))
            h = (h @ self.basis).movedim(-1, 1).relu()
            return self.inner.head((self.inner.conv2(h) + h).relu().flatten(1))

    model, x, relevance = small()
    plain, inserted = rp.LRP(model, rp.Zero()), rp.LRP(Inserted(model), rp.Zero())
    for i in (0, 1):
        e = plain.explain(x, target=relevance, conditions={"conv1": u.Directions(vectors, i)})
        o = inserted.explain(x, target=relevance, conditions={"concepts": u.Dimensions(i)})
        assert_close(e.relevance, o.relevance, 1e-9)
    whole = plain.explain(x, target=relevance, layers="conv1")
    expected = inserted.explain(x, target=relevance, layers="concepts").layers["concepts"][..., :2].sum((1, 2))
    found = u.Directions(vectors).relevance(whole.activations["conv1"], whole.gradients["conv1"])
    assert_close(found, expected, 1e-9)


def test_what_no_relevance_passes_is_said() -> None:
    model, x, _ = small()
    with torch.no_grad():
        model.conv1.weight[1], model.conv1.bias[1] = 0, -1  # a dead channel
    lrp = rp.LRP(model, rp.EpsilonPlus())
    with pytest.warns(rp.RelpropWarning, match=r"no relevance passes \(model\)\.relu under Channels.*1"):
        e = lrp.explain(x, target=0, conditions={"(model).relu": 1})
    assert not e.relevance.any() and not e.reached["(model).relu"].any()
    assert "no relevance passes (model).relu" in str(e.audit)
    assert lrp.explain(x, target=0, conditions={"(model).relu": 0}).reached["(model).relu"].all()
    with pytest.warns(rp.RelpropWarning, match="no relevance comes to conv2"):
        lrp.explain(x, start_at="conv1", conditions={"conv2": 0}, target=(0, 0, 0))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"conv3": 0}, "conditions: no module or parameter is named 'conv3'; nearest names: .*conv2"),
        ({"conv1": 3}, r"at 'conv1': channel 3 is out of range: .* \(2, 3, 4, 4\) has 3, so -3 to 2"),
        ({"conv1": u.Heads(4, of=4)}, "head 4 is out of range"),
        ({"conv1": u.Heads(0, of=3)}, "does not divide into 3 heads"),
        ({"conv1": u.Neurons((0, 0, 4))}, r"neuron \(0, 0, 4\) is out of range"),
        ({"conv1": torch.ones(4, 1, 1)}, r"a mask of shape \(4, 1, 1\) does not broadcast .* \(2, 3, 4, 4\)"),
        ({"conv1": u.Directions(torch.ones(1, 5))}, "directions of width 5 do not fit"),
        ({"conv1": u.Channels(0, dim=5)}, "along dimension 5"),
        ({"conv1": []}, "an empty list selects no unit"),
        ({"conv1": "three"}, "units of type str"),
        ({"conv1": True}, "units must be"),
        ("conv1", "conditions must be a mapping"),
    ],
)
def test_conditions_that_do_not_fit(condition: object, message: str) -> None:
    model, x, _ = small()
    before = snapshot(model)
    with pytest.raises(rp.InputError, match=message):
        rp.LRP(model).explain(x, target=0, conditions=condition)
    assert_same_state(before, snapshot(model))
    assert rp.LRP(model).explain(x, target=0).audit.balanced


def test_directions_that_are_none() -> None:
    with pytest.raises(rp.InputError, match="linearly dependent"):
        u.Directions(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    with pytest.raises(rp.InputError, match="finite"):
        u.Directions(torch.tensor([float("nan"), 1.0]))


def test_nothing_is_kept_alive() -> None:
    """A hook on a tensor that held what holds the tensor would never be collected."""
    model, x, _ = small()
    gc.collect()
    gc.disable()
    before = {id(o) for o in gc.get_objects()}
    try:
        e = rp.LRP(model, rp.EpsilonPlus()).explain(
            x, target=0, conditions={"conv1": 0}, layers=["conv2:in", "conv1.weight"], stop_at="conv1:in"
        )
        seen = weakref.ref(e.plan), [weakref.ref(t) for t in (e.relevance, e.layers["conv2:in"])]
        del e
        assert seen[0]() is None and all(r() is None for r in seen[1])
        alive = [o for o in gc.get_objects() if id(o) not in before and type(o) is Tensor and o.shape == (2, 3, 4, 4)]
        assert not alive
    finally:
        gc.enable()


def test_two_conditions_at_one_place() -> None:
    model, x, _ = small()
    with pytest.raises(rp.InputError, match=r"'conv\*' and 'conv1' both select at 'conv1'"):
        rp.LRP(model).explain(x, target=0, conditions={"conv*": 0, "conv1": 1})
    same = nn.Linear(4, 4)
    tied = nn.Sequential(same, nn.ReLU(), same)
    with pytest.raises(rp.InputError, match="'0' and '2' both select"):
        rp.LRP(tied).explain(torch.randn(1, 4), target=0, conditions={"0": 0, "2": 1})


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_module_that_runs_twice(create_graph: bool) -> None:
    """It is a place each time: relevance passes its units twice, and is not counted twice."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.map(self.map(x).relu()).relu())

    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    first = model.map(x)
    second = model.map(first.relu())
    (g,) = torch.autograd.grad(model.head(second.relu())[:, 1].sum(), second, retain_graph=True)
    (g,) = torch.autograd.grad(second, first, g * mask, retain_graph=True)
    (g,) = torch.autograd.grad(first, x, g * mask)
    for exclude in (True, False):
        e = rp.LRP(model, rp.Zero()).explain(
            x, target=1, conditions={"map": [0, 2]}, exclude_parallel=exclude, create_graph=create_graph
        )
        assert e.relevance.abs().sum() > 0
        assert_close(e.relevance.detach(), (x * g).detach(), 1e-12)
        assert e.audit.balanced


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("right_first", [False, True])
def test_places_below_and_beside_each_other(right_first: bool, create_graph: bool) -> None:
    """`low` lies below `left`, `right` beside both: what passes left and low, and what passes right."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            right = self.right(x) if right_first else None
            left = self.left(self.low(x).abs() + x)
            return self.head(left.abs() + (self.right(x) if right is None else right).abs())

    torch.manual_seed(3)
    model, x = Mixed().double(), torch.randn(3, 4, dtype=torch.float64)
    conditions = [{"low": 0, "left": [1, 2]}, {"right": 3}, {"low": 0, "left": [1, 2], "right": 3}]
    lrp = rp.LRP(model, rp.Zero())
    layers = "head" if create_graph else "*.weight"
    one, other, both = lrp.explain(x, target=1, conditions=conditions, create_graph=create_graph, layers=layers)
    assert one.relevance.abs().sum() > 0 and other.relevance.abs().sum() > 0
    assert_close(both.relevance.detach(), (one.relevance + other.relevance).detach(), 1e-12)
    assert both.audit.balanced
    if not create_graph:
        for name in ("low.weight", "right.weight"):
            assert_close(both.layers[name], one.layers[name] + other.layers[name], 1e-12)
        plain = lrp.explain(x, target=1, layers="head.weight")
        assert_close(both.layers["head.weight"], plain.layers["head.weight"], 1e-12, "passed once")
