"""Walks through graph networks, against their relevance written out step by step."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import Walks, walk_relevance
from relprop.units import Mask
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot

F64 = torch.float64
EDGES = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4, 1, 3], [1, 0, 2, 1, 3, 2, 4, 3, 3, 1]])
SIZE = 5


def adjacency() -> Tensor:
    a = torch.eye(SIZE, dtype=F64)
    a[EDGES[0], EDGES[1]] = 1
    degree = a.sum(0).rsqrt()
    return degree[:, None] * a * degree


class GCN(nn.Module):
    """[n, 3] or [N, n, 3] with a dense adjacency -> two classes."""

    def __init__(self, depth: int = 2, width: int = 4) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(3 if i == 0 else width, width) for i in range(depth))
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(depth))
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        for linear, act in zip(self.maps, self.acts):
            x = act(linear(a @ x))
        y = self.out(x.sum(-2))
        return y if y.ndim == 2 else y[None]


class GIN(nn.Module):
    """Edges as pairs of nodes; an MLP of two layers in each interaction; functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(i, 6), nn.ReLU(), nn.Linear(6, 4)) for i in (3, 4, 4))
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for mlp in self.mlps:
            gathered = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
            x = torch.relu(mlp(1.5 * x + gathered))
        return self.out(x.mean(0, keepdim=True))


def gcn(depth: int = 2) -> tuple[GCN, Tensor, tuple[str, ...]]:
    torch.manual_seed(1)
    return GCN(depth).double(), torch.rand(SIZE, 3, dtype=F64), tuple(f"acts.{i}" for i in range(depth))


def written(model: GCN, x: Tensor, target: int, gamma: float) -> dict[tuple[int, ...], float]:
    """Every walk, one after the other: R_jK = sum_k lambda_JK h_j w^_jk / (sum lambda h w^ + b^) R_Kk."""
    a, states = adjacency(), [x]
    for linear in model.maps:
        states.append(torch.relu(a @ states[-1] @ linear.weight.T + linear.bias).detach())

    def raised(t: Tensor) -> Tensor:
        return (t + gamma * t.clamp(min=0)).detach()

    def down(r: Tensor, h: Tensor, linear: nn.Linear, node: int) -> Tensor:
        """Relevance [D'] of a node to features of all nodes [n, D]."""
        share = a[node][:, None, None] * h[:, None, :] * raised(linear.weight)  # [n, D', D]
        z = share.sum((0, 2)) + raised(linear.bias)
        return (share * torch.where(z == 0, 0.0, r / z)[None, :, None]).sum(1)

    z = states[-1].sum(0) * raised(model.out.weight)[target]
    y = states[-1].sum(0) @ model.out.weight[target] + model.out.bias[target]
    top = states[-1] * raised(model.out.weight)[target] * (y / (z.sum() + raised(model.out.bias)[target])).detach()
    found = {}
    for walk in itertools.product(range(SIZE), repeat=len(states)):
        r = top[walk[-1]]
        for linear, h, i, j in zip(list(model.maps)[::-1], states[-2::-1], walk[-2::-1], walk[::-1]):
            r = down(r, h, linear, j)[i]
        found[walk] = float(r.sum())
    return found


def composite(gamma: float) -> Any:
    return [(rp.Name("maps.*", "out"), rp.Gamma(gamma, "standard", epsilon=0.0))] if gamma else rp.Zero()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_walk_against_the_formula(depth: int, gamma: float) -> None:
    model, x, layers = gcn(depth)
    before = snapshot(model)
    found = walk_relevance(rp.LRP(model, composite(gamma)), x, adjacency(), layers=layers, target=1)
    assert_same_state(before, snapshot(model))
    expected = written(model, x, 1, gamma)
    values = torch.tensor([found.relevance(walk) for walk in expected], dtype=F64)
    assert_close(values, torch.tensor(list(expected.values()), dtype=F64), 1e-9)
    assert found.total == pytest.approx(sum(expected.values()), abs=1e-10)
    assert abs(found.beside) < 1e-10 and found.audit.balanced
    listed = {w.nodes: w.relevance for w in found.every()}
    assert all(abs(expected[nodes] - value) < 1e-10 for nodes, value in listed.items())
    assert all(abs(v) < 1e-12 for nodes, v in expected.items() if nodes not in listed)


def test_walks_are_conditions_at_every_layer() -> None:
    """GIN: a walk is a mask of one node at each place of the engine."""
    torch.manual_seed(0)
    model, x = GIN().double(), torch.randn(SIZE, 3, dtype=F64)
    lrp = rp.LRP(model, rp.EpsilonPlus())
    layers = ["(model).relu", "(model).relu#1", "(model).relu#2"]
    found = walk_relevance(lrp, x, EDGES, layers=layers, target=0)
    assert found.length == 3 and abs(found.beside) < 1e-10
    for walk in [(0, 1, 1, 2), (4, 3, 2, 1), (2, 2, 2, 2), (0, 1, 3, 3)]:
        masks = {name: Mask(_node(j)) for name, j in zip(layers, walk[1:])}
        e = lrp.explain(x, EDGES, target=0, conditions=masks)
        assert found.relevance(walk) == pytest.approx(e.relevance[walk[0]].sum().item(), abs=1e-10)
    assert found.relevance((0, 4, 4, 4)) == 0  # no edge
    assert_close(found.nodes, lrp.explain(x, EDGES, target=0).relevance.sum(1), 1e-12)


def _node(j: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(j), SIZE).to(F64)[:, None]


def test_a_model_that_takes_batches() -> None:
    model, x, layers = gcn()
    lrp = rp.LRP(model, rp.EpsilonPlus())
    plain = walk_relevance(lrp, x, adjacency(), layers=layers, target=1)
    for batch in (1, 7, 64):
        found = walk_relevance(lrp, x[None], adjacency(), layers=layers, target=1, batch_size=batch)
        assert_close(found.first, plain.first, 1e-10)
        assert_close(found.blocks[0], plain.blocks[0], 1e-10)
        assert_close(found.top, plain.top, 1e-10)


# -- sums and search ---------------------------------------------------------------------------------------------------


@pytest.fixture
def made() -> Walks:
    model, x, layers = gcn(3)
    return walk_relevance(rp.LRP(model, rp.Zero()), x, adjacency(), layers=layers, target=0)


def test_sums_over_walks(made: Walks) -> None:
    listed = list(made.every())
    for nodes in ([1, 2, 3], [0], range(SIZE), [4, 0]):
        inside = sum(w.relevance for w in listed if set(w.nodes) <= set(nodes))
        assert made.subgraph(nodes) == pytest.approx(inside, abs=1e-10)
    steps = torch.zeros(3, SIZE, SIZE, dtype=F64)
    for nodes, value in listed:
        for layer, (i, j) in enumerate(itertools.pairwise(nodes)):
            steps[layer, i, j] += value
    assert_close(made.steps(), steps, 1e-9)
    begins = torch.zeros(SIZE, dtype=F64)
    for nodes, value in listed:
        begins[nodes[0]] += value
    assert_close(made.nodes, begins, 1e-9)


@pytest.mark.parametrize("count", [1, 5, 40, 10_000])
def test_the_search_finds_what_enumeration_finds(made: Walks, count: int) -> None:
    listed = sorted(made.every(), key=lambda w: -abs(w.relevance))
    wanted = [w for w in listed if w.relevance][:count]
    found = made.top_walks(count)
    assert [w.relevance for w in found] == pytest.approx([w.relevance for w in wanted], abs=1e-12)
    assert {w.nodes for w in found[:5]} == {w.nodes for w in wanted[:5]}
    beam = made.top_walks(count, method="beam", width=len(listed))
    assert [abs(w.relevance) for w in beam] == pytest.approx([abs(w.relevance) for w in wanted][: len(beam)], abs=1e-12)


def test_the_search_looks_at_few(made: Walks) -> None:
    """Of 5 + 19 + ... beginnings the bound leaves most aside: with a limit below their number it ends all the same."""
    beginnings = SIZE + int((made._open()[2]).sum()) + sum(1 for _ in made.every()) // 3
    assert made.top_walks(3, most=beginnings // 2) == made.top_walks(3)
    with pytest.raises(rp.InputError, match='looked at 2 beginnings and found 0 of 3.*method="beam"'):
        made.top_walks(3, most=2)
    narrow = made.top_walks(3, method="beam", width=3)
    assert len(narrow) == 3 and abs(narrow[0].relevance) <= abs(made.top_walks(1)[0].relevance)


def test_too_many_to_list() -> None:
    layers = tuple(f"acts.{i}" for i in range(9))
    torch.manual_seed(0)
    model = GCN(9).double()
    with torch.no_grad():
        for linear in model.maps:
            linear.weight.abs_()
            linear.bias.zero_()
        model.out.bias.zero_()
    found = walk_relevance(rp.LRP(model, rp.ZPlus()), torch.rand(SIZE, 3, dtype=F64), adjacency(), layers=layers,
                           target=0)  # fmt: skip
    with pytest.raises(rp.InputError, match=r"there are [\d,]+ walks: ask for the strongest"):
        list(found.every())
    assert len(found.top_walks(5)) == 5
    assert found.subgraph(range(SIZE)) == pytest.approx(float(found.nodes.sum()), abs=1e-9)


def test_what_goes_around_is_said() -> None:
    class Skipping(GCN):
        def forward(self, x: Tensor, a: Tensor) -> Tensor:
            one = self.acts[0](self.maps[0](a @ x))
            two = self.acts[1](self.maps[1](a @ one))
            return self.out((one + two).sum(-2))[None]

    torch.manual_seed(1)
    model, x = Skipping().double(), torch.rand(SIZE, 3, dtype=F64)
    lrp = rp.LRP(model, rp.Zero())
    found = walk_relevance(lrp, x, adjacency(), layers=["acts.0", "acts.1"], target=0)
    through = lrp.explain(x, adjacency(), target=0, conditions={"acts.1": Mask(torch.ones(1))}, wrt=0)
    assert found.beside != 0
    held = walk_relevance(lrp, x, adjacency(), layers=["acts.0"], target=0)
    assert abs(held.beside) < 1e-10
    assert found.total != pytest.approx(held.total) and through.audit.balanced


# -- pictures and bad input --------------------------------------------------------------------------------------------


def test_pictures(made: Walks, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    made.save(tmp_path / "walks.png", EDGES, count=6, labels="abcde", title="walks")
    assert (tmp_path / "walks.png").stat().st_size > 5000
    figure = made.picture(count=4)
    axes = figure.axes[0]
    curves = list(axes.patches)
    assert len(curves) == 4 and "the strongest 4 walks" in axes.get_xlabel()
    strongest = made.top_walks(1)[0]
    widest = max(curves, key=lambda c: c.get_linewidth())
    at = {t.get_text(): t.get_position() for t in axes.texts}
    begin = tuple(widest.get_path().vertices[0])
    assert begin == pytest.approx(at[str(strongest.nodes[0])])
    assert tuple(widest.get_path().vertices[-1]) == pytest.approx(at[str(strongest.nodes[-1])])
    assert (widest.get_edgecolor()[0] > widest.get_edgecolor()[2]) == (strongest.relevance > 0)


def test_bad_input(made: Walks) -> None:
    from relprop.render.walks import graph

    model, x, layers = gcn()
    lrp = rp.LRP(model, rp.Zero())
    for given, options, message in [
        (x, {"layers": ()}, "layers is empty"),
        (x, {"layers": ["act.0"]}, "named 'act.0'; nearest names: "),
        (x, {"layers": ["out"]}, r"'out' holds \(2,\), not features of 5 nodes"),
        (x, {"layers": ["acts.*"]}, "'acts.\\*' is no single place"),
        (x[0], {"layers": layers}, r"\[n, F\] or \[1, n, F\], got torch.float64 of shape \(3,\)"),
        (EDGES, {"layers": layers}, "must be floating"),
    ]:
        with pytest.raises(rp.InputError, match=message):
            walk_relevance(lrp, given, adjacency(), target=0, **options)
    large, each = torch.zeros(9000, 3, dtype=F64), torch.arange(9000)
    alone = torch.sparse_coo_tensor(torch.stack([each, each]), torch.ones(9000, dtype=F64), check_invariants=True)
    with pytest.raises(rp.InputError, match=r"9000 nodes of up to 4 features would take \d+ GiB \(at most 4\)"):
        walk_relevance(lrp, large, alone, layers=layers, target=0)
    with pytest.raises(rp.InputError, match="a walk visits 4 nodes"):
        made.relevance((0, 1))
    with pytest.raises(rp.InputError, match="node 9 is not there: the graph has 5 nodes"):
        made.relevance((0, 1, 1, 9))
    with pytest.raises(rp.InputError, match="node -1 is not there"):
        made.subgraph([-1])
    with pytest.raises(rp.InputError, match="method must be"):
        made.top_walks(method="greedy")  # type: ignore[arg-type]
    with pytest.raises(rp.InputError, match="count and width"):
        made.top_walks(0)
    with pytest.raises(rp.InputError, match="joins a node that is not there"):
        graph(2, torch.tensor([[0], [2]]), [], [])
    with pytest.raises(rp.InputError, match="a point for each node"):
        graph(2, torch.tensor([[0], [1]]), [], [], positions=torch.zeros(3, 2))
