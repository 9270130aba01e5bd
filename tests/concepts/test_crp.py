"""Concept relevance propagation: batches of conditions, chosen units, relevance of concepts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop import units as u
from relprop.concepts.crp import CRP, Indexed, TopN
from relprop.explain.forward import Request
from tests.concepts.nets import RULES, Small, small, written
from tests.support.compare import assert_close
from tests.support.networks import ResidualNet, ready
from tests.support.state import assert_same_state, snapshot

PAIRS = [{"conv2": i, "conv1": j} for i, j in itertools.product(range(3), range(3))]


@contextmanager
def batches(module: nn.Module) -> Iterator[list[int]]:
    """The batch sizes with which a module runs."""
    seen: list[int] = []
    handle = module.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    yield seen
    handle.remove()


# -- several conditions at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_a_batch_of_conditions_is_the_explicit_form_of_each(rule: str, exclude: bool) -> None:
    model, x, relevance = small()
    library, formula = RULES[rule]
    before = snapshot(model)
    with batches(model.conv1) as seen:
        found = CRP(rp.LRP(model, library)).explain(
            x, conditions=PAIRS, target=relevance, layers="(model).relu", exclude_parallel=exclude
        )
        assert seen == [2, 16], "the samples alone, then eight copies of them"
    assert_same_state(before, snapshot(model))
    for condition, e in zip(PAIRS, found, strict=True):
        masks = {name: torch.eye(3, dtype=torch.float64)[i].reshape(3, 1, 1) for name, i in condition.items()}
        made = written(model, x, formula, masks, around=not exclude)
        made.tape.back(made.y, relevance)
        assert_close(e.relevance, made.x.relevance, 1e-10, str(condition))
        assert_close(e.layers["(model).relu"], made.at["(model).relu"].relevance, 1e-10, str(condition))


TARGETS: dict[str, Any] = {
    "arg max": None,
    "one class": 3,
    "a class each": [1, 4],
    "a tensor of classes": torch.tensor([4, 0]),
    "a slice": (slice(1, 3),),
    "a mask": torch.tensor([[True, False, True, True, False], [False, True, False, False, True]]),
    "relevance": torch.tensor([[0.3, -1.0, 0.7, 2.0, 0.1], [1.5, 0.2, -0.4, -0.9, 0.6]]).double(),
    "a function": lambda y: y[:, 1] - y[:, 2].square(),
}


@pytest.mark.parametrize("seed", ["value", "one"])
@pytest.mark.parametrize("target", TARGETS)
def test_together_is_one_by_one(target: str, seed: str) -> None:
    model, x, _ = small()
    lrp, wanted = rp.LRP(model, rp.EpsilonPlusFlat()), TARGETS[target]
    asked: dict[str, Any] = {"conditions": PAIRS, "target": wanted, "seed": seed, "layers": ["conv2:in", "head"]}
    with batches(model.conv1) as seen:
        found = CRP(lrp).explain(x, **asked)
        assert seen == [2, 16]
    for a, b in zip(found, lrp.explain(x, **asked), strict=True):
        assert_close(a.relevance, b.relevance, 1e-12)
        for name in b.layers:
            assert_close(a.layers[name], b.layers[name], 1e-12, name)
            assert_close(a.activations[name], b.activations[name], 1e-12, name)
            assert_close(a.gradients[name], b.gradients[name], 1e-12, name)
        assert_close(a.explained, b.explained, 1e-12)
        assert_close(a.output, b.output, 1e-12)
        assert all(torch.equal(a.reached[k], b.reached[k]) for k in b.reached)
        assert str(a.target) == str(b.target)


@pytest.mark.parametrize("copies", [0, 1, 2, 3, 5, 100])
def test_a_budget_is_kept_and_changes_nothing(copies: int) -> None:
    model, x, _ = small()
    lrp = rp.LRP(model, rp.EpsilonPlus())

    def kept(samples: Tensor) -> int:
        request = Request(
            targets=(3,), seed="value", conditions=({"conv2": u.Channels(0), "conv1": u.Channels(0)},) * 2
        )
        forward = lrp.recorded(request, (samples,), {})
        return forward.recorder.boxes.size([*model.parameters(), samples])

    budget = 2 * copies * kept(x)
    with batches(model.conv1) as seen:
        found = CRP(lrp, budget=budget).explain(x, conditions=PAIRS, target=3)
    expected = {0: [], 1: [], 2: [4], 3: [6, 4], 5: [8], 100: [16]}[copies]
    assert seen == [2, *expected], "eight conditions in parts of nearly one size"
    assert all(2 * kept(x.repeat(n // 2, 1, 1, 1)) <= budget for n in expected)
    for a, b in zip(found, lrp.explain(x, conditions=PAIRS, target=3), strict=True):
        assert_close(a.relevance, b.relevance, 1e-12)


@pytest.mark.parametrize("samples", [1, 5])
def test_what_a_forward_keeps_is_counted(samples: int) -> None:
    """By hand: under LRP-0 a dense layer keeps its weight alone and a ReLU its result, six numbers of eight bytes."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = torch.randn(samples, 4, dtype=torch.float64)
    forward = rp.LRP(model, rp.Zero()).recorded(Request(targets=(0,), seed="value"), (x,), {})
    assert forward.recorder.boxes.size(model.parameters()) == samples * 6 * 8


def test_what_all_copies_share_is_left_out_and_said() -> None:
    """Position embeddings that the samples share: their relevance cannot be told apart by condition."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(5, 4), nn.Embedding(3, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head((self.words(ids) + self.places(torch.arange(3)[None])).square().mean(1))

    lrp, ids = rp.LRP(Placed().double(), rp.Zero()), torch.tensor([[0, 2, 1], [4, 4, 0]])
    asked: dict[str, Any] = {"conditions": {"head:in": Indexed(0, 1, 2)}, "target": 1}
    together, alone = CRP(lrp).explain(ids, **asked), CRP(lrp, budget=0).explain(ids, **asked)
    assert_close(together.relevance, alone.relevance, 1e-12)
    assert all("places" in e.leaves for e in alone)
    assert "places" not in together[2].leaves and "the relevance of places is one for all" in str(together[2].audit)


def test_conditions_on_different_places_and_targets() -> None:
    model, x, _ = small()
    lrp = rp.LRP(model, rp.Epsilon(1e-3))
    asked = [{"conv1": 0, "y": 1}, {"conv2": 0, "y": [1]}, {"conv1": 2, "y": 1}, {"y": 4}, {"conv1": [0, 1], "y": 4}]
    found = CRP(lrp).explain(x, conditions=asked)
    plain = [({"conv1": 0}, 1), ({"conv2": 0}, 1), ({"conv1": 2}, 1), ({}, 4), ({"conv1": [0, 1]}, 4)]
    for e, (condition, target) in zip(found, plain, strict=True):
        assert_close(e.relevance, lrp.explain(x, conditions=condition, target=target).relevance, 1e-12)
    both = CRP(lrp).explain(x, conditions={"conv1": 0, "y": [1, 4]})[0].relevance
    each = [lrp.explain(x, conditions={"conv1": 0}, target=t).relevance for t in (1, 4)]
    assert_close(both, each[0] + each[1], 1e-12)
    assert found.titles == ["conv1: 0", "conv2: 0", "conv1: 2", "all", "conv1: 0, 1"]
    assert found.relevance.shape == (5, 2, 2, 4, 4) and len(found[1:3]) == 2


class Mixed(nn.Module):
    """Several inputs: nested, by keyword, integers, one without samples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.left, self.right = nn.Embedding(7, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, pair: tuple[Tensor, dict[str, Tensor]], *, ids: Tensor, scale: Tensor | float = 1.0) -> Any:
        x, more = pair[0], pair[1]["more"]
        h = self.left(x * scale).relu() + self.right(self.embed(ids)).tanh().sum(1)
        return {"logits": h + more, "other": [h]}


@pytest.mark.parametrize("samples", [1, 3])
def test_every_argument_of_the_samples_is_repeated(samples: int) -> None:
    model = Mixed().double()
    model.left.bias.data += 5.0  # nothing is cut off by the ReLU
    x, more = torch.randn(samples, 4, dtype=torch.float64), torch.randn(samples, 3, dtype=torch.float64)
    given = ((x, {"more": more}),), {"ids": torch.randint(7, (samples, 5)), "scale": torch.tensor(2.0).double()}
    lrp = rp.LRP(model, rp.EpsilonPlus())
    conditions = [{"left": i} for i in range(3)]
    asked: dict[str, Any] = {"conditions": conditions, "target": (slice(0, 3),)}
    with batches(model.left) as seen:
        found = CRP(lrp).explain(*given[0], **asked, **given[1])
        # relevance of the scale is a sum over the batch, so that conditions cannot share one
        assert seen == [samples, 2 * samples]
    for a, b in zip(found, lrp.explain(*given[0], **asked, **given[1]), strict=True):
        assert a.relevance.keys() == b.relevance.keys()
        for name in b.relevance:
            assert_close(a.relevance[name], b.relevance[name], 1e-12, name)


class Sequence(nn.Module):
    """[T, N, F]: samples in dimension 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu().mean(0))


class Coupled(Small):
    """A sample's values depend on those beside it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0).cumsum(0) / len(x) ** 2)


ALONE: dict[str, Any] = {
    "samples in another dimension": (Sequence, (5, 2, 3), "first", {"target": 1}),
    "samples that depend on each other": (Coupled, (2, 2, 4, 4), "(model).add", {"target": 1}),
    "a target without samples": (Small, (2, 2, 4, 4), "(model).add", {"target": lambda y: y[1, 3]}),
    "relevance of weights": (Small, (2, 2, 4, 4), "(model).add", {"target": 1, "layers": "head.weight"}),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_repeated_is_done_one_by_one(name: str) -> None:
    make, shape, place, asked = ALONE[name]
    model, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    lrp = rp.LRP(model, rp.Zero())
    asked = asked | {"conditions": [{place: i} for i in range(3)]}
    with batches(next(model.children())) as seen:
        found = CRP(lrp).explain(x, **asked)
    assert name != "relevance of weights" or seen == [2], "known beforehand: nothing is tried in vain"
    for a, b in zip(found, lrp.explain(x, **asked), strict=True):
        assert_close(a.relevance, b.relevance, 1e-12)
        assert a.audit.seed == b.audit.seed and a.audit.notes == b.audit.notes, "its own books"
        assert all(torch.equal(a.layers[k], b.layers[k]) for k in b.layers)


def test_books_that_are_shared_say_so() -> None:
    model, x, _ = small()
    found = CRP(rp.LRP(model, rp.EpsilonPlus())).explain(x, conditions=PAIRS, target=3)
    assert "propagated together" not in str(found[0].audit)
    assert all("the books are those of 8 conditions that were propagated together" in str(e.audit) for e in found[1:])
    assert all(e.audit.balanced for e in found)


def test_each_condition_that_nothing_passes_is_said() -> None:
    model, x, _ = small()
    with torch.no_grad():
        model.conv1.weight[1:], model.conv1.bias[1:] = 0, -1  # dead channels
    crp = CRP(rp.LRP(model, rp.EpsilonPlus()))
    with pytest.warns(rp.RelpropWarning) as said:
        found = crp.explain(x, conditions={"(model).relu": Indexed(0, 1, 0, 2)}, target=0)
    texts = [str(w.message) for w in said]
    assert len(texts) == 2
    for text, i in zip(texts, (1, 2), strict=True):
        assert f"no relevance passes (model).relu under Channels({i})" in text
    assert [("no relevance passes" in str(e.audit)) for e in found] == [False, True, False, True]
    assert [bool(e.reached["(model).relu"].any()) for e in found] == [True, False, True, False]
    assert not found[3].relevance.any()


# -- which units -------------------------------------------------------------------------------------------------------


def test_relevance_of_concepts() -> None:
    model, x, relevance = small()
    library, formula = RULES["flat"]  # gives relevance to zeros too
    made = written(model, x, formula)
    made.tape.back(made.y, relevance)
    crp = CRP(rp.LRP(model, library))
    at = made.at["(model).relu"].relevance
    assert_close(crp.relevance(x, layer="(model).relu", target=relevance), at.sum((2, 3)), 1e-10)
    columns = crp.relevance(x, layer="(model).relu", target=relevance, units=u.Channels(dim=3))
    assert_close(columns, at.sum((1, 2)), 1e-10)
    assert_close(crp.relevance(x, layer="(model).relu", target=relevance, units=u.Neurons()), at.flatten(1), 1e-10)
    under = crp.relevance(x, layer="conv1", target=relevance, conditions={"conv2": 1})
    assert_close(under, rp.LRP(model, library).explain(
        x, target=relevance, conditions={"conv2": 1}, layers="conv1").layers["conv1"].sum((2, 3)), 1e-10)  # fmt: skip


def test_relevance_of_a_module_that_runs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.map(self.map(x).relu())

    lrp, x = rp.LRP(Twice().double(), rp.Zero()), torch.randn(3, 4, dtype=torch.float64)
    runs = lrp.explain(x, target=1, layers="map").layers["map"]
    assert_close(CRP(lrp).relevance(x, layer="map", target=1), runs[0] + runs[1])


@pytest.mark.parametrize("by", ["positive", "absolute", "negative"])
def test_the_top_units_of_every_sample(by: str) -> None:
    model, x, _ = small()
    crp = CRP(rp.LRP(model, rp.Zero()))
    scores = crp.relevance(x, layer="conv2", target=3)
    key = {"positive": scores, "absolute": scores.abs(), "negative": -scores}[by]
    found = crp.explain(x, conditions={"conv2": TopN(2, by=by)}, target=3)
    assert len(found) == 2
    for rank, e in enumerate(found):
        for sample in range(2):
            unit = sorted(range(3), key=lambda i: -float(key[sample, i]))[rank]
            alone = crp.lrp.explain(x[[sample]], conditions={"conv2": unit}, target=3)
            assert_close(e.relevance[[sample]], alone.relevance, 1e-12, f"{by} {rank} {sample}")


def test_top_units_under_other_conditions() -> None:
    model, x, _ = small()
    crp, x = CRP(rp.LRP(model, rp.Zero())), x[:1]
    under = crp.relevance(x, layer="conv1", target=3, conditions={"conv2": 2})
    found = crp.explain(x, conditions={"conv2": Indexed(2), "conv1": TopN(3)}, target=3)
    order = under[0].argsort(descending=True).tolist()
    assert [c["conv1"].index[0] for c in found.conditions] == order
    assert [list(c) for c in found.conditions] == [["conv2", "conv1"]] * 3
    for i, e in zip(order, found, strict=True):
        assert_close(e.relevance.sum() * 0 + e.layers["conv1"].sum(), under[0, i], 1e-12)


def test_ties_go_to_the_lower_index() -> None:
    relevance = torch.tensor([[1.0, 2.0, 2.0, -2.0, 1.0]])
    assert TopN(4).choose(relevance).tolist() == [[1, 2, 0, 4]]
    assert TopN(4, by="absolute").choose(relevance).tolist() == [[1, 2, 3, 0]]
    assert TopN(2, by="negative").choose(relevance).tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"conditions": {"conv1": TopN(4)}}, r"TopN\(4\) at 'conv1': there are only 3 units"),
        ({"conditions": {"conv1": TopN(1, u.Heads(of=3))}}, "at 'conv1': .* does not divide into 3 heads"),
        ({"conditions": {"conv1": TopN(1), "conv2": TopN(1)}}, "a condition may hold one TopN, got them at 'conv1'"),
        ({"conditions": {"conv*": TopN(1)}}, r"'conv\*' stands for 'conv1', 'conv2': name one place"),
        ({"conditions": {"conv3": TopN(1)}}, "no module or parameter is named 'conv3'; nearest names: .*conv2"),
        ({"conditions": {"conv1": Indexed(0, 1, 3)}}, "at 'conv1': channel 3 is out of range"),
        ({"conditions": {"conv1": torch.ones(5, 1, 1)}}, r"a mask of shape \(5, 1, 1\) does not broadcast"),
        ({"conditions": []}, "conditions must be a mapping"),
        ({"conditions": "conv1"}, "conditions must be a mapping"),
        ({"conditions": {"conv1": 0, "y": 1}, "target": 1}, "give the target once"),
        ({"conditions": {"conv1": 0}, "unknown": "ignore"}, "unknown must be"),
        ({"conditions": {"conv1": 0}, "seed": "half"}, "seed must be"),
    ],
)
def test_what_does_not_fit(asked: dict[str, Any], message: str) -> None:
    model, x, _ = small()
    before = snapshot(model)
    with pytest.raises(rp.InputError, match=message):
        CRP(rp.LRP(model)).explain(x, **asked)
    assert_same_state(before, snapshot(model))


def test_values_that_are_none() -> None:
    model, _, _ = small()
    for make, message in (
        (lambda: TopN(0), "n must be a positive integer"),
        (lambda: TopN(1, by="size"), "by must be"),
        (lambda: Indexed(), "names no units"),
        (lambda: CRP(model), "CRP takes an LRP, got Small"),
        (lambda: CRP(rp.LRP(model), budget=-1), "budget must be a number of bytes"),
    ):
        with pytest.raises(rp.InputError, match=message):
            make()
    with pytest.raises(rp.InputError, match="several inputs"):
        _ = CRP(rp.LRP(Mixed().double())).explain(
            (torch.randn(1, 4).double(), {"more": torch.randn(1, 3).double()}), ids=torch.zeros(1, 2).long(), target=0,
            conditions=[{"left": 0}]).relevance  # fmt: skip


# -- other networks, by an independent form ----------------------------------------------------------------------------


def test_shortcuts_by_starting_from_the_units_own_relevance() -> None:
    """What passes a unit is what a propagation gives that begins with the unit's relevance, and that alone."""
    model = ready(ResidualNet())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    lrp = rp.LRP(model, rp.EpsilonPlusFlat())
    for place in ("blocks.1.conv2", "blocks.0.norm1", "blocks.0", "stem"):
        at = lrp.explain(x, target=1, layers=place).layers[place]
        alive = [i for i in range(at.shape[1]) if at[:, i].any()]
        assert len(alive) > 2
        found = CRP(lrp).explain(x, conditions={place: Indexed(*alive)}, target=1)
        for i, e in zip(alive, found, strict=True):
            mask = torch.zeros(at.shape[1], 1, 1, dtype=torch.float64)
            mask[i] = 1
            begun = lrp.explain(x, start_at=place, target=at * mask)
            assert_close(e.relevance, begun.relevance, 1e-9, f"{place} {i}")


class Block(nn.Module):
    """One transformer layer on vectors, [N, T, D] -> [N, classes]."""

    def __init__(self, width: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.second, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 12), nn.Linear(12, width)
        self.head = nn.Linear(width, 3)

    def split(self, x: Tensor) -> list[Tensor]:
        return [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1)]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        a = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1)
        x = x + self.out((a @ v).transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return self.head(x.mean(1))


def by_autograd(model: Block, x: Tensor, head: int, target: int, exclude: bool) -> Tensor:
    """AttnLRP under the condition of one head, as gradient x input of a function whose value is the model's.

    Constants are detached: statistics, the factor y / x of the activation, half of every product of two tensors, the
    other heads, and (`exclude`) the way around all heads.
    """

    def norm(layer: nn.LayerNorm, h: Tensor) -> Tensor:
        deviation = (h.var(-1, correction=0, keepdim=True) + layer.eps).sqrt().detach()
        return (h - h.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias

    def times(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.detach() + a.detach() @ b) / 2

    x = x.clone().requires_grad_()
    parts = model.qkv(norm(model.norm, x)).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (model.heads, -1)).transpose(1, 2) for t in parts)
    a = torch.softmax(times(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1]), -1)
    z = times(a, v).transpose(1, 2)  # [N, T, H, D]
    kept = torch.zeros(model.heads, 1, dtype=x.dtype)
    kept[head] = 1
    z = z * kept + (z * (1 - kept)).detach()
    h = (x.detach() if exclude else x) + model.out(z.flatten(2))
    g = model.up(norm(model.second, h))
    h = h + model.down(g * (nn.functional.gelu(g) / g).detach())
    y = model.head(h.mean(1))
    assert_close(y.detach(), model(x).detach(), 1e-12)
    return x.detach() * torch.autograd.grad(y[:, target].sum(), x)[0]


@pytest.mark.parametrize("exclude", [True, False])
def test_heads_of_a_transformer(exclude: bool) -> None:
    model, x = Block().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    crp = CRP(rp.LRP(model, rp.AttnLRP(epsilon=0.0)))
    heads = Indexed(0, 1, 2, 3, units=u.Heads(of=4))
    found = crp.explain(x, conditions={"out:in": heads}, target=2, exclude_parallel=exclude)
    for i, e in enumerate(found):
        assert_close(e.relevance, by_autograd(model, x, i, 2, exclude), 1e-9, f"head {i}")


DIVIDED = {
    "heads": (u.Heads(of=4), [0, 3]),
    "tokens": (u.Tokens(), [1, 4, 2]),
    "dimensions": (u.Dimensions(), [0, 5, 7]),
    "neurons": (u.Neurons(), [3, (1, 2), 9]),
    "directions": (u.Directions(torch.eye(8, dtype=torch.float64)[:3] + 0.2), [0, 1, 2]),
}


@pytest.mark.parametrize("units", DIVIDED)
def test_any_units_go_together(units: str) -> None:
    model, x = Block().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    lrp = rp.LRP(model, rp.AttnLRP())
    divided, index = DIVIDED[units]
    with batches(model.qkv) as seen:
        found = CRP(lrp).explain(x, conditions={"out:in": Indexed(*index, units=divided)}, target=1)
    assert seen == ([2, 4] if len(index) == 3 else [2])
    for i, e in zip(index, found, strict=True):
        alone = lrp.explain(x, conditions={"out:in": divided.at(i)}, target=1)
        assert_close(e.relevance, alone.relevance, 1e-12, str(i))
        assert e.relevance.any()
