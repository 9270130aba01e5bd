"""Presets for transformers, state-space and recurrent models."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from relprop.composite import Row
from relprop.numerics import Epsilons, check_choice
from relprop.presets.base import Preset
from relprop.rules import (
    BilinearHalf,
    Constant,
    Epsilon,
    Gamma,
    GateKind,
    Gates,
    Half,
    LinearRule,
    Proportional,
    ResidualGamma,
    Rule,
    SelectionConstant,
    SignalTakesAll,
    SoftmaxGradient,
    ValueOnly,
)
from relprop.rules.linear import Bias
from relprop.selectors import LINEAR_MAPS, Kind, Name

CONV, DENSE = Kind("conv"), Kind("linear")
#: Feed-forward layers by the names that the model libraries give them.
FEED_FORWARD = Name(
    "*mlp*", "*ffn*", "*feed_forward*", "*feedforward*", "*intermediate*", "*.output.dense", "*.fc1", "*.fc2",
    "*.linear1", "*.linear2", "*.c_fc", "*.DenseReluDense*",
)  # fmt: skip


def _linear(gamma: float, epsilon: Epsilons, bias: Bias) -> LinearRule:
    # a stabiliser that keeps empty denominators from dividing by zero and changes no other
    return (
        Epsilon(epsilon, bias)
        if _zero(gamma)
        else Gamma(gamma, epsilon=1e-12 if _zero(epsilon) else epsilon, bias=bias)
    )


def _zero(parameter: Any) -> bool:
    """What is no number is left for the rule to refuse."""
    return isinstance(parameter, Real) and parameter == 0


@dataclass(frozen=True, repr=False)
class AttnLRP(Preset):
    """AttnLRP: softmax by its Taylor expansion, products by halves, norms with constant statistics, activations by
    the identity rule, linear maps by epsilon.

    A mixture's router is a constant, or shares by halves. `conv_gamma`, `linear_gamma` (every dense layer) and
    `feed_forward_gamma` (those named like feed-forward layers) are 0, which means epsilon; the paper's vision variant
    has 0.25 on convolutions and 0.05 on feed-forward layers (table B.5). With the default epsilon of 0 the linear
    maps run natively.
    [Achtibat et al. 2024, AttnLRP, sections 3 and B.5]
    """

    epsilon: Epsilons = 0.0
    conv_gamma: float = 0.0
    linear_gamma: float = 0.0
    bias: Bias = "absorb"
    router: Literal["constant", "half"] = "constant"
    feed_forward_gamma: float = 0.0

    def make(self) -> tuple[Row, ...]:
        check_choice(self, "router", ("constant", "half"))
        feed_forward = _linear(self.feed_forward_gamma, self.epsilon, self.bias)
        return (
            *(((FEED_FORWARD & DENSE, feed_forward),) if self.feed_forward_gamma else ()),
            (CONV, _linear(self.conv_gamma, self.epsilon, self.bias)),
            (DENSE, _linear(self.linear_gamma, self.epsilon, self.bias)),
            (Kind("attention"), BilinearHalf()),
            (Kind("softmax"), SoftmaxGradient()),
            (Kind("routing"), SignalTakesAll() if self.router == "constant" else Half()),
            (Kind("product", "matmul"), Half()),
        )


@dataclass(frozen=True, repr=False)
class CPLRP(Preset):
    """CP-LRP: attention weights and the gates of gated layers are constants, so queries, keys and gates carry nothing.

    The rest is as in AttnLRP.

    [Ali et al. 2022, "XAI for Transformers: better explanations through conservative propagation"]
    """

    epsilon: Epsilons = 0.0
    conv_gamma: float = 0.0
    linear_gamma: float = 0.0
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return (
            (CONV, _linear(self.conv_gamma, self.epsilon, self.bias)),
            (DENSE, _linear(self.linear_gamma, self.epsilon, self.bias)),
            (Kind("attention"), ValueOnly()),
            (Kind("softmax"), Constant()),
            (Kind("product", "matmul", "routing"), SignalTakesAll()),
        )


@dataclass(frozen=True, repr=False)
class ResLRP(Preset):
    """ResLRP: AttnLRP with residual sums split so that no share can explode.

    [Berend et al. 2026, ResLRP]
    """

    gamma: float = 1.0
    epsilon: Epsilons = 0.0
    conv_gamma: float = 0.0
    linear_gamma: float = 0.0
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        rest = AttnLRP(self.epsilon, self.conv_gamma, self.linear_gamma, self.bias).rows
        return ((Kind("residual"), ResidualGamma(self.gamma)), *rest)


@dataclass(frozen=True, repr=False)
class MambaLRP(Preset):
    """MambaLRP: the selective scan's input-dependent parameters are constants, gates share by halves, activations
    by the identity rule, norms with constant statistics.

    [Jafari et al. 2024, MambaLRP, sections 4.1 to 4.3]
    """

    epsilon: Epsilons = 0.0
    gamma: float = 0.0
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return (
            (LINEAR_MAPS, _linear(self.gamma, self.epsilon, self.bias)),
            (Kind("selection"), SelectionConstant()),
            (Kind("exp", "softplus"), Constant()),
            (Kind("product", "matmul"), Half()),
        )


_PRODUCTS: dict[str, Rule] = {
    "all": SignalTakesAll(),
    "half": Half(),
    "proportional": Proportional(),
    "absolute": Proportional(),
}


@dataclass(frozen=True, repr=False)
class LSTMLRP(Preset):
    """LRP for recurrent networks: what a product of gate and signal gives to the gate is named by `gate`.

    "all": nothing (LRP-all, the default); "half", "proportional" (to the pre-activations), "absolute". With
    `bias="distribute"` bias and stabiliser are shared among the units below, and everything is conserved.
    [Arras et al. 2017; Arras et al. 2019, section 3]
    """

    gate: GateKind = "all"
    epsilon: Epsilons = 1e-3
    bias: Bias = "absorb"

    def make(self) -> tuple[Row, ...]:
        return (
            (Kind("recurrent"), Gates(self.gate, self.epsilon, self.bias)),
            (Kind("product", "matmul"), _PRODUCTS[self.gate]),
            (LINEAR_MAPS, Epsilon(self.epsilon, self.bias)),
        )
