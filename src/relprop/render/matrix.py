"""Relevance by parts of a layer: attention heads, experts, channels; and any other matrix with names on both sides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.render.explanation import tensors
from relprop.render.figure import colour_bar, new_figure, write
from relprop.render.palette import DEFAULT, Palette, palette
from relprop.render.row import on_cpu, shorten, tick_texts
from relprop.render.scale import as_array, find_scale
from relprop.render.text import visible

Array = npt.NDArray[np.float64]
_WRITTEN = 160  # cells up to which the numbers are written in
_NAMED = 60  # columns up to which each has its name
_MOST = 400  # lines and columns
_LETTER = 0.065  # inches of a letter in a name
_NONE = 225  # grey level of what did not run


def head_relevance(relevance: Any, heads: int) -> Array:
    """Relevance of each attention head at each token, [H, T], summed over samples and over the head's width.

    Args:
        relevance: [N, T, H * D] or [T, H * D], at the tensor that enters the attention's output projection, where
            the heads lie beside each other.
        heads: how many there are.

    Raises:
        InputError: for another shape, or a width that is no multiple of the heads.
    """
    array = as_array(relevance)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise InputError(f"relevance of heads is [N, T, H * D] or [T, H * D]; got shape {array.shape}")
    if heads < 1 or array.shape[2] % heads:
        raise InputError(f"a width of {array.shape[2]} is not {heads} heads of one width")
    return array.reshape(*array.shape[:2], heads, -1).sum((0, 3)).T


def by_head(layers: Any, heads: int) -> tuple[list[str], Array]:
    """Relevance of every layer's heads: the layers' names, and [layers, H].

    Args:
        layers: an explanation made with ``layers=`` of what enters the output projections (of transformers' Llama
            ``"model.layers.*.self_attn.o_proj:in"``, of its BERT ``"encoder.layer.*.attention.self"``), or relevance
            by name.
        heads: in each layer.
    """
    found = _by_name(layers)
    rows = []
    for name, relevance in found.items():
        try:
            rows.append(head_relevance(relevance, heads).sum(1))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return list(found), np.stack(rows)


def by_expert(layers: Any) -> tuple[list[str], Array]:
    """Relevance of every layer's experts: the layers' names, and [layers, E]; NaN where nothing passed an expert.

    Args:
        layers: an explanation made with ``layers=`` of the experts (``"*.experts.*[0-9]"``), or relevance by name:
            each name ends in the expert's number; runs of one expert are added up. Where a layer keeps its experts
            in one tensor, the relevance of that parameter, [E, ...], by the layer's name (of transformers' Mixtral
            ``"model.layers.*.mlp.experts.down_proj"``).
    """
    single: dict[str, dict[int, float]] = {}
    stacked: dict[str, Array] = {}
    for name, relevance in _given(layers).items():
        numbered = re.fullmatch(r"(.*?)\.?(\d+)", name)
        if numbered:
            total = sum(float(as_array(t, name).sum()) for _, t in tensors(relevance))
            single.setdefault(numbered[1], {})[int(numbered[2])] = total
        else:
            array = as_array(relevance, name)
            if array.ndim < 2:
                raise InputError(f"{name}: experts in one tensor are [E, ...]; got shape {array.shape}")
            array = array.reshape(len(array), -1)
            passed = array.any(1) | ~array.any()
            stacked[name] = np.where(passed, array.sum(1), np.nan)
    rows = {name: [found.get(i, np.nan) for i in range(max(found) + 1)] for name, found in single.items()}
    rows |= {name: list(array) for name, array in stacked.items()}
    count = max(map(len, rows.values()))
    return list(rows), np.array([[*row, *[np.nan] * (count - len(row))] for row in rows.values()])


def heads(
    layers: Any, heads: int, *, tokens: Sequence[str] | None = None, title: str = "relevance by head", **options: Any
) -> Any:
    """Relevance by attention head: a line a layer, a column a head; of one layer, a line a head, a column a token.

    Args:
        layers: see `by_head`.
        heads: in each layer.
        tokens: written below the columns, where one layer is drawn.
        options: go to `matrix`.

    Returns:
        A matplotlib Figure.
    """
    found = _by_name(layers)
    if len(found) == 1:
        values = head_relevance(next(iter(found.values())), heads)
        across = [str(i) for i in range(values.shape[1])] if tokens is None else list(tokens)
        return matrix(values, [f"head {i}" for i in range(heads)], across, title=title, **options)
    names, values = by_head(found, heads)
    return matrix(
        values,
        names,
        [str(i) for i in range(heads)],
        across_label="head",
        title=title,
        total=len(names) == 1,
        **options,
    )


def experts(layers: Any, *, title: str = "relevance by expert", **options: Any) -> Any:
    """Relevance by expert: a line a layer and a column an expert; grey where nothing passed an expert.

    Args:
        layers: see `by_expert`.
        options: go to `matrix`.

    Returns:
        A matplotlib Figure.
    """
    names, values = by_expert(layers)
    across = [str(i) for i in range(values.shape[1])]
    return matrix(values, names, across, across_label="expert", title=title, total=len(names) == 1, **options)


def matrix(
    values: Any,
    down: Sequence[str] | None = None,
    across: Sequence[str] | None = None,
    *,
    across_label: str = "",
    title: str = "",
    total: bool = True,
    colours: str | Palette = DEFAULT,
    percentile: float = 100.0,
    limit: float | None = None,
) -> Any:
    """A matrix of relevance with a name for each line and column; the numbers stand in it where there is room.

    Args:
        values: [lines, columns]; NaN for what is not there.
        down, across: names of lines and columns.
        across_label, title: below and above.
        total: write the sum below; of lines that are each a whole it says nothing.
        colours, percentile, limit: see `heatmap`.

    Returns:
        A matplotlib Figure.
    """
    try:
        given = np.asarray(on_cpu(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"a matrix holds numbers, got {type(values).__name__}") from error
    missing = np.isnan(given)
    if given.ndim != 2 or not given.size:
        raise InputError(f"a matrix has lines and columns; got shape {given.shape}")
    if missing.all():
        raise InputError(f"there is nothing to draw: all {given.size} entries of the matrix are missing")
    array = as_array(np.where(missing, 0.0, given))
    lines, columns = array.shape
    if max(lines, columns) > _MOST:
        raise InputError(f"a matrix of {lines} x {columns} is more than can be read: draw at most {_MOST} each way")
    named = [
        _names(names, count, what) for names, count, what in ((down, lines, "lines"), (across, columns, "columns"))
    ]
    scale = find_scale(array[~missing], percentile=percentile, limit=limit)
    ground = palette(colours)(np.clip(array / (scale.limit or 1.0), -1, 1))
    ground[missing] = _NONE
    written = array.size <= _WRITTEN and columns <= 16
    cell = 0.42 if written else min(0.22, 9.0 / columns)
    beside, below = (max(map(len, names)) if len(names) <= _NAMED else 0 for names in named)
    turned = below > 3
    figure = new_figure(
        1.4 + _LETTER * beside + max(cell * columns, 2.0),
        1.0 + (_LETTER * below if turned else 0.15) + max(min(0.24, 12.0 / lines) * lines, 0.5),
    )
    axis = figure.subplots()
    axis.imshow(ground, aspect="auto", interpolation="nearest")
    if lines <= _NAMED:
        tick_texts(axis, named[0])
    else:
        axis.set_yticks([])
    axis.set_xticks(range(columns) if columns <= _NAMED else [])
    if columns <= _NAMED:
        axis.set_xticklabels(named[1], fontsize=6.5, rotation=90 if turned else 0, parse_math=False)
    axis.tick_params(length=0)
    if written:
        _write_numbers(axis, array, missing, scale.limit)
    caption = "no relevance: every value is zero" if scale.empty else f"sum {array.sum():.4g}" if total else ""
    if scale.clipped:
        clipped = f"{100 * scale.clipped / scale.count:.2g} % clipped, strongest {scale.largest:.2g}"
        caption = " · ".join(part for part in (caption, clipped) if part)
    write(axis, title, "   ".join(part for part in (across_label, caption) if part))
    colour_bar(figure, axis, scale, colours, "relevance")
    return figure


def _write_numbers(axis: Any, array: Array, missing: Any, limit: float) -> None:
    for line, column in np.ndindex(*array.shape):
        value = array[line, column]
        text = "–" if missing[line, column] else f"{value:+.2g}" if value else "0"
        ink = "white" if limit and abs(value) > 0.6 * limit else "black"
        axis.text(column, line, text, ha="center", va="center", fontsize=5.5, color=ink)


def _names(names: Sequence[str] | None, count: int, what: str) -> list[str]:
    found = [str(i) for i in range(count)] if names is None else [_end(str(name)) for name in names]
    if len(found) != count:
        raise InputError(f"the matrix has {count} {what}, but {len(found)} names of {what}")
    return found


def _end(name: str) -> str:
    """A name on one line; of a path too long, its end."""
    text = visible(" ".join(name.split()))
    return shorten(text) if " " in text or len(text) <= 36 else "…" + text[-35:]


def _by_name(layers: Any) -> Mapping[str, Any]:
    """Relevance by name; a module that ran several times has a name for each run."""
    flat: dict[str, Any] = {}
    for name, relevance in _given(layers).items():
        runs = relevance if isinstance(relevance, list) else [relevance]
        for i, run in enumerate(runs):
            flat[name if len(runs) == 1 else f"{name} #{i}"] = run[0] if isinstance(run, tuple) else run
    return flat


def _given(layers: Any) -> Mapping[str, Any]:
    """The layers of an explanation, or relevance by name as it is."""
    found = getattr(layers, "layers", layers)
    if not isinstance(found, Mapping):
        raise InputError(f"give an explanation, or relevance by name; got {type(layers).__name__}")
    if not found:
        raise InputError("there are no layers to draw: explain with layers=, the paths of the modules")
    return found
