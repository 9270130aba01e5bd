"""What a page shows of one explanation: a map of numbers, a table of features, words, or a finished picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from relprop.errors import InputError
from relprop.render import text_html
from relprop.render.explanation import KINDS, Kind, choose_input, picture, tensors
from relprop.render.figure import pixels
from relprop.render.heatmap import as_photo, check_sizes, smooth_values
from relprop.render.palette import DEFAULT, Colours, Palette
from relprop.render.scale import Map, Reduction, Scale, as_array, find_scale, is_signed, spatial
from relprop.render.signal import channels
from relprop.render.text import Word

Array = npt.NDArray[np.float64]
Form = Literal["map", "table", "text", "picture"]

_MOST_CURVES = 12
_MOST_POINTS = 2000  # of a curve; beyond, the least and the greatest of each stretch
_TALLEST, _WIDEST = 1 / 3, 6.0  # width over height of the frame: a row of a thousand values is not drawn as a hair


@dataclass(frozen=True)
class Options:
    """How maps are made of relevance; the same for every view of a page."""

    sample: int = 0
    reduce: Reduction = "sum"
    colours: str | Palette = DEFAULT
    percentile: float = 99.5
    smooth: float = 0.0
    which: str | int | None = None
    kind: Kind | None = None
    tokens: Sequence[str] | None = None
    features: Sequence[str] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ground:
    """What lies below the maps.

    photo   [H, W, 3] of uint8
    low     the input's value that is drawn black, `high` the one drawn white
    grey    there is one channel
    curves  of a signal, one row a channel, [C, T]; then there is no photograph
    alt     what it is, in words
    """

    photo: Colours | None = None
    low: float = 0.0
    high: float = 255.0
    grey: bool = False
    curves: Array | None = None
    alt: str = ""


@dataclass(frozen=True, eq=False)
class View:
    """One explanation as it is shown.

    form     how: a map (drawn by the page itself), a table, words, a picture
    axes     what rows and columns are called in the read-out
    values   of a map, [H, W]; of a table, [F]
    scale    what the colours mean
    block    each value is the sum of so many values of the relevance each way
    names    of a table's features, and `given`, their values
    body     words as HTML
    picture  where nothing else is known
    """

    form: Form
    axes: tuple[str, str] = ("row", "column")
    values: Array = field(default_factory=lambda: np.zeros((1, 1)))
    scale: Scale = field(default_factory=lambda: Scale(0.0))
    shape: tuple[int, int] = (1, 1)
    block: int = 1
    names: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    body: str = ""
    picture: Colours | None = None

    @property
    def ratio(self) -> float:
        """Width over height of the frame."""
        height, width = self.shape
        natural = width / height if self.axes[0] == "row" else max(1.5, min(4.0, 8.0 / height))
        return min(max(natural, _TALLEST), _WIDEST)


def make_view(explanation: Any, ground: Ground, options: Options) -> View:
    """The view that suits what was explained.

    Raises:
        InputError: for relevance that is empty or not finite, a sample or kind that is not there, tokens or
            features that do not match in number, and a photograph of other proportions.
    """
    if text_html.is_text(explanation):
        return View("text", body=text_html.body(explanation))
    if hasattr(explanation, "feature_names"):
        flat = as_array(explanation.relevance).ravel()
        return _table(flat, explanation.names, np.asarray(explanation.values).ravel(), options)
    name, relevance = _relevance(explanation, options)
    kind = _kind(relevance, options)
    if kind == "image" and relevance.ndim in (2, 3, 4):
        return _map(_one(relevance, 4, options.sample), ground, options)
    given = _given(explanation, name, relevance)
    if kind in ("bars", "text") and relevance.ndim <= (2 if kind == "bars" else 3):
        flat = as_array(_one(relevance, 2 if kind == "bars" or relevance.ndim == 2 else 3, options.sample))
        if kind == "text":
            return _words(flat if flat.ndim == 1 else flat.sum(-1), options)
        values = None if given is None else as_array(_one(given, 2, options.sample), "the input")
        return _table(flat, options.features, values, options)
    if kind in ("signal", "tokens") and relevance.ndim in (1, 2, 3):
        one = as_array(_one(relevance, 3, options.sample))
        return _signal(one.sum(-1) if kind == "tokens" else one, ground, options)
    drawn = picture(explanation, sample=options.sample, kind=options.kind, which=options.which, **options.more)
    return View("picture", picture=pixels(drawn))


def _relevance(explanation: Any, options: Options) -> tuple[str, torch.Tensor]:
    try:
        return choose_input(getattr(explanation, "relevance", explanation), options.which)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"a page is made of explanations or of relevance, got {type(explanation).__name__}") from error


def _kind(relevance: torch.Tensor, options: Options) -> str:
    if options.tokens is not None:
        return "text"
    if options.kind is not None:
        if options.kind not in KINDS:
            raise InputError(f"unknown kind {options.kind!r}; there are {', '.join(KINDS)}")
        return options.kind
    return {1: "bars", 2: "bars", 3: "signal", 4: "image"}.get(relevance.ndim, "picture")


def _one(values: Any, batched: int, sample: int) -> Any:
    """One sample, where there are as many axes as a batch has."""
    if values.ndim != batched:
        return values
    if len(values) == 0:
        raise InputError(f"relevance is empty: its shape is {tuple(values.shape)}")
    if not 0 <= sample < len(values):
        raise InputError(f"sample {sample} is out of range: there are {len(values)}")
    return values[sample]


def _given(explanation: Any, name: str, relevance: torch.Tensor) -> torch.Tensor | None:
    """The input itself, where the explanation still holds it in the relevance's shape."""
    found = [(path, t) for path, t in tensors(getattr(explanation, "inputs", None)) if t.shape == relevance.shape]
    ends = (name,) if name.startswith("[") else (f"[{name}]", f".{name}")
    chosen = [t for path, t in found if name and path.endswith(ends)] or [t for _, t in found]
    return chosen[0].detach() if len(chosen) == 1 else None


# -- maps --------------------------------------------------------------------------------------------------------------


def _map(relevance: Any, ground: Ground, options: Options) -> View:
    values = smooth_values(spatial(relevance, options.reduce), options.smooth)
    if ground.photo is not None:
        check_sizes(values.shape, ground.photo.shape)
    return _scaled(values, is_signed(options.reduce), ("row", "column"), options)


def _signal(relevance: Array, ground: Ground, options: Options) -> View:
    values = channels(relevance)
    values = smooth_values(values[:, None], options.smooth)[:, 0] if options.smooth else values
    if ground.curves is not None and ground.curves.shape != values.shape:
        raise InputError(f"the signal is {ground.curves.shape} and its relevance {values.shape}")
    return _scaled(values, True, ("channel", "step"), options)


def _scaled(values: Array, signed: bool, axes: tuple[str, str], options: Options) -> View:
    scale = find_scale(values, signed=signed, percentile=options.percentile)
    return View("map", axes, values, scale, (values.shape[0], values.shape[1]))


def coarser(view: View, block: int, options: Options) -> View:
    """The same map with `block` x `block` values summed into one, which keeps its sum; at the edges, with zeros."""
    if block == 1 or view.form != "map":
        return view
    height, width = view.values.shape
    down = block if view.axes[0] == "row" else 1  # channels are no neighbours
    padded = np.pad(view.values, ((0, -height % down), (0, -width % block)))
    summed = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // block, block).sum((1, 3))
    scale = find_scale(summed, signed=view.scale.signed, percentile=options.percentile)
    return View("map", view.axes, summed, scale, view.shape, block)


def normal(view: View) -> Map:
    """A map as the other renderers take it."""
    return Map(view.values, view.scale)


# -- what lies below ---------------------------------------------------------------------------------------------------


def make_ground(explanation: Any, image: Any, options: Options) -> Ground:
    """The photograph or signal that was given, or else the explanation's own input."""
    if image is False or text_html.is_text(explanation) or hasattr(explanation, "feature_names"):
        return Ground()
    name, relevance = _relevance(explanation, options)
    kind = _kind(relevance, options)
    if kind == "image":
        if image is not None:
            photo = as_photo(image)
            grey = bool((photo[..., :1] == photo).all())
            return Ground(photo, grey=grey, alt="the photograph that was explained")
        return _own_picture(_given(explanation, name, relevance), options)
    if kind == "signal" and relevance.ndim <= 3:
        given = _given(explanation, name, relevance) if image is None else image
        if given is not None:
            one = given[options.sample] if getattr(given, "ndim", 0) == 3 and len(given) > options.sample else given
            return Ground(curves=channels(one, "signal"), alt="the signal that was explained")
    return Ground()


def _own_picture(given: torch.Tensor | None, options: Options) -> Ground:
    """The network's input as a picture: as it is where it lies within 0 and 1, otherwise stretched to do so."""
    if given is None or given.ndim != 4 or given.shape[1] not in (1, 3) or not 0 <= options.sample < len(given):
        return Ground()
    values = as_array(given[options.sample], "the input")
    low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    photo = as_photo(torch.from_numpy((values - low) / (high - low)).clamp(0, 1))
    how = "" if (low, high) == (0.0, 1.0) else f", drawn black at {low:.3g} and white at {high:.3g}"
    return Ground(photo, low, high, len(values) == 1, alt=f"the network's input{how}")


def curve_points(curves: Array) -> list[str]:
    """Each channel as the points of a line in a frame of [C, T] units, one unit of height a channel."""
    if len(curves) > _MOST_CURVES:
        return []
    found = []
    for row, curve in enumerate(curves):
        low, high = float(curve.min()), float(curve.max())
        height = (curve - low) / ((high - low) or 1.0)
        at = np.arange(len(curve)) + 0.5
        if len(curve) > _MOST_POINTS:
            at, height = _thinned(height)
        found.append(" ".join(f"{x:.6g},{row + 0.9 - 0.8 * y:.4g}" for x, y in zip(at.tolist(), height.tolist())))
    return found


def _thinned(height: Array) -> tuple[Array, Array]:
    """The least and the greatest of each stretch, in the order of time."""
    edges = np.linspace(0, len(height), _MOST_POINTS // 2 + 1).astype(int)
    kept = []
    for start, stop in pairwise(edges.tolist()):
        stretch = height[start:stop]
        kept += sorted({start + int(stretch.argmin()), start + int(stretch.argmax())})
    index = np.array(kept)
    return index + 0.5, height[index]


# -- tables and words --------------------------------------------------------------------------------------------------


def _table(relevance: Array, names: Sequence[str] | None, given: Any, options: Options) -> View:
    flat = relevance.ravel()
    chosen = tuple(str(n) for n in names) if names is not None else tuple(f"feature {i}" for i in range(len(flat)))
    if len(chosen) != len(flat):
        raise InputError(f"{len(flat)} features were explained, but {len(chosen)} names were given")
    values = () if given is None else tuple(_short(v) for v in np.asarray(given).ravel().tolist())
    if values and len(values) != len(flat):
        raise InputError(f"{len(flat)} features were explained, but {len(values)} values were given")
    return View("table", values=flat, scale=find_scale(flat), names=chosen, given=values)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


def _words(relevance: Array, options: Options) -> View:
    tokens = [] if options.tokens is None else list(options.tokens)
    if len(tokens) != len(relevance):
        raise InputError(f"{len(relevance)} tokens were explained, but {len(tokens)} were given to show")
    words = [Word(token, " " if i else "", float(r)) for i, (token, r) in enumerate(zip(tokens, relevance))]
    return View("text", body=text_html.words(words))
