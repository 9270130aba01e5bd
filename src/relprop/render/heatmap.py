"""Maps as arrays of colours, with numpy alone: heatmap, overlay on a photograph, smoothed view, contours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from relprop.errors import InputError
from relprop.render.palette import DEFAULT, Colours, Palette, palette
from relprop.render.scale import Map, Reduction, as_array, check_opacity, check_smooth, find_scale, is_number, make_map

Array = npt.NDArray[np.float64]


def heatmap(
    relevance: Any,
    *,
    reduce: Reduction = "sum",
    colours: str | Palette = DEFAULT,
    percentile: float = 100.0,
    limit: float | None = None,
    smooth: float = 0.0,
    size: tuple[int, int] | None = None,
) -> Colours:
    """The colours of one picture's relevance; white is none, red speaks for the output, blue against it.

    Args:
        relevance: [H, W], [C, H, W] or [1, C, H, W], a tensor or an array.
        reduce: how the channels become one number, see `reduce_channels`.
        colours: a palette or its name, see `palette`.
        percentile: clip the scale at this percentile of the strengths; `make_map(...).scale` says what it
            clipped.
        limit: the value of the full colour, in place of the strongest one.
        smooth: the standard deviation of a Gaussian, in pixels of the relevance; it keeps the sum.
        size: height and width of the result, in place of the relevance's own; every value becomes a block.

    Returns:
        [H, W, 3] of uint8. Where every value is zero there is nothing to see, and the picture is hatched in
        grey rather than left blank.
    """
    drawn = make_map(relevance, reduce=reduce, percentile=percentile, limit=limit)
    if smooth:
        drawn = smoothed(drawn, smooth, fixed_limit=limit is not None, percentile=percentile)
    return paint(drawn, colours, size=size)


def paint(drawn: Map, colours: str | Palette = DEFAULT, *, size: tuple[int, int] | None = None) -> Colours:
    """The colours of a map, each value a block where `size` asks for more pixels than it has."""
    values = drawn.normalised if size is None else enlarge(drawn.normalised, size, "nearest")
    if drawn.scale.empty:
        return hatched(values.shape)
    return palette(colours)(values, signed=drawn.scale.signed)


def hatched(shape: Sequence[int]) -> Colours:
    """Grey diagonal stripes: the picture of a map in which every value is zero. [H, W] -> [H, W, 3]."""
    rows, columns = np.indices((shape[0], shape[1]))
    grey = np.where((rows + columns) // 2 % 4 == 0, 190, 235).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def smoothed(drawn: Map, sigma: float, *, fixed_limit: bool = False, percentile: float = 100.0) -> Map:
    """The map under a Gaussian; its scale is found anew unless it was given."""
    values = smooth_values(drawn.values, sigma)
    limit = drawn.scale.limit if fixed_limit else None
    return Map(values, find_scale(values, signed=drawn.scale.signed, percentile=percentile, limit=limit), drawn.title)


def smooth_values(values: Array, sigma: float) -> Array:
    """A Gaussian of standard deviation `sigma` pixels over the last two axes.

    At the border the kernel is mirrored, edge pixel included, which keeps the sum of the values.
    """
    check_smooth(sigma)
    if sigma == 0:
        return values
    radius = max(1, math.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (-2, -1):
        pad = [(0, 0)] * values.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(values, pad, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis)
        values = windows @ kernel
    return values


def enlarge(values: Array, size: tuple[int, int], how: Literal["nearest", "bilinear"] = "nearest") -> Array:
    """Values at another size: blocks (or every n-th), or straight lines between them. [H, W] -> [*size]."""
    if min(size) < 1:
        raise InputError(f"the size of a picture is at least one pixel each way, got {size}")
    if values.shape == tuple(size):
        return values
    if how == "nearest":
        rows = (np.arange(size[0]) * values.shape[0]) // size[0]
        columns = (np.arange(size[1]) * values.shape[1]) // size[1]
        return values[rows[:, None], columns[None, :]]
    for axis, length in enumerate(size):
        at = np.clip((np.arange(length) + 0.5) * values.shape[axis] / length - 0.5, 0, values.shape[axis] - 1)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, values.shape[axis] - 1)
        share = at - below
        shape = [-1, 1] if axis == 0 else [1, -1]
        share = share.reshape(shape)
        values = values.take(below, axis) * (1 - share) + values.take(above, axis) * share
    return values


def as_photo(image: Any) -> Colours:
    """A photograph as [H, W, 3] of uint8.

    Args:
        image: [H, W], [H, W, 1 | 3 | 4] or [1 | 3, H, W], also with a batch axis of one; whole numbers are
            taken as 0 to 255, others as 0 to 1. What lies outside (a normalised network input, say) is an
            error.
    """
    numbers = as_array(image, "the photograph")
    whole = not (image.is_floating_point() if isinstance(image, torch.Tensor) else np.asarray(image).dtype.kind == "f")
    array = numbers[0] if numbers.ndim == 4 and numbers.shape[0] == 1 else numbers
    if array.ndim == 3 and array.shape[0] in (1, 3):
        # Where both ends could be the channels, they stand where torch and where numpy users have them.
        if isinstance(image, torch.Tensor) or array.shape[-1] not in (1, 3, 4):
            array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise InputError(f"a photograph is [H, W], [H, W, 3] or [3, H, W]; got shape {numbers.shape}")
    top = 255.0 if whole else 1.0
    if array.min() < -1e-6 * top or array.max() > top * (1 + 1e-6):
        raise InputError(
            f"the photograph's values run from {array.min():.3g} to {array.max():.3g}, outside 0 to {top:g}: "
            f"give it as "
            "it looked before it was normalised for the network"
        )
    if array.shape[-1] == 4:  # as it looks on white
        array = array[..., :3] * array[..., 3:] / top + top - array[..., 3:]
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    return np.round(np.clip(array / top, 0, 1) * 255).astype(np.uint8)


def check_sizes(values: Sequence[int], photo: Sequence[int]) -> None:
    """Map and photograph must show the same section: the same proportions to within one pixel.

    Raises:
        InputError: names both sizes.
    """
    (rows, columns), (height, width) = values[:2], photo[:2]
    if abs(rows * width - columns * height) > max(rows, columns, height, width):
        raise InputError(
            f"the map is {rows} x {columns} and the photograph {height} x {width}: they do not show "
            "the same section. Give the photograph as the network saw it, after its crop"
        )


def overlay(
    relevance: Any,
    photo: Any,
    *,
    opacity: float = 0.7,
    fade: bool = True,
    grey: bool = True,
    smooth: float = 0.0,
    contours: float | Sequence[float] = (),
    reduce: Reduction = "sum",
    colours: str | Palette = DEFAULT,
    percentile: float = 100.0,
    limit: float | None = None,
) -> Colours:
    """Relevance over the photograph it belongs to, at the photograph's size.

    Args:
        relevance: as for `heatmap`; a map with the same proportions as the photograph is enlarged to it.
        photo: see `as_photo`.
        opacity: of the strongest colour, 0 to 1.
        fade: weaker relevance covers less, so that the photograph shows where nothing was found; otherwise
            every pixel is covered alike.
        grey: the photograph without its colours, which could be taken for relevance.
        smooth: see `heatmap`.
        contours: lines at these shares of the scale, as (-0.5, 0.5), or at one.

    Returns:
        [H, W, 3] of uint8, the photograph's size.
    """
    drawn = make_map(relevance, reduce=reduce, percentile=percentile, limit=limit)
    if smooth:
        drawn = smoothed(drawn, smooth, fixed_limit=limit is not None, percentile=percentile)
    return paint_over(drawn, photo, opacity=opacity, fade=fade, grey=grey, contours=contours, colours=colours)


def paint_over(
    drawn: Map,
    photo: Any,
    *,
    opacity: float = 0.7,
    fade: bool = True,
    grey: bool = True,
    contours: float | Sequence[float] = (),
    colours: str | Palette = DEFAULT,
) -> Colours:
    """`overlay` for a map that has its scale already."""
    check_opacity(opacity)
    ground = as_photo(photo)
    check_sizes(drawn.values.shape, ground.shape)
    values = enlarge(drawn.normalised, (ground.shape[0], ground.shape[1]), "bilinear")
    base = ground.astype(np.float64)
    if grey:
        # Rec. 709 luma, lifted a little so that dark photographs leave room for the colours.
        base = np.repeat((60 + 0.75 * (base @ np.array([0.2126, 0.7152, 0.0722])))[..., None], 3, axis=-1)
    if drawn.scale.empty:
        top, cover = hatched(values.shape).astype(np.float64), np.full(values.shape, opacity)
    else:
        top = palette(colours)(values, signed=drawn.scale.signed).astype(np.float64)
        # The square root lets weak relevance be seen at all.
        cover = opacity * np.sqrt(np.abs(values)) if fade else np.full(values.shape, opacity)
    mixed = base * (1 - cover[..., None]) + top * cover[..., None]
    painted = np.round(np.clip(mixed, 0, 255)).astype(np.uint8)
    return draw_contours(painted, values, contours, colours) if contours else painted


def contour_mask(values: Array, level: float) -> npt.NDArray[np.bool_]:
    """The pixels just inside the line at which values pass `level` (away from zero). [H, W] -> [H, W]."""
    inside = values >= level if level > 0 else values <= level
    around = np.pad(inside, 1, mode="edge")
    enclosed = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return inside & ~enclosed


def draw_contours(
    painted: Colours, values: Array, levels: float | Sequence[float], colours: str | Palette = DEFAULT
) -> Colours:
    """Lines at shares of the scale, in the full colour of their sign.

    Shapes: painted [H, W, 3], values [H, W].
    """
    result = painted.copy()
    for level in contour_levels(levels):
        colour = palette(colours)(np.array(math.copysign(1.0, level)))
        result[contour_mask(values, level)] = colour
    return result


def contour_levels(levels: float | Sequence[float]) -> list[float]:
    """The shares of the scale at which lines are drawn, checked."""
    found = np.atleast_1d(levels).tolist()
    for level in found:
        if not is_number(level) or not -1 <= level <= 1 or level == 0:
            raise InputError(f"a contour is a share of the scale, from -1 to 1 and not 0; got {level!r}")
    return found
