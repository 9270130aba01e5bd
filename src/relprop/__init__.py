"""relprop: layer-wise relevance propagation (LRP) for any PyTorch model, as it is.

Modules, bottom up; imports only point down:

errors        what can go wrong, and what to do
numerics      stabilisers and signs
ops           what a torch call is: the table from torch functions to operations
rules         how relevance passes an operation
site          one executed operation
selectors     which sites
composite     selector -> rule, first match wins
presets       the published rule sets
plan          which rule each site gets, and why
record        seeing a forward
explain       LRP: record, seed, propagate, balance
"""

from relprop.composite import Composite as Composite
from relprop.errors import RelpropError as RelpropError
from relprop.explain import LRP as LRP
from relprop.explain import Audit as Audit
from relprop.explain import Explanation as Explanation
from relprop.numerics import Stabilizer as Stabilizer
from relprop.ops import op as op
from relprop.plan import Plan as Plan
from relprop.presets import Deconvnet as Deconvnet
from relprop.presets import DeepTaylor as DeepTaylor
from relprop.presets import EpsilonAlpha2Beta1 as EpsilonAlpha2Beta1
from relprop.presets import EpsilonAlpha2Beta1Flat as EpsilonAlpha2Beta1Flat
from relprop.presets import EpsilonGammaBox as EpsilonGammaBox
from relprop.presets import EpsilonPlus as EpsilonPlus
from relprop.presets import EpsilonPlusFlat as EpsilonPlusFlat
from relprop.presets import ExcitationBackprop as ExcitationBackprop
from relprop.presets import GuidedBackprop as GuidedBackprop
from relprop.presets import UniformEpsilon as UniformEpsilon
from relprop.record.nodes import NODES as _NODES
from relprop.rules import AlphaBeta as AlphaBeta
from relprop.rules import Constant as Constant
from relprop.rules import Epsilon as Epsilon
from relprop.rules import Flat as Flat
from relprop.rules import Gamma as Gamma
from relprop.rules import Gradient as Gradient
from relprop.rules import Identity as Identity
from relprop.rules import Pass as Pass
from relprop.rules import Rule as Rule
from relprop.rules import WSquare as WSquare
from relprop.rules import ZBox as ZBox
from relprop.rules import Zero as Zero
from relprop.rules import ZPlus as ZPlus
from relprop.selectors import All as All
from relprop.selectors import Entry as Entry
from relprop.selectors import First as First
from relprop.selectors import FirstN as FirstN
from relprop.selectors import Index as Index
from relprop.selectors import Kind as Kind
from relprop.selectors import Last as Last
from relprop.selectors import Name as Name
from relprop.selectors import Range as Range
from relprop.selectors import Type as Type

register_function = _NODES.register_function
register_module = _NODES.register_module
