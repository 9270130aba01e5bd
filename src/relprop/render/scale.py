"""From relevance to a map of numbers with a stated scale: channels reduced, one limit for both signs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from relprop.errors import InputError

Reduction = Literal["sum", "positive", "negative", "abs", "norm", "none"]
_LARGEST = 1e150  # its square is finite too
REDUCTIONS: tuple[str, ...] = ("sum", "positive", "negative", "abs", "norm", "none")


@dataclass(frozen=True)
class Scale:
    """What the colours mean.

    Attributes:
        limit: the value that gets the full colour; its negative gets the other end.
        signed: both signs occur on it. Where not, it runs from 0 to `limit`.
        percentile: of the strengths that lie within the limit by intent, 100 if none is clipped.
        clipped: how many values are stronger than the limit.
        count: how many values there are.
        largest: the strongest value, clipped or not.
    """

    limit: float
    signed: bool = True
    percentile: float = 100.0
    clipped: int = 0
    count: int = 0
    largest: float = 0.0

    @property
    def empty(self) -> bool:
        """Every value is zero: there is nothing to see, and a picture has to say so."""
        return self.limit == 0

    def __str__(self) -> str:
        if self.empty:
            return "zero everywhere"
        span = f"±{self.limit:.3g}" if self.signed else f"0 to {self.limit:.3g}"
        if not self.clipped:
            return span
        share = 100 * self.clipped / max(self.count, 1)
        clipped = f"{self.clipped} of {self.count} values ({share:.2g} %) clipped"
        return f"{span}; {clipped}, strongest {self.largest:.3g}"


def as_array(relevance: Any, what: str = "relevance") -> npt.NDArray[np.float64]:
    """Relevance as a finite float64 array.

    Raises:
        InputError: for what holds no numbers, is empty, is not finite (how many, and the first one's place), or
            too large to be added up.
    """
    if isinstance(relevance, torch.Tensor):
        relevance = relevance.detach().to("cpu")
        if relevance.is_complex():
            raise InputError(f"{what} is complex; relevance is real, so give its real part")
        relevance = relevance.to(torch.float64).numpy()
    try:
        array = np.asarray(relevance, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be a tensor or an array of numbers, got {type(relevance).__name__}") from error
    if array.size == 0:
        raise InputError(f"{what} is empty: its shape is {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        nans = int(np.isnan(array).sum())
        raise InputError(
            f"{what} is not finite: {nans} NaN and {int(bad.sum()) - nans} infinite of {array.size} values, "
            f"the first "
            f"at {first}"
        )
    largest = float(max(array.max(), -array.min()))
    if largest > _LARGEST:
        raise InputError(f"{what} reaches {largest:.3g}, too large to be added up: it has overflowed, or needs a scale")
    return array


def reduce_channels(array: npt.NDArray[np.float64], how: Reduction = "sum", axis: int = 0) -> npt.NDArray[np.float64]:
    """One number for each place.

    Args:
        array: any shape with a channel axis.
        how: ``sum`` (signed, keeps the total), ``positive`` or ``negative`` (the part of the sum that has
            that sign), ``abs`` (of the sum), ``norm`` (Euclidean, over the channels), ``none`` (there is one
            channel already).
        axis: the channels.
    """
    if how == "norm":
        return np.asarray(np.sqrt(np.square(array).sum(axis=axis)))
    if how == "none":
        if array.shape[axis] != 1:
            raise InputError(f"reduce='none' needs one channel, there are {array.shape[axis]}")
        return np.asarray(array.take(0, axis=axis))
    total: npt.NDArray[np.float64] = np.asarray(array.sum(axis=axis))
    if how == "sum":
        return total
    if how == "positive":
        return np.maximum(total, 0)
    if how == "negative":
        return np.minimum(total, 0)
    if how == "abs":
        return np.abs(total)
    raise InputError(f"unknown reduction {how!r}; there are {', '.join(REDUCTIONS)}")


def is_signed(how: str) -> bool:
    """Whether a reduction leaves values of both signs (or negative ones alone)."""
    return how in ("sum", "negative", "none")


def check_options(reduce: str = "sum", percentile: float = 100.0, smooth: float = 0.0) -> None:
    """Whether a picture can be drawn with these, asked before the work begins.

    Raises:
        InputError: for the first that cannot be.
    """
    if reduce not in REDUCTIONS:
        raise InputError(f"unknown reduction {reduce!r}; there are {', '.join(REDUCTIONS)}")
    check_percentile(percentile)
    check_smooth(smooth)


def is_number(value: Any) -> bool:
    """A real, finite number; no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def check_percentile(percentile: Any) -> None:
    if not (is_number(percentile) and 0 < percentile <= 100):
        raise InputError(f"percentile must be above 0 and at most 100, got {percentile!r}")


def check_smooth(smooth: Any) -> None:
    if not (is_number(smooth) and smooth >= 0):
        raise InputError(f"smooth must be a standard deviation >= 0 in pixels, got {smooth!r}")


def check_opacity(opacity: Any) -> None:
    if not (is_number(opacity) and 0 <= opacity <= 1):
        raise InputError(f"opacity must lie between 0 and 1, got {opacity!r}")


def check_count(count: Any, what: str) -> None:
    """Whether it is a whole number from 1."""
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
        raise InputError(f"{what} must be at least 1, a whole number; got {count!r}")


def find_scale(
    values: npt.NDArray[np.float64] | Sequence[npt.NDArray[np.float64]],
    *,
    signed: bool = True,
    percentile: float = 100.0,
    limit: float | None = None,
) -> Scale:
    """The scale of a map, or the shared one of several.

    Args:
        values: one array or a list of them.
        signed: the same limit for both signs; otherwise from zero up.
        percentile: of the strengths, that becomes the limit; 100 clips nothing.
        limit: the limit itself, where it is to be the same in several pictures.
    """
    arrays = [values] if isinstance(values, np.ndarray) else list(values)
    strengths = np.concatenate([np.abs(array).ravel() for array in arrays])
    largest = float(strengths.max())
    if limit is not None:
        if not (is_number(limit) and limit > 0):
            raise InputError(f"the limit of a scale must be positive and finite, got {limit!r}")
        chosen = float(limit)
    else:
        check_percentile(percentile)
        chosen = largest if percentile == 100 else float(np.percentile(strengths, percentile))
        if chosen == 0:  # more zeros than the percentile: clip at the strongest, or nothing would be left to see
            chosen = largest
    clipped = int((strengths > chosen).sum())
    return Scale(chosen, signed, float(percentile), clipped, int(strengths.size), largest)


@dataclass(frozen=True, eq=False)
class Map:
    """A map to be drawn: numbers and their scale.

    Attributes:
        values: [H, W].
        scale: what its colours mean.
        title: what stands above it.
    """

    values: npt.NDArray[np.float64]
    scale: Scale
    title: str = ""

    @property
    def normalised(self) -> npt.NDArray[np.float64]:
        """Values in [-1, 1], clipped."""
        if self.scale.empty:
            return np.zeros_like(self.values)
        return np.clip(self.values / self.scale.limit, -1, 1)


def spatial(relevance: Any, reduce: Reduction = "sum") -> npt.NDArray[np.float64]:
    """The values of one picture, [H, W], from [H, W], [C, H, W] or [1, C, H, W].

    Raises:
        InputError: for a batch of several (`relprop.render.grid` draws those), or another number of axes.
    """
    array = as_array(relevance)
    if array.ndim == 4:
        if array.shape[0] != 1:
            raise InputError(
                f"relevance of shape {array.shape} is a batch of {array.shape[0]}: draw one, relevance[0], "
                f"or all of "
                "them with relprop.render.grid(relevance)"
            )
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise InputError(f"a picture's relevance is [H, W], [C, H, W] or [1, C, H, W]; got shape {array.shape}")
    return reduce_channels(array, reduce)


def make_map(
    relevance: Any,
    *,
    reduce: Reduction = "sum",
    percentile: float = 100.0,
    limit: float | None = None,
    title: str = "",
) -> Map:
    """Reduce the channels of one picture's relevance and find its scale."""
    values = spatial(relevance, reduce)
    return Map(values, find_scale(values, signed=is_signed(reduce), percentile=percentile, limit=limit), title)
