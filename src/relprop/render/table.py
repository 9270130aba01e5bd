"""Relevance of many rows of a table: a beeswarm, or a table of colours.

Features are ordered by their mean strength, and what is not shown is summed up in one, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.extras import require
from relprop.render.figure import PERCENTILE, colour_bar, new_figure, write
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.row import (
    GREY,
    by_strength,
    labels_of,
    lines,
    on_cpu,
    shorten,
    signed_colours,
    tick_texts,
    value_text,
)
from relprop.render.scale import as_array, find_scale
from relprop.render.text import visible

Array = npt.NDArray[np.float64]
Order = Literal["given", "sum", "similar"]
ORDERS: tuple[str, ...] = ("given", "sum", "similar")
_MOST_ROWS = 400  # of a table of colours; more would be thinner than a pixel
_WRITTEN = 120  # cells up to which a table of colours has its numbers written in
_MISSING = "#b0b0b0"


def beeswarm(
    relevance: Any,
    names: Sequence[str] | None = None,
    values: Any = None,
    *,
    count: int = 15,
    title: str = "",
    value_colours: str | Palette = "viridis",
) -> Any:
    """The relevance of each feature over many rows: a point a row, coloured by the feature's value.

    Points that would lie on each other are put above and below in turns, in the rows' order, so the same table
    always gives the same picture.

    Args:
        relevance: [N, F].
        names: one for each feature.
        values: [N, F], the features themselves. Each feature's colours run from its 5th to its 95th percentile; what
            is missing (NaN) is grey. Without it all points are grey.
        count: features at most, by mean absolute relevance; the others are summed up row by row, in grey.
        value_colours: from low to high values, another palette than relevance's, for it means another thing.

    Returns:
        A matplotlib Figure.
    """
    table, labels = _many_rows(relevance, names)
    given = _features(values, table)
    kept, rest = by_strength(table, count)
    columns = [(labels[j], table[:, j], None if given is None else given[:, j]) for j in kept]
    if rest.size:
        columns.append((f"{rest.size} others together", table[:, rest].sum(1), None))
    figure, axis = lines([label for label, _, _ in columns], line=0.34)
    span = max(float(np.abs(column).max()) for _, column, _ in columns)
    size = float(np.clip(90 / np.sqrt(len(table)), 3, 22))
    for place, (_, column, feature) in enumerate(columns):
        offsets = _swarm(column / (span or 1.0), size)
        axis.scatter(
            column,
            place + offsets,
            s=size,
            c=_MISSING if feature is None else _value_colours(feature, value_colours),
            linewidths=0,
            zorder=2,
            rasterized=table.size > 5000,
        )
        axis.axhline(place, color="#dddddd", linewidth=0.5, zorder=0)
    axis.axvline(0, color="black", linewidth=0.6, zorder=1)
    axis.set_ylim(len(columns) - 0.5, -0.5)
    if given is not None:
        _value_bar(figure, axis, value_colours)
    caption = f"relevance of {len(table)} {'row' if len(table) == 1 else 'rows'}, features by mean strength"
    write(axis, title, "no relevance: every value is zero" if not table.any() else caption)
    return figure


def heat_table(
    relevance: Any,
    names: Sequence[str] | None = None,
    values: Any = None,
    *,
    rows: Sequence[Any] | None = None,
    order: Order = "sum",
    count: int = 20,
    title: str = "",
    colours: str | Palette = DEFAULT,
    percentile: float = PERCENTILE,
    limit: float | None = None,
) -> Any:
    """Relevance of many rows as a table of colours: a line a feature, a column a row, sums on both sides.

    Args:
        relevance: [N, F].
        names: one for each feature.
        values: [N, F], the features themselves; written into the cells of a small table, beside the relevance.
        rows: what to call the rows.
        order: of the rows: as ``given``, by the ``sum`` of their relevance, or ``similar`` ones beside each other
            (along the first principal component of the relevance).
        count: features at most, by mean absolute relevance; the others are summed up in one line.
        colours, percentile, limit: see `heatmap`; of a table with its numbers written in nothing is clipped.

    Returns:
        A matplotlib Figure. Of more than 400 rows, 400 are drawn, evenly chosen in their order, and it is said.
    """
    table, labels = _many_rows(relevance, names)
    given = _features(values, table)
    called = [str(i) for i in range(len(table))] if rows is None else [shorten(str(row), 16) for row in rows]
    if len(called) != len(table):
        raise InputError(f"{len(table)} rows of relevance, but {len(called)} names of rows")
    placed = _row_order(table, order)
    note = ""
    if len(placed) > _MOST_ROWS:
        note = f" ({_MOST_ROWS} of {len(table)} rows, evenly chosen)"
        placed = placed[np.linspace(0, len(placed) - 1, _MOST_ROWS).round().astype(int)]
    kept, rest = by_strength(table, count)
    drawn = [table[placed, j] for j in kept] + ([table[placed][:, rest].sum(1)] if rest.size else [])
    texts = [labels[j] for j in kept] + ([f"{rest.size} others together"] if rest.size else [])
    shown = np.stack(drawn)
    few = shown.size <= _WRITTEN
    scale = find_scale(shown, percentile=100 if few else percentile, limit=limit)
    strengths = [float(np.abs(table[:, j]).mean()) for j in kept]
    strengths += [float(np.abs(table[:, rest].sum(1)).mean())] if rest.size else []

    width = 1.0 * shown.shape[1] if few else float(np.clip(0.05 * shown.shape[1], 3.6, 7.0))
    cell = 0.34 if few and given is not None else 0.25
    figure = new_figure(3.6 + width, 1.35 + cell * len(texts))
    axes = figure.subplots(
        2, 2, sharex="col", sharey="row", width_ratios=(width, 0.8), height_ratios=(0.55, cell * len(texts))
    )
    (top, corner), (main, side) = axes
    corner.set_axis_off()
    main.imshow(palette(colours)(np.clip(shown / (scale.limit or 1.0), -1, 1)), aspect="auto", interpolation="nearest")
    tick_texts(main, texts)
    few_names = shown.shape[1] <= 40
    main.set_xticks(range(shown.shape[1]) if few_names else [])
    if few_names:
        texts_below = [called[i] for i in placed]
        turned = max(map(len, texts_below)) > 6 or (shown.shape[1] > 20)
        main.set_xticklabels(texts_below, fontsize=6, rotation=90 if turned else 0, parse_math=False)
    main.tick_params(length=0)
    if few:
        raw = None if given is None else np.asarray(on_cpu(values), dtype=object)  # words stay words
        features = None if raw is None else [raw[placed, j] for j in kept]
        _write_cells(main, shown, features, scale.limit)
    sums = table[placed].sum(1)
    top.bar(range(len(sums)), sums, width=0.8 if few_names else 1.0, color=signed_colours(sums.tolist(), colours))
    side.barh(range(len(strengths)), strengths, color=GREY, height=0.7)
    top.set_ylabel("sum", fontsize=6, color="#444444")
    side.set_xlabel("mean strength", fontsize=6, color="#444444")
    for axis in (top, side):
        axis.tick_params(labelsize=5, length=2, labelbottom=axis is side, labelleft=axis is top)
        axis.tick_params(axis="x" if axis is top else "y", length=0)
        for spine in ("top", "right"):
            axis.spines[spine].set_visible(False)
    side.xaxis.get_major_locator().set_params(nbins=2)
    top.yaxis.get_major_locator().set_params(nbins=2)
    top.axhline(0, color="black", linewidth=0.5)
    caption = f"{len(table)} {'row' if len(table) == 1 else 'rows'}{note}, {_ORDER_WORDS[order]}"
    if scale.clipped:
        caption += f" · {100 * scale.clipped / scale.count:.2g} % clipped, strongest {scale.largest:.2g}"
    write(main, caption="no relevance: every value is zero" if scale.empty else caption)
    if title:
        figure.suptitle(visible(title), fontsize=9, parse_math=False)
    colour_bar(figure, [main, side], scale, colours, "relevance")
    return figure


_ORDER_WORDS = {"given": "as given", "sum": "by their sum", "similar": "similar ones beside each other"}


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _many_rows(relevance: Any, names: Sequence[str] | None) -> tuple[Array, list[str]]:
    table = as_array(relevance)
    if table.ndim != 2:
        raise InputError(f"many rows of features are [N, F]; got shape {table.shape}")
    return table, labels_of(names, table.shape[1])


def _features(values: Any, table: Array) -> Array | None:
    """The features as numbers, NaN where they are missing or no numbers."""
    if values is None:
        return None
    given = np.asarray(on_cpu(values))
    if given.shape != table.shape:
        raise InputError(f"the features have shape {given.shape} and their relevance {table.shape}: they must be equal")
    if given.dtype.kind in "fiub":
        return np.where(np.isfinite(given.astype(np.float64)), given, np.nan).astype(np.float64)
    return np.vectorize(_as_number, otypes=[np.float64])(given)


def _as_number(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return float("nan")
    return found if np.isfinite(found) else float("nan")


def _row_order(table: Array, order: str) -> npt.NDArray[Any]:
    if order not in ORDERS:
        raise InputError(f"unknown order {order!r}; there are {', '.join(ORDERS)}")
    if order == "given":
        return np.arange(len(table))
    if order == "sum":
        return np.argsort(-table.sum(1), kind="stable")
    along = np.linalg.svd(table - table.mean(0), full_matrices=False)[2][0]
    along = along * (1.0 if along[np.abs(along).argmax()] >= 0 else -1.0)  # a component has no sign of its own
    return np.argsort(-(table @ along), kind="stable")


def _swarm(at: Array, size: float) -> Array:
    """How far above or below its line each point lies, so that none hides another. `at` in [-1, 1]."""
    bins = np.round(at * 2600 / (10 * np.sqrt(size))).astype(int)
    offsets = np.zeros(len(at))
    for one in np.unique(bins):
        inside = np.flatnonzero(bins == one)
        turns = np.arange(len(inside))
        offsets[inside] = (turns + 1) // 2 * np.where(turns % 2, 1, -1)
    step = 0.042 * np.sqrt(size)
    return offsets * min(step, 0.42 / max(float(np.abs(offsets).max()), 1e-9))


# -- how it is drawn ---------------------------------------------------------------------------------------------------


def _value_colours(feature: Array, colours: str | Palette) -> list[Any]:
    known = np.isfinite(feature)
    found: list[Any] = [_MISSING] * len(feature)
    if not known.any():
        return found
    low, high = np.percentile(feature[known], [5, 95])
    if low == high:  # nearly all are the same
        low, high = float(feature[known].min()), float(feature[known].max())
    share = np.clip((feature[known] - low) / (high - low), 0, 1) if high > low else np.full(known.sum(), 0.5)
    painted = palette(colours)(share, signed=False) / 255
    for i, colour in zip(np.flatnonzero(known), painted, strict=True):
        found[i] = tuple(colour)
    return found


def _value_bar(figure: Any, axis: Any, colours: str | Palette) -> None:
    colors = require("matplotlib.colors", "render", "a colour bar")
    cm = require("matplotlib.cm", "render", "a colour bar")
    table = palette(colours)(np.linspace(0, 1, 511), signed=False) / 255
    bar = figure.colorbar(
        cm.ScalarMappable(colors.Normalize(0, 1), colors.ListedColormap(table)), ax=axis, fraction=0.04, pad=0.02,
        aspect=40,
    )  # fmt: skip
    bar.set_ticks([0, 1], labels=["low", "high"])
    bar.ax.tick_params(labelsize=6, length=0)
    bar.outline.set_visible(False)
    bar.set_label("the feature's value", fontsize=7, labelpad=-8)


def _write_cells(axis: Any, shown: Array, features: Sequence[Any] | None, limit: float) -> None:
    for line in range(shown.shape[0]):
        for column in range(shown.shape[1]):
            value = shown[line, column]
            text = f"{value:+.2g}" if value else "0"
            if features is not None and line < len(features):
                text += f"\n({value_text(features[line][column])})"
            strong = bool(limit) and abs(value) > 0.6 * limit
            axis.text(column, line, text, ha="center", va="center", fontsize=5.5, color="white" if strong else "black")
