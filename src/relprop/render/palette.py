"""Colour maps for signed values.

The default is built here in OKLab (Björn Ottosson, 2020), a space in which equal steps look equal: lightness
falls evenly from zero to both ends, the same for both signs, so that strength is read from lightness and the
sign from hue. Blue for negative and red for positive stay apart under the three kinds of colour blindness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError, nearest
from relprop.extras import require

Floats = npt.NDArray[np.float64]
Colours = npt.NDArray[np.uint8]

# Linear sRGB to cone responses, and their cube roots to OKLab: https://bottosson.github.io/posts/oklab/
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

_HALF = 255  # entries on each side of zero, so that zero itself has one
_FINE = 15  # steps from one entry to the next; odd, so that none falls half way between two colours


@dataclass(frozen=True, eq=False)
class Palette:
    """A table of colours over [-1, 1].

    Attributes:
        name: what it is called in messages.
        table: [511, 3], sRGB in [0, 1]; the middle row is the colour of zero.
        diverging: zero has a colour of its own in the middle. Where not, the table runs from one end to the
            other, and values that have no sign use all of it.
    """

    name: str
    table: npt.NDArray[np.float64]
    diverging: bool

    def __call__(self, values: Floats, signed: bool = True) -> Colours:
        """Colours of values in [-1, 1] (unsigned: in [0, 1]); what lies outside gets the colour of the end.

        Shapes: values [...] -> [..., 3] of uint8.
        """
        values = np.clip(np.asarray(values, dtype=np.float64), -1.0 if signed else 0.0, 1.0)
        last = len(self._colours) - 1
        # From the middle, so that a value and its negative are rounded alike.
        index = np.rint(values * (last // 2)) + last // 2 if signed or self.diverging else np.rint(values * last)
        return self._colours[index.astype(np.intp)]

    @cached_property
    def _colours(self) -> Colours:
        """The table with straight lines between its entries, so fine that no step can be seen."""
        index = np.arange(len(self.table), dtype=np.float64)
        at = np.linspace(0, len(self.table) - 1, _FINE * (len(self.table) - 1) + 1)
        return np.round(np.stack([np.interp(at, index, column) for column in self.table.T], -1) * 255).astype(np.uint8)


def linear_from_srgb(rgb: Floats) -> Floats:
    """The inverse of the sRGB transfer curve, on values in [0, 1]."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((np.maximum(rgb, 0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(rgb: Floats) -> Floats:
    """The sRGB transfer curve, on values in [0, 1]."""
    return np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * np.maximum(rgb, 0.0031308) ** (1 / 2.4) - 0.055)


def oklab_from_srgb(rgb: Floats) -> Floats:
    """OKLab (lightness, green-red, blue-yellow) of sRGB colours in [0, 1]; shapes [..., 3] -> [..., 3]."""
    return np.cbrt(linear_from_srgb(np.asarray(rgb, dtype=np.float64)) @ _TO_CONES.T) @ _TO_LAB.T


def srgb_from_oklab(lab: Floats) -> Floats:
    """The inverse of `oklab_from_srgb`, cut to what a screen can show."""
    linear = (np.asarray(lab, dtype=np.float64) @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T
    return np.clip(srgb_from_linear(np.clip(linear, 0, 1)), 0, 1)


def _diverging(middle: float, end: float, chroma: float, negative_hue: float, positive_hue: float) -> Floats:
    """Lightness runs evenly from `middle` at zero to `end`; chroma rises with it, slower where it is high."""
    t = np.linspace(-1, 1, 2 * _HALF + 1)
    strength = np.abs(t)
    lightness = middle + (end - middle) * strength
    saturation = chroma * np.sin(0.5 * math.pi * strength)
    hue = np.radians(np.where(t < 0, negative_hue, positive_hue))
    return srgb_from_oklab(np.stack([lightness, saturation * np.cos(hue), saturation * np.sin(hue)], axis=-1))


def _stops(*stops: str) -> Floats:
    """Straight lines in sRGB between colours in hexadecimal, evenly spaced."""
    colours = np.array([_hex(stop) for stop in stops])
    at = np.linspace(0, len(stops) - 1, 2 * _HALF + 1)
    return np.stack([np.interp(at, np.arange(len(stops)), colours[:, i]) for i in range(3)], axis=-1)


def _hex(code: str) -> list[float]:
    digits = code.strip().lstrip("#")
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise InputError(f"{code!r} is no colour: give three or six hexadecimal digits, as in '00f' or '0055a4'")
    return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]


# The names users of zennit know, and the colours that stand behind them: (diverging, stops).
_NAMED: dict[str, tuple[bool, tuple[str, ...]]] = {
    "gray": (False, ("000", "fff")),
    "wred": (False, ("fff", "f00")),
    "wblue": (False, ("fff", "00f")),
    "hot": (False, ("000", "f00", "ff0", "fff")),
    "cold": (False, ("000", "00f", "0ff")),
    "bwr": (True, ("00f", "fff", "f00")),
    "france": (True, ("0055a4", "fff", "ef4135")),
    "seismic": (True, ("0000d0", "d0d0d0", "d00000")),
    "coolio": (True, ("00d0d0", "d0d0d0", "d000d0")),
    "coleus": (True, ("00d000", "d0d0d0", "d000d0")),
}

DEFAULT = "relevance"
NAMES = (DEFAULT, "relevance-dark", *_NAMED, "coldnhot")


def palette(name: str | Palette = DEFAULT) -> Palette:
    """A palette by its name.

    Args:
        name: ``relevance`` (blue, near white, red), ``relevance-dark`` (the same on a dark ground), zennit's
            names (gray, wred, wblue, hot, cold, coldnhot, bwr, france, seismic, coolio, coleus), any colour
            map of matplotlib, or colours between which to run, as ``"00f,fff,f00"`` (an odd number of them
            diverges from the middle one). A palette comes back as it is.

    Raises:
        InputError: for a name that is none of these, with the nearest ones.
    """
    return name if isinstance(name, Palette) else _palette(name)


@lru_cache(maxsize=64)
def _palette(name: str) -> Palette:
    if name == DEFAULT:
        return Palette(name, _diverging(0.97, 0.42, 0.16, 262, 27), True)
    if name == "relevance-dark":
        return Palette(name, _diverging(0.17, 0.76, 0.12, 250, 40), True)
    if name == "coldnhot":
        # Cyan, blue, black in the lower half; black, red, yellow, white in the upper: the halves have other
        # counts.
        low, high = _stops("0ff", "00f", "000"), _stops("000", "f00", "ff0", "fff")
        return Palette(name, np.concatenate([low[:-1:2], high[::2]]), True)
    if name in _NAMED:
        diverging, stops = _NAMED[name]
        return Palette(name, _stops(*stops), diverging)
    if "," in name:
        stops = tuple(name.split(","))
        return Palette(name, _stops(*stops), len(stops) % 2 == 1)
    return _from_matplotlib(name)


# matplotlib's maps that have a middle; all others run from one end to the other.
_MATPLOTLIB_DIVERGING = frozenset(
    "PiYG PRGn BrBG PuOr RdGy RdBu RdYlBu RdYlGn Spectral coolwarm berlin managua vanimo".split()
)


def _from_matplotlib(name: str) -> Palette:
    try:
        colormaps = require("matplotlib", "render", f"the colour map {name!r}").colormaps
    except ImportError:
        colormaps = {}
    if name not in colormaps:
        near = nearest(name, [*NAMES, *colormaps], cutoff=0.5)
        raise InputError(f"unknown colour map {name!r}{near}; there are {', '.join(NAMES)}, and matplotlib's")
    table = np.asarray(colormaps[name](np.linspace(0, 1, 2 * _HALF + 1)))[:, :3].astype(np.float64)
    return Palette(name, table, name.removesuffix("_r") in _MATPLOTLIB_DIVERGING)
