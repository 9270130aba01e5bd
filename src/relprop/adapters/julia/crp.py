"""`CRP(lrp, layer, features)`: concept relevance propagation in RelevancePropagation.jl's words."""

from __future__ import annotations

from typing import Any

from relprop.adapters.julia.analyzer import LRP, Analysis
from relprop.adapters.julia.layers import Index
from relprop.adapters.modules import path_of, pattern
from relprop.concepts.crp import CRP as Concepts
from relprop.concepts.crp import Indexed, TopN
from relprop.errors import InputError


def TopNFeatures(n: int) -> TopN:
    """The n most relevant features of a layer, of every sample its own; of a convolution its channels."""
    return TopN(n)


def IndexedFeatures(*indices: int) -> Indexed:
    """Features of a layer by their indices, from 0; of a convolution its channels."""
    return Indexed(*indices)


class CRP:
    """An analyzer for one map a feature: `analyze(input, CRP(lrp, layer, features))`.

    lrp       the analyzer whose rules are followed
    layer     the layer at whose output the features are: its index, an int or a tuple of ints, or its path
    features  `TopNFeatures(n)` or `IndexedFeatures(...)`, or units of `relprop.concepts`

    The maps lie along the batch dimension, first by features and then by samples: for two features of two samples
    [f1 s1, f1 s2, f2 s1, f2 s2].
    """

    def __init__(self, lrp: LRP, layer: int | Index | str, features: Any) -> None:
        if not isinstance(lrp, LRP):
            raise InputError(f"CRP takes an LRP analyzer, a layer and features, got {type(lrp).__name__}")
        self.lrp, self.features = lrp, features
        self.path = path_of(lrp.model, layer) if isinstance(layer, str) else _path(lrp, layer)

    def __call__(self, input: Any, output_selection: Any = None) -> Analysis:
        """As `analyze` has it."""
        found = Concepts(self.lrp.engine).explain(
            input,
            conditions={pattern(self.path): self.features},
            target=output_selection,
            seed="one" if self.lrp.normalize_output_relevance else "value",
            unknown="gradient" if self.lrp.skip_checks else "error",
        )
        return Analysis(found.relevance.flatten(0, 1), input, found[0].output, found[0].target, analyzer="CRP")

    def __repr__(self) -> str:
        return f"CRP(layer {self.path!r}, {self.features})"


def _path(lrp: LRP, layer: int | Index) -> str:
    wanted = (layer,) if isinstance(layer, int) else tuple(layer)
    for index, path, _, _ in lrp.layers:
        if index == wanted:
            return path
    known = [str(i[0] if len(i) == 1 else i) for i, _, _, _ in lrp.layers]
    raise InputError(f"no layer has the index {layer}: there are {', '.join(known[:6])}{', ...' * (len(known) > 6)}")
