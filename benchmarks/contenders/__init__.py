"""Who takes part: plain gradient x input, which is the unit, relprop, and other libraries if installed."""

from __future__ import annotations

from benchmarks.contenders import autolrp, captum, gradient, lxt, own, zennit
from benchmarks.contenders.base import Call, Contender, NotOffered

UNIT = gradient.CONTENDER

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        UNIT,
        own.CONTENDER,
        zennit.CONTENDER,
        captum.CONTENDER,
        autolrp.CONTENDER,
        lxt.CONTENDER,
    )
}

__all__ = ["CONTENDERS", "UNIT", "Call", "Contender", "NotOffered"]
