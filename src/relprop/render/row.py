"""Relevance of one row of a table: signed bars, or a waterfall that adds up to the output.

Features stand by their names, with their values where they are given, the strongest first. What is not shown is
summed up in one, so that a picture adds up to the whole.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.render.figure import new_figure, write
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.scale import as_array, check_count, find_scale
from relprop.render.text import visible

Array = npt.NDArray[np.float64]
GREY = "#8a8a8a"
_LONGEST = 36  # characters of a name


def bars(
    relevance: Any,
    names: Sequence[str] | None = None,
    values: Any = None,
    *,
    count: int = 20,
    title: str = "",
    colours: str | Palette = DEFAULT,
) -> Any:
    """The strongest features of one row as signed bars, the strongest on top, the rest summed up in one.

    Args:
        relevance: [F] or [1, F].
        names: one for each feature.
        values: the features themselves, written beside their names.
        count: bars at most, the one for the rest not counted.

    Returns:
        A matplotlib Figure.
    """
    row, labels = _one_row(relevance, names, values, "bars are")
    heights, texts = _strongest(row, labels, count)
    scale = find_scale(np.array(heights))
    figure, axis = lines(texts)
    axis.barh(range(len(heights)), heights, color=signed_colours(heights, colours), height=0.75)
    axis.axvline(0, color="black", linewidth=0.6)
    span = scale.limit or 1.0
    axis.set_xlim(-1.3 * span if min(heights) < 0 else -0.02 * span, 1.3 * span if max(heights) > 0 else 0.02 * span)
    for place, height in enumerate(heights):
        _number(axis, height, place, height >= 0, f"{height:+.3g}")
    write(axis, title, "no relevance: every value is zero" if scale.empty else f"sum {row.sum():.4g}")
    return figure


def waterfall(
    relevance: Any,
    names: Sequence[str] | None = None,
    values: Any = None,
    *,
    output: float | None = None,
    count: int = 15,
    title: str = "",
    colours: str | Palette = DEFAULT,
) -> Any:
    """How the features of one row add up to the output, the strongest first.

    Every bar begins where the one above it ends. What the output has beyond the relevance is what biases and
    stabilisers took: it has a bar of its own, so that the last one, the output, is the sum of all above it.

    Args:
        relevance: [F] or [1, F].
        names: one for each feature.
        values: the features themselves, written beside their names.
        output: the explained value; without it the sum of the relevance.
        count: features at most; the others are one bar.

    Returns:
        A matplotlib Figure.
    """
    row, labels = _one_row(relevance, names, values, "a waterfall is")
    steps, texts = _strongest(row, labels, count)
    total = float(row.sum())
    if output is not None:
        if not np.isfinite(output):
            raise InputError(f"the output must be a finite number, got {output}")
        steps.append(float(output) - total)
        texts.append("biases and stabilisers")
        total = float(output)
    ends = np.cumsum(steps)
    starts = ends - np.array(steps)
    figure, axis = lines([*texts, "output" if output is not None else "sum of relevance"])
    fills = signed_colours(steps, colours)
    if output is not None:
        fills[-1] = GREY
    axis.barh(range(len(steps)), steps, left=starts, color=fills, height=0.72)
    axis.barh(len(steps), total, color="#333333", height=0.72)
    for place, end in enumerate(ends):  # the level carried on to the bar below
        axis.plot([end, end], [place - 0.36, place + 1.36], color="#666666", linewidth=0.5, linestyle=(0, (2, 2)))
    axis.axvline(0, color="black", linewidth=0.6)
    axis.axhline(len(steps) - 0.5, color="#bbbbbb", linewidth=0.5)
    low, high = min(0.0, float(np.minimum(starts, ends).min())), max(0.0, float(np.maximum(starts, ends).max()))
    room = 0.16 * ((high - low) or 1.0)
    axis.set_xlim(low - room, high + room)
    for place, (step, end) in enumerate(zip(steps, ends, strict=True)):
        _number(axis, float(end), place, step >= 0, f"{step:+.3g}")
    _number(axis, total, len(steps), total >= 0, f"{total:.4g}")
    write(axis, title, "no relevance: every value is zero" if not row.any() else f"sum of relevance {row.sum():.4g}")
    return figure


def _one_row(relevance: Any, names: Sequence[str] | None, values: Any, what: str) -> tuple[Array, list[str]]:
    row = as_array(relevance)
    row = row[0] if row.ndim == 2 and row.shape[0] == 1 else row
    if row.ndim != 1:
        raise InputError(f"{what} drawn of one row of features, [F] or [1, F]; got shape {row.shape}")
    labels = labels_of(names, row.size)
    if values is not None:
        given = np.asarray(on_cpu(values), dtype=object).reshape(-1).tolist()  # words stay apart from numbers
        if len(given) != row.size:
            raise InputError(f"{row.size} relevances, but {len(given)} values of features")
        labels = [f"{label} = {value_text(value)}" for label, value in zip(labels, given, strict=True)]
    return row, labels


def labels_of(names: Sequence[str] | None, count: int) -> list[str]:
    if isinstance(names, str):
        raise InputError(f"names must be a list of names, got the text {names!r}")
    labels = [f"feature {i}" for i in range(count)] if names is None else [shorten(str(name)) for name in names]
    if len(labels) != count:
        raise InputError(f"{count} features, but {len(labels)} names")
    return labels


def on_cpu(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def value_text(value: Any) -> str:
    if value is None or value != value:
        return "missing"
    return f"{value:.4g}" if isinstance(value, numbers.Real) else shorten(str(value), 16)


def shorten(text: str, length: int = _LONGEST) -> str:
    """A name on one line, cut where it would leave no room for the picture."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def _strongest(row: Array, labels: Sequence[str], count: int) -> tuple[list[float], list[str]]:
    kept, rest = by_strength(row[None], count)
    heights, texts = row[kept].tolist(), [labels[i] for i in kept]
    if rest.size:
        heights.append(float(row[rest].sum()))
        texts.append(f"{rest.size} others together")
    return heights, texts


def by_strength(table: Array, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The columns of most mean strength, the strongest first, and the others."""
    check_count(count, "count")
    order = np.argsort(-np.abs(table).mean(0), kind="stable")
    return order[:count], order[count:]


def lines(texts: Sequence[str], line: float = 0.24) -> tuple[Any, Any]:
    """A figure with a line for each text, from top to bottom."""
    figure = new_figure(6.0, 0.8 + line * len(texts))
    axis = figure.subplots()
    tick_texts(axis, texts)
    axis.set_ylim(len(texts) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=6)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    return figure, axis


def tick_texts(axis: Any, texts: Sequence[str]) -> None:
    """The texts at the lines of an axis, as they are: no dollar sign starts a formula."""
    axis.set_yticks(range(len(texts)), texts, fontsize=7, parse_math=False)


def _number(axis: Any, at: float, place: float, right: bool, text: str) -> None:
    axis.annotate(
        text,
        (at, place),
        xytext=(3 if right else -3, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=6,
    )


def signed_colours(heights: Sequence[float], colours: str | Palette) -> list[Any]:
    ends = palette(colours)(np.array([-0.85, 0.85])) / 255
    return [tuple(ends[int(height >= 0)]) for height in heights]
