"""Attribution graphs between the units of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import CRP, Heads
from relprop.concepts.graph import AttributionGraph, attribution_graph
from tests.concepts.nets import RULES, small, written
from tests.support.compare import assert_close


class Chain(nn.Module):
    """Dense layers by hand: everything passes each of them."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(i, o, bias=bias) for i, o in ((4, 5), (5, 3), (3, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


def test_edges_are_messages_between_units() -> None:
    """By hand: with LRP-0 the message from unit u of b to unit v of a is a_v W_uv g_u, with g_u the weight above."""
    model, x = Chain(bias=True).double(), torch.randn(1, 4, dtype=torch.float64)
    with torch.no_grad():
        model.b.bias[:] = torch.tensor([2.0, -3.0, 1.0])
    a = model.a(x).relu()
    z = model.b(a)
    assert (z > 0).any() and (z < 0).any()
    g = torch.where(z > 0, model.c.weight[1], 0.0)
    messages = (a * model.b.weight * g.T).detach()  # [b, a]
    found = attribution_graph(CRP(rp.LRP(model, rp.Zero())), x, layers=["b", "(model).relu"], width=None, target=1)
    edges = {(u, v): r for (_, u), (_, v), r in found.edges}
    for u in range(3):
        for v in range(5):
            assert edges.pop((u, v), 0.0) == pytest.approx(float(messages[u, v]), abs=1e-12)
    assert not edges
    relevance = (z * g)[0].detach()
    assert {u: r for layer, u, r in found.nodes if layer == "b"} == pytest.approx(
        {u: float(relevance[u]) for u in range(3) if relevance[u]}
    )


@pytest.mark.parametrize("rule", RULES)
def test_what_leaves_a_unit_is_its_relevance_less_what_is_absorbed(rule: str) -> None:
    torch.manual_seed(1)
    model, x = Chain(bias=True).double(), torch.randn(1, 4, dtype=torch.float64)
    model.b.bias.data += 1.0
    model.c.weight.data.abs_()
    lrp = rp.LRP(model, RULES[rule][0])
    found = attribution_graph(CRP(lrp), x, layers=["b", "a"], width=None, target=1)
    at = lrp.explain(x, target=1, layers="b").layers["b"]
    checked = 0
    for unit in range(3):
        leaving = sum(r for (layer, u), _, r in found.edges if (layer, u) == ("b", unit))
        audit = lrp.explain(x, start_at="b", target=at * torch.eye(3).double()[unit], stop_at="a").audit
        absorbed = audit.bias + audit.epsilon + audit.excess
        assert leaving == pytest.approx(float(at[0, unit]) - absorbed, rel=1e-9, abs=1e-12)
        checked += abs(leaving) > 1e-3
    assert checked


@pytest.mark.parametrize("rule", ["epsilon", "alpha2-beta1"])
def test_every_edge_is_the_explicit_form(rule: str) -> None:
    model, x, _ = small()
    library, formula = RULES[rule]
    layers = ["(model).relu#1", "conv2", "conv1"]
    found = attribution_graph(CRP(rp.LRP(model, library)), x[:1], layers=layers, width=[2, 2, None], target=2)
    seed = torch.zeros(1, 5, dtype=torch.float64)
    seed[0, 2] = model(x[:1])[0, 2].detach()
    for (upper, u), (lower, v), amount in found.edges:
        mask = torch.eye(3, dtype=torch.float64)[u].reshape(3, 1, 1)
        made = written(model, x[:1], formula, {upper: mask}, around=upper != "conv2")
        made.tape.back(made.y, seed)
        assert amount == pytest.approx(float(made.at[lower].relevance.sum((2, 3))[0, v]), rel=1e-9, abs=1e-12)
    assert [n[0] for n in found.nodes] == sorted((n[0] for n in found.nodes), key=layers.index)
    above = {u for (layer, u), _, _ in found.edges if layer == "conv2"}
    assert above <= {v for _, (layer, v), _ in found.edges if layer == "conv2"}


def test_width_and_order() -> None:
    model, x, _ = small()
    crp = CRP(rp.LRP(model, rp.Zero()))
    layers = ["conv2", "conv1"]
    found = attribution_graph(crp, x, layers=layers, width=[1, 2], by="absolute", target=2)
    scores = crp.relevance(x, layer="conv2", target=2).sum(0)
    assert [n for n in found.nodes if n[0] == "conv2"] == [
        ("conv2", int(scores.abs().argmax()), pytest.approx(float(scores[scores.abs().argmax()])))
    ]
    whole = attribution_graph(crp, x, layers=layers, width=None, by="absolute", target=2)
    top = [e for e in whole.edges if e[0] == found.edges[0][0]]
    assert found.edges == top[:2] and abs(top[0][2]) >= abs(top[1][2]) >= abs(top[2][2])


def test_the_graph_of_one_unit() -> None:
    model, x, _ = small()
    crp = CRP(rp.LRP(model, rp.Zero()))
    found = attribution_graph(crp, x[:1], layers=["conv2", "conv1"], conditions={"conv2": 1}, target=2)
    assert [n[1] for n in found.nodes if n[0] == "conv2"] == [1]
    passed = crp.relevance(x[:1], layer="conv1", conditions={"conv2": 1}, target=2)[0]
    for layer, unit, r in found.nodes[1:]:
        assert layer == "conv1" and r == pytest.approx(float(passed[unit]), rel=1e-12)
    for _, (_, unit), r in found.edges:
        assert r == pytest.approx(float(passed[unit]), rel=1e-12)


def test_the_graph_of_a_unit_with_negative_relevance() -> None:
    """Beside units without relevance a negative one is the strongest there is."""
    model, x, _ = small()
    crp = CRP(rp.LRP(model, rp.Zero()))
    scores = crp.relevance(x, layer="conv2", target=2).sum(0)
    unit = int(scores.argmin())
    assert scores[unit] < 0
    found = attribution_graph(crp, x, layers=["conv2", "conv1"], width=1, conditions={"conv2": unit}, target=2)
    assert found.nodes[0] == ("conv2", unit, pytest.approx(float(scores[unit]))) and len(found.edges) == 1


def test_layers_divided_in_other_ways() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2)).double()
    model[0].bias.data += 3
    x = torch.randn(1, 4, dtype=torch.float64)
    found = attribution_graph(
        CRP(rp.LRP(model, rp.Zero())), x, layers=["2", "0"], width=None, units={"0": Heads(of=3)}, target=0
    )
    fine = attribution_graph(CRP(rp.LRP(model, rp.Zero())), x, layers=["2", "0"], width=None, target=0)
    for (_, u), (_, head), r in found.edges:
        parts = [a for (_, w), (_, v), a in fine.edges if w == u and v // 2 == head]
        assert r == pytest.approx(sum(parts), rel=1e-9)
    assert len(found.edges) == 12


def test_other_forms(tmp_path: Any) -> None:
    pytest.importorskip("networkx")
    pytest.importorskip("matplotlib")
    graph = AttributionGraph(
        [("up", 3, 2.0), ("down", 1, 1.5), ("down", 0, -0.5)],
        [(("up", 3), ("down", 1), 1.5), (("up", 3), ("down", 0), -0.5)],
    )
    made = graph.to_networkx()
    assert made.nodes["up", 3]["relevance"] == 2.0
    assert made.edges[("up", 3), ("down", 0)]["relevance"] == -0.5
    assert graph.paths(1) == [(pytest.approx(1.5), (("up", 3), ("down", 1)))]
    assert graph.save(tmp_path / "graph.png").stat().st_size > 1000
    assert str(graph) == "up 3: +2 from 1 +1.5, 0 -0.5\ndown 1: +1.5\ndown 0: -0.5"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": ["conv1"]}, "at least two layers"),
        ({"layers": ["conv1", "conv1"]}, "each named once"),
        (
            {"layers": ["conv1", "conv2"]},
            r"from the output down, one place each, got conv1, conv2; write layers=\['conv2', 'conv1'\]",
        ),
        ({"layers": ["head", "conv*"]}, r"one place each, got head, conv\*; these ran: head"),
        ({"layers": ["conv2", "conv1"], "width": [1]}, "width has 1 numbers for 2 layers"),
        ({"layers": ["conv2", "conv1"], "width": 4}, r"TopN\(4\) at 'conv2': there are only 3 units"),
        ({"layers": ["conv2", "conv1"], "width": 0}, "n must be a positive integer"),
        ({"layers": ["conv2", "conv1"], "units": {"head": Heads(of=2)}}, "units are given for 'head'"),
        ({"layers": ["conv2", "conv7"]}, "nearest names: .*conv2"),
    ],
)
def test_what_does_not_fit(asked: dict[str, Any], message: str) -> None:
    model, x, _ = small()
    with pytest.raises(rp.InputError, match=message):
        attribution_graph(CRP(rp.LRP(model)), x, target=0, **asked)


def test_a_graph_of_nothing() -> None:
    model = Chain(bias=True).double()
    model.b.bias.data -= 9.0
    with pytest.raises(rp.InputError, match="no relevance passes 'b'"):
        attribution_graph(CRP(rp.LRP(model, rp.Zero())), torch.randn(1, 4).double(), layers=["b", "a"], target=1)


def test_samples_are_summed() -> None:
    model, x, _ = small()
    crp = CRP(rp.LRP(model, rp.Zero()))
    asked: dict[str, Any] = {"layers": ["conv2", "conv1"], "width": None, "target": 2}
    both, first, second = (dict_of(attribution_graph(crp, part, **asked)) for part in (x, x[:1], x[1:]))
    for key, r in both.items():
        assert_close(torch.tensor(r), torch.tensor(first.get(key, 0.0) + second.get(key, 0.0)), 1e-6)


def dict_of(graph: AttributionGraph) -> dict[Any, float]:
    return {(a, b): r for a, b, r in graph.edges}
