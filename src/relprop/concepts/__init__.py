"""Questions beyond one output and its input.

Bottom up, each stands alone on `relprop.explain`: `contrast` (why this and not that), `virtual` (which frequencies),
`similarity` (why are these two alike), `walks` (which paths through a graph), `pruning` (which units can go).
"""

from relprop.concepts.contrast import Difference as Difference
from relprop.concepts.contrast import LogRatio as LogRatio
from relprop.concepts.contrast import SoftmaxContrast as SoftmaxContrast
from relprop.concepts.contrast import SoftmaxGradient as SoftmaxGradient
from relprop.concepts.contrast import clrp as clrp
from relprop.concepts.pruning import least as least
from relprop.concepts.pruning import prune_units as prune_units
from relprop.concepts.pruning import unit_relevance as unit_relevance
from relprop.concepts.similarity import PairRelevance as PairRelevance
from relprop.concepts.similarity import bilrp as bilrp
from relprop.concepts.similarity import bilrp_texts as bilrp_texts
from relprop.concepts.virtual import DFT as DFT
from relprop.concepts.virtual import STFT as STFT
from relprop.concepts.virtual import Basis as Basis
from relprop.concepts.virtual import Matrix as Matrix
from relprop.concepts.virtual import explain_in as explain_in
from relprop.concepts.walks import Walk as Walk
from relprop.concepts.walks import Walks as Walks
from relprop.concepts.walks import walk_relevance as walk_relevance
