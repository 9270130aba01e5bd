"""Walks drawn on their graph: a curve through the nodes that each walk visits.

Red walks speak for the output, blue ones against it; width and opacity are strength. A step that stays at its node is
a loop. A ring marks a node where a walk begins, at the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.extras import require
from relprop.render.figure import bare, new_figure
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.scale import as_array

Array = npt.NDArray[np.float64]
_BEND = 0.045  # how far parallel walks lie apart, as a share of the graph's size
_LOOP = 0.075


def graph(
    size: int,
    edges: Any,
    walks: Sequence[Sequence[int]],
    relevance: Sequence[float],
    *,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    positions: Any = None,
    total: float | None = None,
    title: str = "",
    colours: str | Palette = DEFAULT,
) -> Any:
    """Draw walks on a graph.

    Args:
        size: how many nodes.
        edges: [2, E] pairs of nodes; the direction and loops do not show.
        walks: the nodes that each walk visits.
        relevance: of each walk.
        labels: of the nodes; by default their numbers.
        positions: [nodes, 2]; by default a spring layout, the same for the same graph.
        total: the relevance of all walks together, for the caption.
        title: above it.

    Returns:
        A matplotlib Figure.

    Raises:
        InputError: for nodes that are not there, or positions and labels that do not fit.
    """
    pairs = _edges(edges, size)
    if len(walks) != len(relevance):
        raise InputError(f"{len(walks)} walks, but {len(relevance)} values")
    if any(not 0 <= j < size for walk in walks for j in walk):
        raise InputError(f"a walk visits a node that is not there: the graph has {size} nodes")
    at = _positions(pairs, size, positions)
    names = [str(i) for i in range(size)] if labels is None else [str(labels[i]) for i in range(size)]
    tall = float(np.clip(np.ptp(at[:, 1]), 0.35, 1.0))  # the other side, or the same, has length one
    wide = float(np.clip(np.ptp(at[:, 0]), 0.7, 1.0))
    figure = new_figure(5.6 * wide + 0.4, 5.2 * tall + 0.8)
    axes = figure.add_subplot()
    for i, j in pairs:
        axes.plot(*at[[i, j]].T, color="#cccccc", linewidth=1.2, zorder=1, solid_capstyle="round")
    crowd = float(np.clip(14 / np.sqrt(size), 1.6, 5.0))
    _draw(axes, walks, np.asarray(relevance, dtype=np.float64), at, colours, 22 * crowd**2)
    axes.scatter(*at.T, s=22 * crowd**2, color="white", edgecolors="#555555", linewidths=0.9, zorder=4)
    for (x, y), name in zip(at, names, strict=True):
        axes.text(x, y, name, fontsize=1.7 * crowd, ha="center", va="center", zorder=5, parse_math=False)
    axes.set_aspect("equal")
    axes.margins(0.12)
    bare(axes)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_xlabel(_caption(relevance, total), fontsize=7, color="#444444", parse_math=False)
    return figure


def _caption(relevance: Sequence[float], total: float | None) -> str:
    if not len(relevance):
        return "no walk carries relevance"
    text = f"the strongest {len(relevance)} walks, together {sum(relevance):+.3g}"
    return text if total is None else f"{text}; all walks {total:+.3g}"


def _edges(edges: Any, size: int) -> list[tuple[int, int]]:
    array = as_array(edges, "edges") if len(edges) else np.zeros((2, 0))
    if array.ndim != 2 or array.shape[0] != 2:
        raise InputError(f"edges are [2, E], pairs of nodes; got shape {array.shape}")
    if array.size and not (0 <= array.min() and array.max() < size):
        raise InputError(f"an edge joins a node that is not there: the graph has {size} nodes")
    return sorted({(int(min(i, j)), int(max(i, j))) for i, j in array.T if i != j})


def _positions(pairs: Sequence[tuple[int, int]], size: int, positions: Any) -> Array:
    """[nodes, 2], in a square of side one."""
    if positions is None:
        networkx = require("networkx", "render", "laying out a graph")
        made = networkx.Graph()
        made.add_nodes_from(range(size))
        made.add_edges_from(pairs)
        found = networkx.spring_layout(made, seed=7, iterations=300)
        positions = [found[i] for i in range(size)]
    at = np.asarray(as_array(positions, "positions"), dtype=np.float64)
    if at.shape != (size, 2):
        raise InputError(f"positions are [{size}, 2], a point for each node; got shape {at.shape}")
    span = float(np.ptp(at, axis=0).max()) or 1.0
    return (at - at.mean(0)) / span


def _draw(
    axes: Any, walks: Sequence[Sequence[int]], relevance: Array, at: Array, colours: str | Palette, disc: float
) -> None:
    if not len(walks):
        return
    begins: dict[int, Any] = {}  # by node, the strongest walk that begins there
    patches = require("matplotlib.patches", "render", "drawing walks")
    paths = require("matplotlib.path", "render", "drawing walks")
    strongest = np.abs(relevance).max() or 1.0
    red_blue = palette(colours)(np.array([-0.75, 0.75])) / 255
    for k in reversed(range(len(walks))):  # the strongest on top
        share = abs(relevance[k]) / strongest
        tint = tuple(red_blue[int(relevance[k] > 0)])
        vertices, codes = _curve(paths.Path, [int(j) for j in walks[k]], at, k)
        style = {"edgecolor": tint, "alpha": 0.15 + 0.75 * share, "linewidth": 0.6 + 2.6 * share}
        axes.add_patch(patches.PathPatch(paths.Path(vertices, codes), facecolor="none", zorder=2 + share, **style))
        begins[int(walks[k][0])] = (tint, share)
    for j, (tint, share) in begins.items():
        axes.scatter(*at[j], s=1.5 * disc, facecolors="none", edgecolors=[tint], alpha=0.15 + 0.75 * share,
                     linewidths=1.4, zorder=3)  # fmt: skip


def _curve(path: Any, walk: Sequence[int], at: Array, k: int) -> tuple[list[Any], list[int]]:
    """A line through the nodes: steps are bent, more the later a walk comes, and staying is a loop."""
    vertices, codes = [tuple(at[walk[0]])], [path.MOVETO]
    middle = at.mean(0)
    for step, (i, j) in enumerate(itertools.pairwise(walk)):
        start, end = at[i], at[j]
        if i == j:
            away = start - middle
            angle = (np.arctan2(away[1], away[0]) if away.any() else 0.0) + 0.35 * ((k + step) % 5 - 2)
            reach = _LOOP * (1.6 + 0.35 * (k % 4))
            for turn in (-0.55, 0.55):
                vertices.append(tuple(start + reach * np.array([np.cos(angle + turn), np.sin(angle + turn)])))
            vertices.append(tuple(end))
            codes += [path.CURVE4] * 3
            continue
        along = end - start
        across = np.array([-along[1], along[0]]) / (np.hypot(*along) or 1.0)
        bend = _BEND * (((k + 1) // 2) % 4 * (-1) ** k + 0.5 * step)
        vertices += [tuple((start + end) / 2 + bend * across), tuple(end)]
        codes += [path.CURVE3] * 2
    return vertices, codes
