"""Questions beyond one output and its input.

Bottom up, each stands alone on `relprop.explain`: `contrast` (why this and not that), `virtual` (which frequencies),
`similarity` and `sentences` (why are these two alike), `walks` (which paths through a graph), `pruning` (which units
can go), `crp` (what units inside the model have to do with it, by `together` several at once) and on it `experts` (of a
mixture), `graph` (which units feed which) and `reference` (which samples show what a unit stands for), `patching` (what
if a part had its values from another input).
"""

from relprop.concepts.contrast import SGLRP, Difference, LogRatio, SoftmaxContrast, clrp
from relprop.concepts.crp import CRP, Conditional, Indexed, TopN
from relprop.concepts.experts import expert_conditions
from relprop.concepts.graph import AttributionGraph, attribution_graph
from relprop.concepts.patching import PatchEffects, activation_patching, attribution_patching, native_gradient, relp
from relprop.concepts.pruning import least, prune_units, unit_relevance
from relprop.concepts.reference import References, reference_samples
from relprop.concepts.sentences import bilrp_texts
from relprop.concepts.similarity import PairRelevance, bilrp
from relprop.concepts.virtual import DFT, STFT, Basis, Matrix, explain_in
from relprop.concepts.walks import Walk, Walks, walk_relevance
from relprop.units import Channels, Dimensions, Directions, Heads, Mask, Neurons, Rows, Tokens

__all__ = [
    "CRP",
    "DFT",
    "SGLRP",
    "STFT",
    "AttributionGraph",
    "Basis",
    "Channels",
    "Conditional",
    "Difference",
    "Dimensions",
    "Directions",
    "Heads",
    "Indexed",
    "LogRatio",
    "Mask",
    "Matrix",
    "Neurons",
    "PairRelevance",
    "PatchEffects",
    "References",
    "Rows",
    "SoftmaxContrast",
    "Tokens",
    "TopN",
    "Walk",
    "Walks",
    "activation_patching",
    "attribution_graph",
    "attribution_patching",
    "bilrp",
    "bilrp_texts",
    "clrp",
    "expert_conditions",
    "explain_in",
    "least",
    "native_gradient",
    "prune_units",
    "reference_samples",
    "relp",
    "unit_relevance",
    "walk_relevance",
]
