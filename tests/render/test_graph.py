"""Graphs between layers: the strongest paths against all paths, the layout, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from relprop.errors import InputError
from relprop.render import graph, pixels, strongest_paths
from tests.render.test_figure import texts


def layered(sizes: tuple[int, ...], seed: int = 0) -> tuple[list[Any], list[Any]]:
    """A graph with random edges between neighbouring layers, some left out."""
    rng = np.random.default_rng(seed)
    nodes = [(f"L{k}", i, float(rng.normal())) for k, size in enumerate(sizes) for i in range(size)]
    edges = [
        ((f"L{k}", i), (f"L{k + 1}", j), float(rng.normal()))
        for k in range(len(sizes) - 1)
        for i, j in itertools.product(range(sizes[k]), range(sizes[k + 1]))
        if rng.random() < 0.7
    ]
    return nodes, edges


def all_paths(edges: list[Any]) -> list[tuple[float, tuple[Any, ...]]]:
    """Every path from a unit that is not entered to one that is not left, by recursion."""
    sources = {s for s, _, _ in edges} - {t for _, t, _ in edges}

    def walk(unit: Any, strength: float, path: tuple[Any, ...]) -> Any:
        leaving = [(t, abs(a)) for s, t, a in edges if s == unit]
        if not leaving:
            yield strength, path
        for target, amount in leaving:
            share = amount / sum(a for _, a in leaving)
            yield from walk(target, strength * share, (*path, target))

    for source in sources:
        amount = sum(abs(a) for s, _, a in edges if s == source)
        yield from walk(source, amount, (source,))


@pytest.mark.parametrize("seed", range(5))
def test_the_strongest_paths_are_those_of_all_paths(seed: int) -> None:
    _, edges = layered((2, 4, 5, 3), seed)
    wanted = sorted(all_paths(edges), key=lambda path: -path[0])
    found = strongest_paths(edges, 12)
    np.testing.assert_allclose([s for s, _ in found], [s for s, _ in wanted[:12]], rtol=1e-12)
    assert {p for _, p in found} == {p for _, p in wanted[:12]}
    everything = strongest_paths(edges, 10_000)
    assert len(everything) == len(wanted)
    top = {s for s, _, _ in edges} - {t for _, t, _ in edges}
    leaving = sum(abs(a) for s, _, a in edges if s in top)
    np.testing.assert_allclose(sum(s for s, _ in everything), leaving, rtol=1e-12)  # paths share it all out


def test_edges_may_skip_a_layer_and_carry_nothing() -> None:
    edges = [(("a", 0), ("b", 0), 1.0), (("a", 0), ("c", 0), -3.0), (("b", 0), ("c", 0), 0.0)]
    assert strongest_paths(edges, 5) == [(3.0, (("a", 0), ("c", 0))), (1.0, (("a", 0), ("b", 0)))]


def test_a_graph_has_its_units_in_columns() -> None:
    nodes, edges = layered((1, 12, 3))
    figure = graph(nodes, edges, paths=4, count=5, title="$graph$")
    written = texts(figure).split("\n")
    assert {"L0", "L1", "L2", "5 of 12", "the 4 strongest paths drawn in full", "$graph$"} <= set(written)
    boxes = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_boxstyle")]
    assert len(boxes) == 1 + 5 + 3
    strongest = strongest_paths(edges, 1)[0][1]
    on_top = {t.get_text() for t in figure.axes[0].texts if abs(t.get_position()[1] - 0.09) < 1e-9}
    assert on_top == {str(unit) for _, unit in strongest}
    np.testing.assert_array_equal(pixels(figure), pixels(graph(nodes, edges, paths=4, count=5, title="$graph$")))


def test_graphs_without_edges_and_without_relevance_are_drawn() -> None:
    assert "no edges" in texts(graph([("a", "x", 1.0), ("b", "y", -2.0)], []))
    empty = graph([("a", "x", 0.0), ("b", "y", 0.0)], [(("a", "x"), ("b", "y"), 0.0)])
    assert "every value is zero" in texts(empty)
    pixels(empty)
    long = graph([("layer" * 50, "unit" * 50, 1.0)], [])
    long.draw_without_rendering()
    assert "unitunitunitunitu…" in texts(long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graph([], []), "no nodes"),
        (lambda: graph([("a", 1)], []), r"a node is \(layer, unit, relevance\), got \('a', 1\)"),
        (lambda: graph([("a", 0, 1.0)], [(("a", 0), 1.0)]), "an edge is"),
        (lambda: graph([("a", 0, 1.0), ("a", 0, 2.0)], []), "unit 0 of layer 'a' is there twice"),
        (lambda: graph([("a", 0, np.nan)], []), "1 NaN"),
        (lambda: graph([("a", 0, 1.0)], [(("a", 0), ("b", 1), 1.0)]), r"\('b', 1\) is no node"),
        (lambda: graph([("a", 0, 1.0), ("b", 0, 1.0)], [(("b", 0), ("a", 0), 1.0)]), "from layer 'b' to 'a'"),
        (lambda: graph([("a", 0, 1.0), ("b", 0, 1.0)], [(("a", 0), ("b", 0), np.inf)]), "carries inf"),
        (lambda: graph([("a", 0, 1.0)], [], count=0), "count must be"),
        (lambda: graph([("a", 0, 1.0), ("b", 0, 1.0)], [(("a", 0), ("b", 0), 1.0)], paths=0), "count must be"),
        (lambda: graph([("a", 0, 1.0)], [], titles=["x", "y"]), "1 layers, but 2 titles"),
        (lambda: strongest_paths([(("a", 0), ("b", 0), 1.0), (("b", 0), ("a", 0), 1.0)]), "circle"),
    ],
)
def test_bad_graphs(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
