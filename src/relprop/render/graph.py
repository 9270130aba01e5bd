"""A graph of relevance between layers: units in columns, and the strongest paths from the output down.

A graph is plain data. Nodes are tuples (layer, unit, relevance); edges are tuples (source, target, relevance), where
source and target are pairs (layer, unit) and the source's layer is the nearer one to the output. Layers, units and
their order are the caller's: columns stand in the order in which layers first occur among the nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from relprop.errors import InputError
from relprop.render.figure import bare, colour_bar, new_figure, write
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.row import shorten
from relprop.render.scale import as_array, check_count, find_scale

Key = tuple[Hashable, Hashable]
Node = tuple[Hashable, Hashable, float]
Edge = tuple[Key, Key, float]
Path = tuple[float, tuple[Key, ...]]
_LABEL = 18


def strongest_paths(edges: Iterable[Edge], count: int = 10) -> list[Path]:
    """The paths that carry most, the strongest first: (strength, units from the top to the bottom).

    From a unit, relevance goes down its edges in shares of their absolute amounts; a path's strength is the absolute
    amount that leaves its first unit times the shares along it. Paths run from units that no edge enters to units
    that none leaves. Found by dynamic programming, exactly; equally strong ones in the order of the edges.

    Raises:
        InputError: for edges in a circle, or an amount that is not finite.
    """
    check_count(count, "count")
    onward = _outgoing(list(edges))
    best: dict[Key, list[Path]] = {}
    for unit in reversed(_sorted_down(onward)):
        leaving = onward.get(unit, [])
        total = sum(abs(amount) for _, amount in leaving)
        tails = [
            (abs(amount) / total * share, (unit, *tail))
            for target, amount in leaving
            if total
            for share, tail in best[target]
        ]
        best[unit] = sorted(tails, key=lambda path: -path[0])[:count] or [(1.0, (unit,))]
    entered = {target for leaving in onward.values() for target, _ in leaving}
    found = []
    for unit in onward:
        if unit not in entered and onward[unit]:
            amount = sum(abs(a) for _, a in onward[unit])
            found += [(amount * share, path) for share, path in best[unit] if len(path) > 1]
    return sorted(found, key=lambda path: -path[0])[:count]


def graph(
    nodes: Sequence[Node],
    edges: Sequence[Edge],
    *,
    paths: int = 10,
    count: int = 8,
    titles: Sequence[str] | None = None,
    title: str = "",
    colours: str | Palette = DEFAULT,
) -> Any:
    """Units in columns, one a layer, with the edges between them: width and colour are relevance.

    The edges of the strongest paths are drawn in full, the others faintly. The layout is by strength alone, so the
    same graph always gives the same picture.

    Args:
        nodes: (layer, unit, relevance).
        edges: ((layer, unit), (layer, unit), relevance), from nearer the output to farther from it.
        paths: how many to bring out (see `strongest_paths`).
        count: units drawn of each layer: those on the strongest paths first, then the strongest ones. Of more, it is
            said how many.
        titles: of the columns; by default the layers' names.
        colours: see `heatmap`.

    Returns:
        A matplotlib Figure.

    Raises:
        InputError: for no nodes, one that is there twice, an edge between units that are no nodes, within a layer
            or against the columns' order, or relevance that is not finite.
    """
    nodes, edges = [_three(node, "a node") for node in nodes], [_three(edge, "an edge") for edge in edges]
    columns = _columns(nodes)
    relevance = {(layer, unit): float(amount) for layer, unit, amount in nodes}
    _check_edges(edges, relevance, list(columns))
    check_count(count, "count")
    found = strongest_paths(edges, paths) if edges else []
    on_path = {unit: i for i, (_, path) in reversed(list(enumerate(found))) for unit in path}
    places, notes = _place(columns, relevance, on_path, count)
    bold = {pair for _, path in found for pair in itertools.pairwise(path)}
    heads = [str(layer) for layer in columns] if titles is None else list(titles)
    if len(heads) != len(columns):
        raise InputError(f"{len(columns)} layers, but {len(heads)} titles")

    tallest = max(len([p for p in places.values() if p[0] == i]) for i in range(len(columns)))
    figure = new_figure(max(1.6 + 1.75 * len(columns), 4.0), 1.1 + 0.52 * max(tallest, 2))
    axis = figure.subplots()
    scale = find_scale(as_array([relevance[unit] for unit in places], "relevance of the nodes"))
    widest = max((abs(a) for s, t, a in edges if s in places and t in places), default=0.0)
    drawn = sorted((edge for edge in edges if edge[0] in places and edge[1] in places), key=lambda e: abs(e[2]))
    for source, target, amount in sorted(drawn, key=lambda e: (e[0], e[1]) in bold):
        _edge(axis, places[source], places[target], amount, widest, (source, target) in bold, colours)
    for unit, place in places.items():
        _unit(axis, place, shorten(str(unit[1]), _LABEL), relevance[unit], scale.limit, colours)
    for i, (head, note) in enumerate(zip(heads, notes, strict=True)):
        axis.text(i, 0.62, shorten(head, 24), ha="center", va="bottom", fontsize=8, parse_math=False)
        axis.text(i, -tallest + 0.42, note, ha="center", va="top", fontsize=6, color="#444444")
    axis.set_xlim(-0.55, len(columns) - 0.45)
    axis.set_ylim(-tallest + 0.1, 1.0)
    bare(axis)
    for spine in axis.spines.values():
        spine.set_visible(False)
    shown = f"the {len(found)} strongest paths drawn in full" if found else "no edges"
    write(axis, title, "no relevance: every value is zero" if scale.empty else shown)
    colour_bar(figure, axis, scale, colours, "relevance")
    return figure


# -- data --------------------------------------------------------------------------------------------------------------


def _three(item: Any, what: str) -> Any:
    if not isinstance(item, tuple) or len(item) != 3:
        wanted = "(layer, unit, relevance)" if what == "a node" else "((layer, unit), (layer, unit), relevance)"
        raise InputError(f"{what} is {wanted}, got {item!r}")
    return item


def _columns(nodes: Sequence[Node]) -> dict[Hashable, list[Key]]:
    columns: dict[Hashable, list[Key]] = {}
    seen: set[Key] = set()
    for layer, unit, _ in nodes:
        if (layer, unit) in seen:
            raise InputError(f"unit {unit!r} of layer {layer!r} is there twice")
        seen.add((layer, unit))
        columns.setdefault(layer, []).append((layer, unit))
    if not columns:
        raise InputError("there are no nodes to draw")
    as_array([amount for _, _, amount in nodes], "relevance of the nodes")
    return columns


def _check_edges(edges: Sequence[Edge], known: Iterable[Key], layers: Sequence[Hashable]) -> None:
    known = set(known)
    order = {layer: i for i, layer in enumerate(layers)}
    for source, target, _ in edges:
        for unit in (source, target):
            if unit not in known:
                raise InputError(f"an edge goes between {source!r} and {target!r}, but {unit!r} is no node")
        if order[source[0]] >= order[target[0]]:
            raise InputError(
                f"an edge goes from layer {source[0]!r} to {target[0]!r}: edges go from left to right, in the order in "
                f"which the layers stand among the nodes ({', '.join(map(str, layers))})"
            )


def _outgoing(edges: Sequence[Edge]) -> dict[Key, list[tuple[Key, float]]]:
    onward: dict[Key, list[tuple[Key, float]]] = {}
    for source, target, amount in edges:
        if not np.isfinite(amount):
            raise InputError(f"the edge from {source!r} to {target!r} carries {amount}")
        onward.setdefault(source, []).append((target, float(amount)))
        onward.setdefault(target, [])
    return onward


def _sorted_down(onward: dict[Key, list[tuple[Key, float]]]) -> list[Key]:
    """Every unit before those it leads to. [Kahn 1962]"""
    entering = dict.fromkeys(onward, 0)
    for leaving in onward.values():
        for target, _ in leaving:
            entering[target] += 1
    ready = [unit for unit, count in entering.items() if not count]
    order = []
    while ready:
        unit = ready.pop(0)
        order.append(unit)
        for target, _ in onward[unit]:
            entering[target] -= 1
            if not entering[target]:
                ready.append(target)
    if len(order) < len(onward):
        raise InputError("the edges lead in a circle: paths go from the output down")
    return order


def _place(
    columns: dict[Hashable, list[Key]], relevance: dict[Key, float], on_path: dict[Key, int], count: int
) -> tuple[dict[Key, tuple[int, float]], list[str]]:
    """Column and height of every unit that is drawn: those of the strongest path on top."""
    places: dict[Key, tuple[int, float]] = {}
    notes = []
    for i, units in enumerate(columns.values()):
        order = sorted(units, key=lambda unit: (on_path.get(unit, len(on_path)), -abs(relevance[unit])))
        for j, unit in enumerate(order[:count]):
            places[unit] = (i, -float(j))
        notes.append(f"{count} of {len(units)}" if len(units) > count else "")
    return places, notes


# -- drawing -----------------------------------------------------------------------------------------------------------


def _edge(
    axis: Any,
    start: tuple[int, float],
    stop: tuple[int, float],
    amount: float,
    widest: float,
    bold: bool,
    colours: str | Palette,
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    colour = palette(colours)(np.array([-0.8, 0.8]))[int(amount >= 0)] / 255
    (x0, y0), (x1, y1) = (start[0] + 0.3, start[1]), (stop[0] - 0.3, stop[1])
    middle = (x0 + x1) / 2
    curve = Curve(
        [(x0, y0), (middle, y0), (middle, y1), (x1, y1)], [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    )
    width = 0.4 + 5.0 * abs(amount) / (widest or 1.0)
    axis.add_patch(
        PathPatch(
            curve, facecolor="none", edgecolor=tuple(colour), linewidth=width, alpha=0.85 if bold else 0.22,
            capstyle="butt", zorder=2 if bold else 1,
        )
    )  # fmt: skip


def _unit(axis: Any, place: tuple[int, float], text: str, amount: float, limit: float, colours: str | Palette) -> None:
    from matplotlib.patches import FancyBboxPatch

    strength = amount / limit if limit else 0.0
    ground = palette(colours)(np.array(strength)) / 255
    x, y = place
    box = FancyBboxPatch(
        (x - 0.28, y - 0.26), 0.56, 0.52, boxstyle="round,pad=0.02,rounding_size=0.06", facecolor=tuple(ground),
        edgecolor="#666666", linewidth=0.6, zorder=3,
    )  # fmt: skip
    axis.add_patch(box)
    ink = "white" if abs(strength) > 0.6 else "black"
    axis.text(x, y + 0.09, text, ha="center", va="center", fontsize=6.5, color=ink, zorder=4, parse_math=False)
    axis.text(x, y - 0.13, f"{amount:+.3g}", ha="center", va="center", fontsize=5.5, color=ink, zorder=4)
