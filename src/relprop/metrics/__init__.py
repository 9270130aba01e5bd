"""How good is an explanation: flipping curves, the areas between them, and conservation; batched, on torch alone.

`flipping_curve` takes features away in the order of their relevance and records what the model says. From it come
`area_between_curves` and `symmetric_relevance_gain`. `relative_conservation_error` compares a relevance's sum with
what it explains. Everything returns one value a sample.
"""

from relprop.metrics.conservation import relative_conservation_error
from relprop.metrics.flipping import Gain, area_between_curves, flipping_curve, symmetric_relevance_gain

__all__ = [
    "Gain",
    "area_between_curves",
    "flipping_curve",
    "relative_conservation_error",
    "symmetric_relevance_gain",
]
