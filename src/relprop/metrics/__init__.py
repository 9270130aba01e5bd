"""How good is an explanation: flipping curves, the areas between them, and conservation; batched, on torch alone.

`flipping_curve` takes features away in the order of their relevance and records what the model says. From it come
`area_between_curves` and `symmetric_relevance_gain`. `relative_conservation_error` compares a relevance's sum with
what it explains. Everything returns one value a sample.
"""

from relprop.metrics.conservation import relative_conservation_error as relative_conservation_error
from relprop.metrics.flipping import Gain as Gain
from relprop.metrics.flipping import area_between_curves as area_between_curves
from relprop.metrics.flipping import flipping_curve as flipping_curve
from relprop.metrics.flipping import symmetric_relevance_gain as symmetric_relevance_gain
