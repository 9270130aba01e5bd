"""relprop: layer-wise relevance propagation (LRP) for any PyTorch model, as it is.

`relprop.LRP(model).explain(x)` is where one begins; help(relprop.LRP.explain) has all that it takes.

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
__main__      the same as python -m relprop
"""

from relprop.composite import Composite
from relprop.errors import (
    AuditError,
    InputError,
    MissingExtraError,
    ModelStateError,
    NoPathError,
    RegistryError,
    RelpropError,
    RelpropWarning,
    RuleError,
    SelectorError,
    UnknownOperationError,
)
from relprop.errors import nearest as _nearest
from relprop.explain import LRP, Audit, Explanation
from relprop.numerics import Stabilizer
from relprop.ops import op
from relprop.plan import Plan
from relprop.presets import (
    CPLRP,
    LSTMLRP,
    AttnLRP,
    Deconvnet,
    DeepTaylor,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    GuidedBackprop,
    MambaLRP,
    ResLRP,
    UniformEpsilon,
)
from relprop.record.nodes import NODES as _NODES
from relprop.rules import (
    Absolute,
    AlphaBeta,
    BilinearHalf,
    Constant,
    ConstantStatistics,
    DeconvReLU,
    Epsilon,
    EpsilonPool,
    Equal,
    EqualTies,
    Flat,
    Gamma,
    Gates,
    Gradient,
    GuidedReLU,
    Half,
    Identity,
    Pass,
    Proportional,
    ResidualGamma,
    Rule,
    SignalTakesAll,
    Signed,
    SoftmaxGradient,
    StepRule,
    ValueOnly,
    WinnerTakesAll,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)
from relprop.selectors import All, Entry, First, FirstN, Index, Kind, Last, Name, Range, Type

register_function = _NODES.register_function
register_module = _NODES.register_module

__all__ = [
    "CPLRP",
    "LRP",
    "LSTMLRP",
    "Absolute",
    "All",
    "AlphaBeta",
    "AttnLRP",
    "Audit",
    "AuditError",
    "BilinearHalf",
    "Composite",
    "Constant",
    "ConstantStatistics",
    "DeconvReLU",
    "Deconvnet",
    "DeepTaylor",
    "Entry",
    "Epsilon",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "EpsilonPool",
    "Equal",
    "EqualTies",
    "ExcitationBackprop",
    "Explanation",
    "First",
    "FirstN",
    "Flat",
    "Gamma",
    "Gates",
    "Gradient",
    "GuidedBackprop",
    "GuidedReLU",
    "Half",
    "Identity",
    "Index",
    "InputError",
    "Kind",
    "Last",
    "MambaLRP",
    "MissingExtraError",
    "ModelStateError",
    "Name",
    "NoPathError",
    "Pass",
    "Plan",
    "Proportional",
    "Range",
    "RegistryError",
    "RelpropError",
    "RelpropWarning",
    "ResLRP",
    "ResidualGamma",
    "Rule",
    "RuleError",
    "SelectorError",
    "SignalTakesAll",
    "Signed",
    "SoftmaxGradient",
    "Stabilizer",
    "StepRule",
    "Type",
    "UniformEpsilon",
    "UnknownOperationError",
    "ValueOnly",
    "WSquare",
    "WinnerTakesAll",
    "ZBox",
    "ZPlus",
    "Zero",
    "op",
    "register_function",
    "register_module",
]

_LAZY = ("adapters", "captum", "concepts", "metrics", "models", "render", "tabular", "text", "tuning")


def __getattr__(name: str) -> object:
    """Modules that import other packages, or are not always wanted: imported when they are first used."""
    if name == "tune":
        from relprop.tuning import tune

        return tune
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"relprop.{name}")
    near = _nearest(name, (*__all__, *_LAZY, "tune"), cutoff=0.6)
    raise AttributeError(f"module 'relprop' has no attribute {name!r}{near}")


def __dir__() -> list[str]:
    """What may be completed: modules that are imported when they are used, too."""
    return sorted({*globals(), *_LAZY, "tune"})
