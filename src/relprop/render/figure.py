"""Pictures with titles and scales, drawn with matplotlib and saved as PNG, SVG or PDF.

Figures are made without pyplot: nothing global is touched, any thread may draw, and nothing opens a window.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relprop.errors import InputError
from relprop.extras import require
from relprop.render.files import check_destination, png_bytes, write_atomically
from relprop.render.heatmap import (
    as_photo,
    check_sizes,
    contour_levels,
    draw_contours,
    paint,
    paint_over,
    smooth_values,
)
from relprop.render.palette import DEFAULT, Colours, Palette, palette
from relprop.render.scale import Map, Reduction, Scale, as_array, check_count, find_scale, is_signed, spatial
from relprop.render.text import visible

FORMATS = (".png", ".svg", ".pdf")
PERCENTILE = 99.5  # a few pixels are far stronger than the rest; every picture prints what was clipped
_PANEL = 2.7  # inches of one map, without its colour bar
_SMALL = 8
_DOTS = 150  # an inch


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure of so many inches, white, with room made for its labels."""
    figures = require("matplotlib.figure", "render", "a picture with titles and scales")
    if max(width, height) * _DOTS >= 2**16:
        raise InputError(
            f"the picture would be {width:.0f} x {height:.0f} inches, more than can be drawn: show fewer at a time"
        )
    figure = figures.Figure(figsize=(width, height), dpi=_DOTS, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.03)
    # A notebook knows how to show figures only where pyplot was imported; these show themselves.
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def _png(figure: Any) -> bytes:
    return png_bytes(pixels(figure))


def write(axes: Any, title: str = "", caption: str = "") -> None:
    """A title above and a caption below, as they are: no dollar sign starts a formula."""
    if title:
        axes.set_title(visible(title), fontsize=_SMALL + 1, parse_math=False, wrap=True)
    if caption:
        axes.set_xlabel(visible(caption), fontsize=_SMALL - 1, color="#444444", parse_math=False)


def bare(axes: Any) -> None:
    """No ticks and a thin frame: what stands inside is a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#999999")
        spine.set_linewidth(0.6)


def colour_bar(figure: Any, axes: Any, scale: Scale, colours: str | Palette, label: str = "", rows: int = 1) -> None:
    """The scale with its numbers beside one or several panels; pointed ends where values were clipped."""
    if scale.empty:
        return
    colors = require("matplotlib.colors", "render", "a colour bar")
    cm = require("matplotlib.cm", "render", "a colour bar")
    low = -1.0 if scale.signed else 0.0
    table = palette(colours)(np.linspace(low, 1, 511), signed=scale.signed) / 255
    norm = colors.Normalize(low * scale.limit, scale.limit)
    extend = "neither" if not scale.clipped else "both" if scale.signed else "max"
    bar = figure.colorbar(
        cm.ScalarMappable(norm, colors.ListedColormap(table)),
        ax=axes,
        extend=extend,
        extendfrac=0.03,
        fraction=0.05 / rows,
        pad=0.02,
        aspect=28 * rows,
    )
    ticks = [f * scale.limit for f in ((-1, -0.5, 0, 0.5, 1) if scale.signed else (0, 0.5, 1))]
    bar.set_ticks(ticks, labels=[f"{tick:+.2g}" if tick else "0" for tick in ticks])
    bar.ax.tick_params(labelsize=_SMALL - 2, length=2, width=0.5)
    bar.outline.set_linewidth(0.5)
    if label:
        bar.set_label(label, fontsize=_SMALL - 1)


def panel(axes: Any, picture: Colours, title: str = "", caption: str = "") -> None:
    """One picture, every pixel a block."""
    axes.imshow(picture, interpolation="nearest", interpolation_stage="rgba")
    bare(axes)
    write(axes, title, caption)


def split(relevance: Any) -> list[Any]:
    """A batch [N, C, H, W] or [N, H, W]'s list of single pictures; a list stays one."""
    if isinstance(relevance, (list, tuple)):
        return list(relevance)
    array = as_array(relevance)
    if array.ndim == 2:
        return [array]
    if array.ndim == 3:
        return [array]
    if array.ndim == 4:
        return list(array)
    raise InputError(f"a grid is drawn of a list of maps or of [N, C, H, W]; got shape {array.shape}")


def grid(
    relevances: Any,
    titles: Sequence[str] | None = None,
    *,
    photo: Any = None,
    photo_title: str = "",
    shared_scale: bool = False,
    columns: int | None = None,
    reduce: Reduction = "sum",
    colours: str | Palette = DEFAULT,
    percentile: float = PERCENTILE,
    limit: float | None = None,
    smooth: float = 0.0,
    contours: float | Sequence[float] = (),
    over: bool = False,
    opacity: float = 0.7,
    caption: str = "",
) -> Any:
    """Maps beside each other, each with its title, its scale and what was clipped.

    Args:
        relevances: a list of single pictures (see `spatial`), or a batch [N, C, H, W].
        titles: one for each map.
        photo: what they explain, shown first; one for all of them, or a list with one for each, then each map
            stands to the right of its own.
        photo_title: above the photograph.
        shared_scale: one scale for all, so that strengths compare; otherwise each has its own.
        columns: panels in a row; by default a grid a little wider than high.
        reduce, colours, percentile, limit, smooth, contours: see `heatmap` and `overlay`.
        over: draw each map over its photograph, with this opacity.
        caption: under the whole.

    Returns:
        A matplotlib Figure; `relprop.render.save` writes it.

    Raises:
        InputError: for no maps, titles or photographs that do not match in number, maps and photographs that
            do not match in size, and whatever `spatial` refuses.
    """
    items = split(relevances)
    if not items:
        raise InputError("there are no maps to draw")
    titles = [""] * len(items) if titles is None else [titles] if isinstance(titles, str) else list(titles)
    if len(titles) != len(items):
        raise InputError(f"{len(items)} maps, but {len(titles)} titles")
    photos, each = _photos(photo, len(items))
    if columns is not None:
        check_count(columns, "columns")
    if over and photos is None:
        raise InputError("maps are drawn over a photograph: give photo=")
    values = [smooth_values(spatial(item, reduce), smooth) for item in items]
    signed = is_signed(reduce)
    if shared_scale:
        common = find_scale(values, signed=signed, percentile=percentile, limit=limit)
        scales = [find_scale(v, signed=signed, percentile=percentile, limit=common.limit or None) for v in values]
    else:
        common = None
        scales = [find_scale(v, signed=signed, percentile=percentile, limit=limit) for v in values]
    maps = [Map(v, s, t) for v, s, t in zip(values, scales, titles, strict=True)]

    done = _done(reduce, smooth, contours)
    panels: list[tuple[Map | None, Colours, str, str]] = []
    for i, drawn in enumerate(maps):
        ground = None if photos is None else photos[i if each else 0]
        if ground is not None and (each or i == 0):
            panels.append((None, ground, photo_title, ""))
        if over:
            picture = paint_over(drawn, ground, opacity=opacity, contours=contours, colours=colours)
        else:
            if ground is not None:
                check_sizes(drawn.values.shape, ground.shape)
            picture = paint(drawn, colours)
            if contours and not drawn.scale.empty:
                picture = draw_contours(picture, drawn.normalised, contours, colours)
        panels.append((drawn, picture, drawn.title, "\n".join([_caption(drawn), *done])))

    if columns is None:
        columns = 2 if each else _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    height, width = panels[0][1].shape[:2]
    tall = min(max(height / width, 0.3), 3.0)
    figure = new_figure(columns * (_PANEL + 0.55), rows * (_PANEL * tall + 0.72) + (0.25 if caption else 0))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (shown, picture, title, below) in zip(axes, panels, strict=False):
        panel(axis, picture, title, below)
        if shown is not None and common is None:
            colour_bar(figure, axis, shown.scale, colours)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if common is not None:
        colour_bar(figure, list(axes), common, colours, "relevance, one scale for all", rows)
    if caption:
        figure.supxlabel(visible(caption), fontsize=_SMALL, parse_math=False)
    if any(scale.empty for scale in scales):
        # A map of zeros has no colour bar: it is wider than the height leaves room for, and then the layout comes only
        # in several rounds to where titles fit; drawing does one.
        for _ in range(3):
            figure.get_layout_engine().execute(figure)
    return figure


def _photos(photo: Any, count: int) -> tuple[list[Colours] | None, bool]:
    if photo is None:
        return None, False
    if isinstance(photo, (list, tuple)):
        if len(photo) != count:
            raise InputError(f"{count} maps, but {len(photo)} photographs")
        return [as_photo(p) for p in photo], True
    return [as_photo(photo)], False


def _columns(count: int) -> int:
    return count if count <= 4 else min(5, math.ceil(math.sqrt(count * 1.3)))


def _caption(drawn: Map) -> str:
    if drawn.scale.empty:
        return "no relevance: every value is zero"
    text = f"sum {drawn.values.sum():.4g}"
    if drawn.scale.clipped:
        share = 100 * drawn.scale.clipped / drawn.scale.count
        text += f"\n{share:.2g} % clipped, strongest {drawn.scale.largest:.2g}"
    return text


def _done(reduce: str, smooth: float, contours: float | Sequence[float]) -> list[str]:
    """What was done to the relevance that a reader cannot see."""
    said = {"positive": "positive part", "negative": "negative part", "abs": "strength", "norm": "norm over channels"}
    parts = [said[reduce]] if reduce in said else []
    parts += [f"smoothed by {smooth:g} pixels"] if smooth else []
    levels = contour_levels(contours)
    parts += [f"lines at {', '.join(f'{level:+g}' for level in levels)} of the scale"] if levels else []
    return [" · ".join(parts)] if parts else []


def check_path(path: str | Path) -> Path:
    """Whether a figure can be written there, asked before the work begins.

    Raises:
        InputError: for another format, a folder that is not there, or one in which nothing may be written.
        MissingExtraError: where matplotlib is not installed.
    """
    require("matplotlib", "render", "a picture with titles and scales")
    return check_destination(path, FORMATS, "a picture")


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure: the same figure gives the same bytes, and a failure leaves no half-written file."""
    matplotlib = require("matplotlib", "render", "saving a picture")
    path = check_path(path)
    suffix = path.suffix.lower()
    # Without these, the date and random ids would make every file differ.
    metadata = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None},
    }
    settings = {"svg.hashsalt": "relprop", "svg.fonttype": "none", "pdf.fonttype": 42}
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings), without_remarks(figure):
        figure.savefig(buffer, format=suffix[1:], metadata=metadata[suffix])
    return write_atomically(path, buffer.getvalue())


def pixels(figure: Any) -> Colours:
    """A figure as [H, W, 3] of uint8."""
    canvas = require("matplotlib.backends.backend_agg", "render", "a picture").FigureCanvasAgg(figure)
    with without_remarks(figure):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@contextlib.contextmanager
def without_remarks(figure: Any) -> Iterator[None]:
    """Signs that the font lacks are drawn as boxes, without a warning about each.

    Warnings are left alone (they are global) where all signs are ones that matplotlib's own font has.
    """
    texts = require("matplotlib.text", "render", "a picture").Text
    if all(sign < "\u2400" for text in figure.findobj(texts) for sign in text.get_text()):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield
