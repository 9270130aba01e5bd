"""RelevancePropagation.jl's calls for PyTorch models: rules, composites, model preparation, `analyze`.

Its layers are Flux's; here they are the modules of an `nn.Sequential`, or of any model, and indices begin at 0. An
activation is a module of its own in PyTorch, so it is a layer of its own too.
"""

from relprop.adapters.julia.analyzer import LRP as LRP
from relprop.adapters.julia.analyzer import Analysis as Analysis
from relprop.adapters.julia.analyzer import analyze as analyze
from relprop.adapters.julia.analyzer import check_lrp_compat as check_lrp_compat
from relprop.adapters.julia.composite import ChainTuple as ChainTuple
from relprop.adapters.julia.composite import Composite as Composite
from relprop.adapters.julia.composite import EpsilonAlpha2Beta1 as EpsilonAlpha2Beta1
from relprop.adapters.julia.composite import EpsilonAlpha2Beta1Flat as EpsilonAlpha2Beta1Flat
from relprop.adapters.julia.composite import EpsilonGammaBox as EpsilonGammaBox
from relprop.adapters.julia.composite import EpsilonPlus as EpsilonPlus
from relprop.adapters.julia.composite import EpsilonPlusFlat as EpsilonPlusFlat
from relprop.adapters.julia.composite import FirstLayerMap as FirstLayerMap
from relprop.adapters.julia.composite import FirstLayerTypeMap as FirstLayerTypeMap
from relprop.adapters.julia.composite import FirstNTypeMap as FirstNTypeMap
from relprop.adapters.julia.composite import GlobalMap as GlobalMap
from relprop.adapters.julia.composite import GlobalTypeMap as GlobalTypeMap
from relprop.adapters.julia.composite import LastLayerMap as LastLayerMap
from relprop.adapters.julia.composite import LastLayerTypeMap as LastLayerTypeMap
from relprop.adapters.julia.composite import LayerMap as LayerMap
from relprop.adapters.julia.composite import ParallelTuple as ParallelTuple
from relprop.adapters.julia.composite import RangeMap as RangeMap
from relprop.adapters.julia.composite import RangeTypeMap as RangeTypeMap
from relprop.adapters.julia.composite import SkipConnectionTuple as SkipConnectionTuple
from relprop.adapters.julia.composite import lrp_rules as lrp_rules
from relprop.adapters.julia.crp import CRP as CRP
from relprop.adapters.julia.crp import IndexedFeatures as IndexedFeatures
from relprop.adapters.julia.crp import TopNFeatures as TopNFeatures
from relprop.adapters.julia.layers import CONV_LAYERS as CONV_LAYERS
from relprop.adapters.julia.layers import DROPOUT_LAYERS as DROPOUT_LAYERS
from relprop.adapters.julia.layers import NORMALIZATION_LAYERS as NORMALIZATION_LAYERS
from relprop.adapters.julia.layers import POOLING_LAYERS as POOLING_LAYERS
from relprop.adapters.julia.layers import RESHAPING_LAYERS as RESHAPING_LAYERS
from relprop.adapters.julia.layers import Parallel as Parallel
from relprop.adapters.julia.layers import Scale as Scale
from relprop.adapters.julia.layers import SkipConnection as SkipConnection
from relprop.adapters.julia.layers import layer_indices as layer_indices
from relprop.adapters.julia.layers import show_layer_indices as show_layer_indices
from relprop.adapters.julia.prepare import canonize as canonize
from relprop.adapters.julia.prepare import flatten_model as flatten_model
from relprop.adapters.julia.prepare import strip_softmax as strip_softmax
from relprop.adapters.julia.rules import AlphaBetaRule as AlphaBetaRule
from relprop.adapters.julia.rules import EpsilonRule as EpsilonRule
from relprop.adapters.julia.rules import FlatRule as FlatRule
from relprop.adapters.julia.rules import GammaRule as GammaRule
from relprop.adapters.julia.rules import GeneralizedGammaRule as GeneralizedGammaRule
from relprop.adapters.julia.rules import LayerNormRule as LayerNormRule
from relprop.adapters.julia.rules import PassRule as PassRule
from relprop.adapters.julia.rules import WSquareRule as WSquareRule
from relprop.adapters.julia.rules import ZBoxRule as ZBoxRule
from relprop.adapters.julia.rules import ZeroRule as ZeroRule
from relprop.adapters.julia.rules import ZPlusRule as ZPlusRule
from relprop.adapters.julia.rules import is_compatible as is_compatible
