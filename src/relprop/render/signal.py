"""Relevance of signals: series, spectra, sound, sensor channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.render.figure import colour_bar, new_figure, write
from relprop.render.heatmap import paint, smooth_values
from relprop.render.palette import DEFAULT, Colours, Palette
from relprop.render.scale import Map, as_array, find_scale
from relprop.render.text import visible

Array = npt.NDArray[np.float64]
_MOST_CHANNELS = 12


def channels(relevance: Any, what: str = "relevance") -> Array:
    """[T], [C, T] or [1, C, T] as [C, T]."""
    array = as_array(relevance, what)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise InputError(f"a signal's {what} is [T], [C, T] or [1, C, T]; got shape {array.shape}")
    return array


def strip(
    relevance: Any,
    *,
    height: int = 24,
    colours: str | Palette = DEFAULT,
    percentile: float = 100.0,
    limit: float | None = None,
) -> Colours:
    """A signal's relevance as a strip of colours for each channel, with numpy alone.

    Shapes: [T], [C, T] or [1, C, T] -> [C * height, T, 3] of uint8.
    """
    values = channels(relevance)
    drawn = Map(values, find_scale(values, percentile=percentile, limit=limit))
    return np.repeat(paint(drawn, colours), height, axis=0)


def signal(
    relevance: Any,
    values: Any = None,
    *,
    names: Sequence[str] | None = None,
    times: Any = None,
    time_label: str = "",
    title: str = "",
    smooth: float = 0.0,
    colours: str | Palette = DEFAULT,
    percentile: float = 100.0,
    limit: float | None = None,
) -> Any:
    """A signal over the colours of its relevance, one row a channel, all on one scale.

    Args:
        relevance: [T], [C, T] or [1, C, T].
        values: the signal itself, of the same shape; without it the relevance is drawn as a curve over its
            colours.
        names: one for each channel.
        times: [T], ascending, in place of 0, 1, 2, ...
        time_label, title: below and above.
        smooth: the standard deviation of a Gaussian along the time, in steps.
        colours, percentile, limit: see `heatmap`.

    Returns:
        A matplotlib Figure. Of more than 12 channels the strongest 12 are drawn, and the title says so.
    """
    array = channels(relevance)
    curves = array if values is None else channels(values, "signal")
    if curves.shape != array.shape:
        raise InputError(f"the signal has shape {curves.shape} and its relevance {array.shape}: they must be the same")
    if smooth:
        array = np.stack([smooth_values(row[None], smooth)[0] for row in array])
    count, length = array.shape
    at = np.arange(length, dtype=np.float64) if times is None else as_array(times, "times")
    if at.shape != (length,) or (length > 1 and not (np.diff(at) > 0).all()):
        raise InputError(f"times must be {length} ascending numbers, one for each step; got shape {at.shape}")
    labels = [f"channel {i}" if count > 1 else "" for i in range(count)] if names is None else list(names)
    if len(labels) != count:
        raise InputError(f"{count} channels, but {len(labels)} names")
    scale = find_scale(array, percentile=percentile, limit=limit)
    shown = list(range(count))
    if count > _MOST_CHANNELS:
        strength = np.abs(array).sum(axis=1)
        shown = sorted(np.argsort(-strength, kind="stable")[:_MOST_CHANNELS].tolist())
        title = f"{title} (the strongest {_MOST_CHANNELS} of {count} channels)".strip()

    figure = new_figure(7.5, 0.7 + 1.25 * len(shown))
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True).ravel()
    # Each step owns the ground half way to its neighbours.
    inner = (at[1:] + at[:-1]) / 2
    first, last = (at[0] - 0.5, at[0] + 0.5) if length == 1 else (1.5 * at[0] - at[1] / 2, 1.5 * at[-1] - at[-2] / 2)
    edges = np.concatenate([[first], inner, [last]])
    for axis, i in zip(axes, shown, strict=True):
        ground = paint(Map(array[i : i + 1], scale), colours)
        low, high = _span(curves[i])
        axis.pcolormesh(edges, [low, high], ground, rasterized=True, zorder=0)
        axis.plot(at, curves[i], color="white", linewidth=2.4, alpha=0.75, zorder=1)
        axis.plot(at, curves[i], color="black", linewidth=0.9, marker="." if length == 1 else None, zorder=2)
        axis.set_xlim(first, last)
        axis.set_ylim(low, high)
        axis.tick_params(labelsize=6, length=2)
        axis.set_ylabel(visible(labels[i]), fontsize=7, parse_math=False)
    write(axes[0], title)
    caption = "no relevance: every value is zero" if scale.empty else f"sum {array.sum():.4g}"
    if scale.clipped:
        caption += f" · {100 * scale.clipped / scale.count:.2g} % clipped, strongest {scale.largest:.2g}"
    write(axes[-1], caption=f"{time_label}   {caption}".strip())
    colour_bar(figure, list(axes), scale, colours, "relevance" if len(shown) > 1 else "")
    return figure


def _span(curve: Array) -> tuple[float, float]:
    low, high = float(curve.min()), float(curve.max())
    room = 0.08 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room
