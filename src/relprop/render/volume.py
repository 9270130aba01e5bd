"""Relevance of volumes: all slices as a montage, and the three planes through the strongest place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.render.figure import PERCENTILE, colour_bar, new_figure, panel
from relprop.render.heatmap import as_photo, paint, paint_over, smooth_values
from relprop.render.palette import DEFAULT, Colours, Palette
from relprop.render.scale import Map, Reduction, Scale, as_array, find_scale, is_signed, reduce_channels
from relprop.render.text import visible

Array = npt.NDArray[np.float64]
_AXES = ("depth", "height", "width")


def volume(relevance: Any, reduce: Reduction = "sum") -> Array:
    """[D, H, W], [C, D, H, W] or [1, C, D, H, W] as [D, H, W]."""
    array = as_array(relevance)
    if array.ndim == 5 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        raise InputError(f"a volume's relevance is [D, H, W], [C, D, H, W] or [1, C, D, H, W]; got shape {array.shape}")
    return reduce_channels(array, reduce)


def _ground(body: Any, shape: tuple[int, ...]) -> Array | None:
    """The volume itself as grey values in [0, 1], whatever its units are."""
    if body is None:
        return None
    array = as_array(body, "the volume")
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 4:
        array = array.mean(axis=0)
    if array.shape != shape:
        raise InputError(f"the volume has shape {array.shape} and its relevance {shape}: they must be the same")
    low, high = float(array.min()), float(array.max())
    return (array - low) / (high - low) if high > low else np.full_like(array, 0.5)


def _cut(values: Array, index: int, axis: int) -> Array:
    """One plane, [H, W]."""
    return values[(slice(None),) * axis + (index,)]


def _slice(values: Array, ground: Array | None, scale: Scale, colours: str | Palette, opacity: float) -> Colours:
    drawn = Map(values, scale)
    return paint(drawn, colours) if ground is None else paint_over(drawn, ground, opacity=opacity, colours=colours)


def montage(
    relevance: Any,
    body: Any = None,
    *,
    axis: int = 0,
    count: int = 16,
    columns: int | None = None,
    gap: int = 2,
    reduce: Reduction = "sum",
    colours: str | Palette = DEFAULT,
    percentile: float = 100.0,
    limit: float | None = None,
    opacity: float = 0.8,
) -> Colours:
    """Slices of a volume beside each other, all on one scale, with numpy alone.

    Args:
        relevance: [D, H, W], [C, D, H, W] or [1, C, D, H, W].
        body: the volume itself, drawn in grey below the colours; the same shape, any units.
        axis: across which to slice: 0 depth, 1 height, 2 width.
        count: slices at most, evenly spaced, the first and the last among them.
        columns: slices in a row; by default about as many as rows.
        gap: white pixels between them.

    Returns:
        [rows of slices, columns of slices, 3] of uint8, in reading order.
    """
    if axis not in (0, 1, 2):
        raise InputError(f"axis must be 0 (depth), 1 (height) or 2 (width), got {axis}")
    if count < 1 or gap < 0 or (columns is not None and columns < 1):
        raise InputError(f"count and columns must be at least 1 and gap at least 0; got {count}, {columns}, {gap}")
    values = volume(relevance, reduce)
    scale = find_scale(values, signed=is_signed(reduce), percentile=percentile, limit=limit)
    ground = _ground(body, values.shape)
    depth = values.shape[axis]
    chosen = np.unique(np.linspace(0, depth - 1, min(count, depth)).round().astype(int))
    tiles = [
        _slice(_cut(values, i, axis), None if ground is None else _cut(ground, i, axis), scale, colours, opacity)
        for i in chosen
    ]
    return tile(tiles, columns, gap)


def tile(pictures: list[Colours], columns: int | None = None, gap: int = 2) -> Colours:
    """Pictures of one size beside each other on white, in reading order."""
    height, width = pictures[0].shape[:2]
    columns = min(len(pictures), columns or math.ceil(math.sqrt(len(pictures) * height / width)))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def slices(
    relevance: Any,
    body: Any = None,
    *,
    at: tuple[int, int, int] | None = None,
    title: str = "",
    smooth: float = 0.0,
    reduce: Reduction = "sum",
    colours: str | Palette = DEFAULT,
    percentile: float = PERCENTILE,
    limit: float | None = None,
    opacity: float = 0.8,
) -> Any:
    """The three planes of a volume through one place, all on one scale.

    Args:
        relevance, body: see `montage`.
        at: the place (depth, height, width); by default where relevance is strongest.

    Returns:
        A matplotlib Figure.
    """
    values = volume(relevance, reduce)
    if smooth:
        values = smooth_values(values, smooth)
    scale = find_scale(values, signed=is_signed(reduce), percentile=percentile, limit=limit)
    ground = _ground(body, values.shape)
    if at is None:
        place = tuple(int(i) for i in np.unravel_index(int(np.abs(values).argmax()), values.shape))
    else:
        place = tuple(int(i) for i in at)
        if len(place) != 3 or any(not 0 <= i < n for i, n in zip(place, values.shape, strict=False)):
            raise InputError(f"at={at} lies outside the volume of shape {values.shape}")
    figure = new_figure(8.4, 3.2 + (0.25 if title else 0))
    axes = figure.subplots(1, 3)
    for axis, (plane, index) in enumerate(zip(_AXES, place, strict=True)):
        picture = _slice(
            _cut(values, index, axis),
            None if ground is None else _cut(ground, index, axis),
            scale,
            colours,
            opacity,
        )
        panel(axes[axis], picture, f"{plane} {index}")
        across = [place[i] for i in range(3) if i != axis]
        for draw, position in ((axes[axis].axhline, across[0]), (axes[axis].axvline, across[1])):
            draw(position, color="black", linewidth=0.4, alpha=0.5)
    caption = "no relevance: every value is zero" if scale.empty else f"sum {values.sum():.4g}"
    if scale.clipped:
        caption += f" · {100 * scale.clipped / scale.count:.2g} % clipped, strongest {scale.largest:.2g}"
    figure.supxlabel(caption, fontsize=7, color="#444444", parse_math=False)
    if title:
        figure.suptitle(visible(title), fontsize=9, parse_math=False)
    colour_bar(figure, list(axes), scale, colours, "relevance")
    return figure


def frames(
    relevance: Any,
    film: Any = None,
    *,
    reduce: Reduction = "sum",
    smooth: float = 0.0,
    colours: str | Palette = DEFAULT,
    percentile: float = PERCENTILE,
    limit: float | None = None,
    opacity: float = 0.7,
) -> Colours:
    """A film's relevance as coloured frames on one scale, over the film where it is given; with numpy alone.

    Args:
        relevance: [T, H, W] or [T, C, H, W]; a network that wants [1, C, T, H, W] has
            `relevance[0].movedim(1, 0)`.
        film: as many frames, each as `as_photo` takes it.

    Returns:
        [T, H, W, 3] of uint8; `save_film` writes it, `tile(list(frames))` puts it on one sheet.
    """
    array = as_array(relevance)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4:
        raise InputError(f"a film's relevance is [T, H, W] or [T, C, H, W]; got shape {array.shape}")
    values = np.stack([smooth_values(reduce_channels(frame, reduce), smooth) for frame in array])
    scale = find_scale(values, signed=is_signed(reduce), percentile=percentile, limit=limit)
    if film is None:
        return np.stack([paint(Map(frame, scale), colours) for frame in values])
    if len(film) != len(values):
        raise InputError(f"{len(values)} frames of relevance, but {len(film)} of the film")
    grounds = [as_photo(frame) for frame in film]
    return np.stack(
        [paint_over(Map(v, scale), g, opacity=opacity, colours=colours) for v, g in zip(values, grounds, strict=True)]
    )
