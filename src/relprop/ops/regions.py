"""Pooling of regions of interest, as detectors do it: operators of torchvision, where it is installed."""

from __future__ import annotations

from relprop.ops.base import Call, Expansion, Fact, Native
from relprop.ops.elementwise import known_nonneg
from relprop.ops.table import op


def _pooled(call: Call, form: str) -> Native | Expansion:
    """Regions are constants: torch has no derivative by them."""
    x, regions = call.bind("input rois")
    if call.depends(regions):
        func, rest, fixed = call.func, call.args[2:], call.cut(regions)
        kwargs = {k: v for k, v in call.kwargs.items() if k not in ("input", "rois")}
        return Expansion(lambda: func(x, fixed, *rest, **kwargs))
    fact = Fact()
    fact.nonneg = known_nonneg(call, x)
    return Native(form=form, fact=fact)


@op("torchvision::roi_align", "torchvision::ps_roi_align", "torchvision::ps_roi_pool")
def average(call: Call) -> Native | Expansion:
    """Averages of entries, or of points between them: linear, with weights that are not negative."""
    return _pooled(call, "reduce")


@op("torchvision::roi_pool")
def largest(call: Call) -> Native | Expansion:
    """The largest entry of each part of a region: a selection."""
    return _pooled(call, "move")
