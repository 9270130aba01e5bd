"""relprop: layer-wise relevance propagation (LRP) for any PyTorch model, as it is.

Modules, bottom up; imports only point down:

errors        what can go wrong, and what to do
extras        optional packages, imported where they are used
progress      what takes longer than a second says so
numerics      stabilisers and signs
ops           what a torch call is: the table from torch functions to operations
rules         how relevance passes an operation
site          one executed operation
units         which entries of a layer count as one concept
selectors     which sites
composite     selector -> rule, first match wins
presets       the published rule sets
plan          which rule each site gets, and why
record        seeing a forward
explain       LRP: record, seed, propagate, balance
render        pictures of relevance
models        networks, photographs and class names to try it on
text          language models: which words made it say that
concepts      questions beyond one output and its input: contrast, similarity, walks, frequencies, units
metrics       how good an explanation is
adapters      the calls of other systems, carried out by this one
captum        Captum's calls under a short name
tabular       rows of a table, by the names of its columns
tuning        rules that do best by a metric
cli           the relprop command
"""

from relprop.composite import Composite as Composite
from relprop.errors import AuditError as AuditError
from relprop.errors import InputError as InputError
from relprop.errors import MissingExtraError as MissingExtraError
from relprop.errors import ModelStateError as ModelStateError
from relprop.errors import NoPathError as NoPathError
from relprop.errors import RegistryError as RegistryError
from relprop.errors import RelpropError as RelpropError
from relprop.errors import RelpropWarning as RelpropWarning
from relprop.errors import RuleError as RuleError
from relprop.errors import SelectorError as SelectorError
from relprop.errors import UnknownOperationError as UnknownOperationError
from relprop.explain import LRP as LRP
from relprop.explain import Audit as Audit
from relprop.explain import Explanation as Explanation
from relprop.numerics import Stabilizer as Stabilizer
from relprop.ops import op as op
from relprop.plan import Plan as Plan
from relprop.presets import CPLRP as CPLRP
from relprop.presets import LSTMLRP as LSTMLRP
from relprop.presets import AttnLRP as AttnLRP
from relprop.presets import Deconvnet as Deconvnet
from relprop.presets import DeepTaylor as DeepTaylor
from relprop.presets import EpsilonAlpha2Beta1 as EpsilonAlpha2Beta1
from relprop.presets import EpsilonAlpha2Beta1Flat as EpsilonAlpha2Beta1Flat
from relprop.presets import EpsilonGammaBox as EpsilonGammaBox
from relprop.presets import EpsilonPlus as EpsilonPlus
from relprop.presets import EpsilonPlusFlat as EpsilonPlusFlat
from relprop.presets import ExcitationBackprop as ExcitationBackprop
from relprop.presets import GuidedBackprop as GuidedBackprop
from relprop.presets import MambaLRP as MambaLRP
from relprop.presets import ResLRP as ResLRP
from relprop.presets import UniformEpsilon as UniformEpsilon
from relprop.record.nodes import NODES as _NODES
from relprop.rules import Absolute as Absolute
from relprop.rules import AlphaBeta as AlphaBeta
from relprop.rules import BilinearHalf as BilinearHalf
from relprop.rules import Constant as Constant
from relprop.rules import ConstantStatistics as ConstantStatistics
from relprop.rules import DeconvReLU as DeconvReLU
from relprop.rules import Epsilon as Epsilon
from relprop.rules import EpsilonPool as EpsilonPool
from relprop.rules import Equal as Equal
from relprop.rules import EqualTies as EqualTies
from relprop.rules import Flat as Flat
from relprop.rules import Gamma as Gamma
from relprop.rules import Gates as Gates
from relprop.rules import Gradient as Gradient
from relprop.rules import GuidedReLU as GuidedReLU
from relprop.rules import Half as Half
from relprop.rules import Identity as Identity
from relprop.rules import Pass as Pass
from relprop.rules import Proportional as Proportional
from relprop.rules import ResidualGamma as ResidualGamma
from relprop.rules import Rule as Rule
from relprop.rules import SignalTakesAll as SignalTakesAll
from relprop.rules import Signed as Signed
from relprop.rules import SoftmaxGradient as SoftmaxGradient
from relprop.rules import StepRule as StepRule
from relprop.rules import ValueOnly as ValueOnly
from relprop.rules import WinnerTakesAll as WinnerTakesAll
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

_LAZY = ("adapters", "captum", "concepts", "metrics", "models", "render", "tabular", "text", "tuning")


def __getattr__(name: str) -> object:
    """Modules that import other packages, or are not always wanted: imported when they are first used."""
    if name == "tune":
        from relprop.tuning import tune

        return tune
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"relprop.{name}")
    from relprop.errors import nearest

    known = [n for n in (*globals(), *_LAZY, "tune") if not n.startswith("_")]
    raise AttributeError(f"module 'relprop' has no attribute {name!r}{nearest(name, known, cutoff=0.6)}")
