"""Questions beyond one output and its input.

Bottom up, each stands alone on `relprop.explain`: `contrast` (why this and not that), `virtual` (which frequencies),
`similarity` and `sentences` (why are these two alike), `walks` (which paths through a graph), `pruning` (which units
can go), `crp` (what units inside the model have to do with it, by `together` several at once) and on it `experts` (of a
mixture), `graph` (which units feed which) and `reference` (which samples show what a unit stands for), `patching` (what
if a part had its values from another input).
"""

from relprop.concepts.contrast import SGLRP as SGLRP
from relprop.concepts.contrast import Difference as Difference
from relprop.concepts.contrast import LogRatio as LogRatio
from relprop.concepts.contrast import SoftmaxContrast as SoftmaxContrast
from relprop.concepts.contrast import clrp as clrp
from relprop.concepts.crp import CRP as CRP
from relprop.concepts.crp import Conditional as Conditional
from relprop.concepts.crp import Indexed as Indexed
from relprop.concepts.crp import TopN as TopN
from relprop.concepts.experts import expert_conditions as expert_conditions
from relprop.concepts.graph import AttributionGraph as AttributionGraph
from relprop.concepts.graph import attribution_graph as attribution_graph
from relprop.concepts.patching import PatchEffects as PatchEffects
from relprop.concepts.patching import activation_patching as activation_patching
from relprop.concepts.patching import attribution_patching as attribution_patching
from relprop.concepts.patching import native_gradient as native_gradient
from relprop.concepts.patching import relp as relp
from relprop.concepts.pruning import least as least
from relprop.concepts.pruning import prune_units as prune_units
from relprop.concepts.pruning import unit_relevance as unit_relevance
from relprop.concepts.reference import References as References
from relprop.concepts.reference import reference_samples as reference_samples
from relprop.concepts.sentences import bilrp_texts as bilrp_texts
from relprop.concepts.similarity import PairRelevance as PairRelevance
from relprop.concepts.similarity import bilrp as bilrp
from relprop.concepts.virtual import DFT as DFT
from relprop.concepts.virtual import STFT as STFT
from relprop.concepts.virtual import Basis as Basis
from relprop.concepts.virtual import Matrix as Matrix
from relprop.concepts.virtual import explain_in as explain_in
from relprop.concepts.walks import Walk as Walk
from relprop.concepts.walks import Walks as Walks
from relprop.concepts.walks import walk_relevance as walk_relevance
from relprop.units import Channels as Channels
from relprop.units import Dimensions as Dimensions
from relprop.units import Directions as Directions
from relprop.units import Heads as Heads
from relprop.units import Mask as Mask
from relprop.units import Neurons as Neurons
from relprop.units import Rows as Rows
from relprop.units import Tokens as Tokens
