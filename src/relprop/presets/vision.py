"""Presets for convolutional networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from relprop.composite import Row
from relprop.numerics import Epsilons
from relprop.presets.base import Preset
from relprop.rules import (
    AlphaBeta,
    DeconvReLU,
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    GuidedReLU,
    LinearRule,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)
from relprop.rules.linear import Bias
from relprop.selectors import LINEAR_MAPS, All, Entry, Kind

CONV, DENSE = Kind("conv"), Kind("linear")


@dataclass(frozen=True, repr=False)
class ZeroPreset(Preset):
    """LRP-0 everywhere: gradient times input of the piecewise linear network. [Bach et al. 2015]"""

    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return ((LINEAR_MAPS, Zero(bias=self.bias)),)


@dataclass(frozen=True, repr=False)
class UniformEpsilon(Preset):
    """LRP-epsilon on every linear map. [Bach et al. 2015; Montavon et al. 2019, fig. 10.4, "uniform LRP-eps"]"""

    epsilon: Epsilons = 1e-6
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return ((LINEAR_MAPS, Epsilon(self.epsilon, self.bias)),)


@dataclass(frozen=True, repr=False)
class EpsilonPlus(Preset):
    """z+ on convolutions, epsilon on dense layers. [Kohlbrenner et al. 2020, LRP-CMP]"""

    epsilon: Epsilons = 1e-6
    stabiliser: Epsilons = 1e-6
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return ((CONV, ZPlus(self.stabiliser, self.bias)), (DENSE, Epsilon(self.epsilon, self.bias)))


@dataclass(frozen=True, repr=False)
class EpsilonPlusFlat(EpsilonPlus):
    """EpsilonPlus with the flat rule on the entry. [Kohlbrenner et al. 2020; Lapuschkin et al. 2019]"""

    def make(self) -> tuple[Row, ...]:
        return ((Entry(LINEAR_MAPS), Flat(self.stabiliser)), *super().make())


@dataclass(frozen=True, repr=False)
class EpsilonGammaBox(Preset):
    """z-box on the convolution at the entry, generalised gamma on the others, epsilon on dense layers.

    `low` and `high` are the bounds of the (normalised) input. [Montavon et al. 2019, sec. 10.3]
    """

    low: float | Tensor = -3.0
    high: float | Tensor = 3.0
    gamma: float = 0.25
    epsilon: Epsilons = 1e-6
    stabiliser: Epsilons = 1e-6
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return (
            (Entry(CONV), ZBox(self.low, self.high, self.stabiliser)),
            (CONV, Gamma(self.gamma, epsilon=self.stabiliser, bias=self.bias)),
            (DENSE, Epsilon(self.epsilon, self.bias)),
        )

    @property
    def name(self) -> str:  # type: ignore[override]
        shown = ", ".join(
            f"{k}={v if isinstance(v, (int, float)) else '<tensor>'}"
            for k, v in (("low", self.low), ("high", self.high))
        )
        return f"EpsilonGammaBox({shown}{'' if self.gamma == 0.25 else f', gamma={self.gamma}'})"


@dataclass(frozen=True, repr=False)
class EpsilonAlpha2Beta1(Preset):
    """alpha-beta with alpha = 2, beta = 1 on convolutions, epsilon on dense layers. [Kohlbrenner et al. 2020]"""

    epsilon: Epsilons = 1e-6
    stabiliser: Epsilons = 1e-6
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return (
            (CONV, AlphaBeta(2.0, 1.0, self.stabiliser, self.bias)),
            (DENSE, Epsilon(self.epsilon, self.bias)),
        )


@dataclass(frozen=True, repr=False)
class EpsilonAlpha2Beta1Flat(EpsilonAlpha2Beta1):
    """EpsilonAlpha2Beta1 with the flat rule on the entry. [Kohlbrenner et al. 2020]"""

    def make(self) -> tuple[Row, ...]:
        return ((Entry(LINEAR_MAPS), Flat(self.stabiliser)), *super().make())


@dataclass(frozen=True, repr=False)
class DeepTaylor(Preset):
    """Deep Taylor decomposition of ReLU networks: z+ on hidden layers; on the entry z-box where bounds are given,
    else w². [Montavon et al. 2017]"""

    low: float | Tensor | None = None
    high: float | Tensor | None = None
    stabiliser: Epsilons = 1e-6

    def make(self) -> tuple[Row, ...]:
        entry: LinearRule
        if self.low is None or self.high is None:
            entry = WSquare(self.stabiliser)
        else:
            entry = ZBox(self.low, self.high, self.stabiliser)
        return ((Entry(LINEAR_MAPS), entry), (LINEAR_MAPS, ZPlus(self.stabiliser, "zero")))


@dataclass(frozen=True, repr=False)
class ExcitationBackprop(Preset):
    """Excitation backpropagation: z+ on every linear map, without its bias.

    `bias="absorb"` keeps b+ in the denominator, as zennit does by default. [Zhang et al. 2016]
    """

    stabiliser: Epsilons = 1e-6
    bias: Bias = "zero"

    def make(self) -> tuple[Row, ...]:
        return ((LINEAR_MAPS, ZPlus(self.stabiliser, self.bias)),)


@dataclass(frozen=True, repr=False)
class GuidedBackprop(Preset):
    """Guided backpropagation: the map is the guided gradient; nothing is conserved. [Springenberg et al. 2015]"""

    reading: Literal["gradient"] = "gradient"

    def make(self) -> tuple[Row, ...]:
        return ((Kind("relu"), GuidedReLU()), (All(), Gradient()))


@dataclass(frozen=True, repr=False)
class Deconvnet(Preset):
    """Deconvnet: the map is its gradient; nothing is conserved. [Zeiler and Fergus 2014]"""

    reading: Literal["gradient"] = "gradient"

    def make(self) -> tuple[Row, ...]:
        return ((Kind("relu"), DeconvReLU()), (All(), Gradient()))
