"""The published rule sets by name. A preset is a composite; its docstring names its paper."""

from relprop.presets.base import Preset as Preset
from relprop.presets.language import CPLRP as CPLRP
from relprop.presets.language import LSTMLRP as LSTMLRP
from relprop.presets.language import AttnLRP as AttnLRP
from relprop.presets.language import MambaLRP as MambaLRP
from relprop.presets.language import ResLRP as ResLRP
from relprop.presets.vision import Deconvnet as Deconvnet
from relprop.presets.vision import DeepTaylor as DeepTaylor
from relprop.presets.vision import EpsilonAlpha2Beta1 as EpsilonAlpha2Beta1
from relprop.presets.vision import EpsilonAlpha2Beta1Flat as EpsilonAlpha2Beta1Flat
from relprop.presets.vision import EpsilonGammaBox as EpsilonGammaBox
from relprop.presets.vision import EpsilonPlus as EpsilonPlus
from relprop.presets.vision import EpsilonPlusFlat as EpsilonPlusFlat
from relprop.presets.vision import ExcitationBackprop as ExcitationBackprop
from relprop.presets.vision import GuidedBackprop as GuidedBackprop
from relprop.presets.vision import UniformEpsilon as UniformEpsilon
