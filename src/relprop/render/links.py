"""Links between the parts of two inputs: two photographs with lines between them, two texts with lines between them.

Red links raise the similarity, blue ones lower it; the strongest are drawn, on top of the weaker, and the caption says
how many they are and how much they carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.extras import require
from relprop.render.figure import bare, new_figure
from relprop.render.heatmap import as_photo
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.scale import as_array

Array = npt.NDArray[np.float64]
_GAP = 0.28  # between two photographs, as a share of the first one's width
_LONGEST = 22  # signs of a word
_MOST_WORDS = 60


def strongest(matrix: Any, count: int) -> tuple[Array, list[tuple[int, int]], str]:
    """The matrix, its strongest entries (the weakest of them first, to be drawn first) and what to say of them."""
    values = as_array(matrix, "links")
    if values.ndim != 2 or not values.size:
        raise InputError(f"links are [I, J], parts of the first input by parts of the second; got {values.shape}")
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    flat = np.abs(values).ravel()
    order = np.argsort(-flat, kind="stable")[:count]
    order = order[flat[order] > 0][::-1]
    places = [(int(k // values.shape[1]), int(k % values.shape[1])) for k in order]
    if not places:
        return values, [], "no links: every value is zero"
    share = flat[order].sum() / flat.sum()
    shown = f"the strongest {len(places)} of {flat.size:,} links" if len(places) < flat.size else "all links"
    return values, places, f"{shown}, {share:.0%} of the absolute relevance; the strongest {flat.max():.2g}"


def photos(
    matrix: Any,
    grids: Sequence[Sequence[int]],
    first: Any,
    second: Any,
    *,
    count: int = 60,
    score: float | None = None,
    title: str = "",
    colours: str | Palette = DEFAULT,
) -> Any:
    """Two photographs beside each other, with the strongest links between their patches.

    Args:
        matrix: [I, J], patches of the first by patches of the second, row by row.
        grids: (rows, columns) of patches of each.
        first, second: [H, W, 3] or [3, H, W], as they looked.
        count: how many links.
        score: the similarity, said in the title.
        title: above it.

    Returns:
        A matplotlib Figure.
    """
    values, places, said = strongest(matrix, count)
    grounds = [as_photo(first), as_photo(second)]
    for grid, size in zip(grids, values.shape, strict=True):
        if len(grid) != 2 or grid[0] * grid[1] != size:
            raise InputError(f"a grid of {tuple(grid)} patches does not hold the {size} parts of the matrix")
    height, width = grounds[0].shape[:2]
    other = grounds[1].shape[:2]
    gap = round(width * _GAP)
    wide, tall = width + gap + other[1], max(height, other[0])
    figure = new_figure(7.5, 7.5 * tall / wide + 0.75)
    axes = figure.add_subplot()
    offsets = [0, width + gap]
    for ground, left in zip(grounds, offsets, strict=True):
        grey = ground.astype(np.float64).mean(-1, keepdims=True)
        pale = (0.45 * ground + 0.25 * grey + 0.3 * 255).astype(np.uint8)  # so that the lines stand out
        axes.imshow(pale, extent=(left, left + ground.shape[1], ground.shape[0], 0), interpolation="nearest")
    axes.set_xlim(0, wide)
    axes.set_ylim(tall, 0)
    centres = [_centres(g, p.shape, left) for g, p, left in zip(grids, grounds, offsets, strict=True)]
    _draw(axes, values, places, centres, colours)
    bare(axes)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_heading(title, score), fontsize=9, parse_math=False)
    axes.set_xlabel(said, fontsize=7, color="#444444", parse_math=False)
    return figure


def _centres(grid: Sequence[int], shape: Sequence[int], left: float) -> Array:
    """Where the patches lie, [I, 2]."""
    rows = (np.arange(grid[0]) + 0.5) * shape[0] / grid[0]
    columns = (np.arange(grid[1]) + 0.5) * shape[1] / grid[1]
    return np.array([(left + c, r) for r in rows for c in columns])


def words(
    matrix: Any,
    first: Sequence[str],
    second: Sequence[str],
    *,
    count: int = 20,
    score: float | None = None,
    title: str = "",
    colours: str | Palette = DEFAULT,
) -> Any:
    """Two texts, one above the other, with the strongest links between their words.

    Args:
        matrix: [I, J], words of the first by words of the second.
        first, second: the words.
        count: how many links.
        score: the similarity, said in the title.
        title: above it.

    Returns:
        A matplotlib Figure.

    Raises:
        InputError: for more than 60 words in a text: the links of so many cannot be told apart.
    """
    values, places, said = strongest(matrix, count)
    if values.shape != (len(first), len(second)):
        raise InputError(f"the links are {values.shape}, but there are {len(first)} and {len(second)} words")
    if max(values.shape) > _MOST_WORDS:
        raise InputError(f"links are drawn between up to {_MOST_WORDS} words, got {max(values.shape)}")
    shown = [[_shortened(w) for w in text] for text in (first, second)]
    long = max(map(len, shown))
    figure = new_figure(min(max(5.0, 0.62 * long + 1.0), 14.0), 3.4 if long > 12 else 2.6)
    axes = figure.add_subplot()
    axes.set_xlim(-0.5, long - 0.5)
    room = 0.42 if long > 12 else 0.16  # for words that stand aslant
    axes.set_ylim(-room, 1 + room)
    centres = []
    aslant = long > 12
    for text, at, way in zip(shown, (1.0, 0.0), ("bottom", "top"), strict=True):
        across = (np.arange(len(text)) + 0.5) * long / len(text) - 0.5
        centres.append(np.stack([across, np.full(len(text), at)], -1))
        side = ("left" if at else "right") if aslant else "center"
        for x, word in zip(across, text, strict=True):
            axes.text(
                x, at + (0.03 if at else -0.03), word, fontsize=8 if long < 20 else 7, ha=side, va=way,
                rotation=38 if aslant else 0, rotation_mode="anchor", parse_math=False,
            )  # fmt: skip
    _draw(axes, values, places, centres, colours)
    axes.set_axis_off()
    axes.set_title(_heading(title, score), fontsize=9, parse_math=False)
    axes.text(0.5, -0.02, said, fontsize=7, color="#444444", ha="center", va="top", transform=axes.transAxes)
    return figure


def _draw(axes: Any, values: Array, places: list[tuple[int, int]], centres: list[Array], colours: Any) -> None:
    """Lines from part to part: hue by sign, width and opacity by strength."""
    if not places:
        return
    collections = require("matplotlib.collections", "render", "drawing links")
    ends = np.array([[centres[0][i], centres[1][j]] for i, j in places])
    strength = np.array([values[i, j] for i, j in places])
    share = strength / np.abs(values).max()
    red_blue = palette(colours)(np.array([-0.75, 0.75])) / 255
    tint = np.where(share[:, None] > 0, red_blue[1], red_blue[0])
    alpha = 0.1 + 0.7 * share**2
    lines = collections.LineCollection(
        list(ends), colors=np.concatenate([tint, alpha[:, None]], 1), linewidths=0.4 + 1.8 * np.abs(share),
        capstyle="round",
    )  # fmt: skip
    axes.add_collection(lines)
    points = ends.reshape(-1, 2)
    axes.scatter(points[:, 0], points[:, 1], s=3, color=np.repeat(tint, 2, 0), zorder=3, linewidths=0)


def _heading(title: str, score: float | None) -> str:
    return " · ".join(part for part in (title, "" if score is None else f"similarity {score:.4g}") if part)


def _shortened(word: str) -> str:
    return word if len(word) <= _LONGEST else word[: _LONGEST - 1] + "…"
