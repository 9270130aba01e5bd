"""The rules by their names in RelevancePropagation.jl: which rules of relprop each of them is.

Its stabiliser is 1e-9 in every rule; `EpsilonRule` has its own. A rule of relprop, or a `StepRule` of one's own, can
stand wherever one of these can.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from relprop.adapters.julia.layers import POOLING_LAYERS
from relprop.composite import Row
from relprop.errors import RuleError
from relprop.rules import (
    AlphaBeta,
    ConstantStatistics,
    Epsilon,
    EpsilonPool,
    Flat,
    Gamma,
    LinearRule,
    Pass,
    Rule,
    StepRule,
    WSquare,
    ZBox,
    ZPlus,
)
from relprop.selectors import Kind, Selector

STABILIZER = 1e-9


@dataclass(frozen=True)
class Named:
    """A rule by its Julian name: one rule of relprop for each family of operations that it serves."""

    text: str
    rules: tuple[Rule, ...]

    def __repr__(self) -> str:
        return self.text


AnyRule = Named | Rule


def ZeroRule() -> Named:
    """LRP-0 on every layer."""
    return Named("ZeroRule()", (Epsilon(STABILIZER), EpsilonPool(STABILIZER)))


def EpsilonRule(epsilon: float = 1e-6) -> Named:
    """LRP-epsilon on every layer."""
    return Named(f"EpsilonRule({epsilon:g})", (Epsilon(epsilon), EpsilonPool(epsilon)))


def GammaRule(gamma: float = 0.25) -> Named:
    """LRP-gamma in its standard form: w + gamma w+, b + gamma b+."""
    return Named(f"GammaRule({gamma:g})", (Gamma(gamma, "standard", STABILIZER),))


def GeneralizedGammaRule(gamma: float = 0.25) -> Named:
    """LRP-gamma for inputs and outputs of any sign."""
    return Named(f"GeneralizedGammaRule({gamma:g})", (Gamma(gamma, "generalised", STABILIZER),))


def WSquareRule() -> Named:
    """The w² rule."""
    return Named("WSquareRule()", (WSquare(STABILIZER),))


def FlatRule() -> Named:
    """The flat rule."""
    return Named("FlatRule()", (Flat(STABILIZER),))


def PassRule() -> Named:
    """Relevance passes unchanged."""
    return Named("PassRule()", (Pass(),))


def ZBoxRule(low: float | Tensor, high: float | Tensor) -> Named:
    """The z-box rule."""
    return Named(f"ZBoxRule({low}, {high})", (ZBox(low, high, STABILIZER),))


def ZPlusRule() -> Named:
    """The z+ rule."""
    return Named("ZPlusRule()", (ZPlus(STABILIZER),))


def AlphaBetaRule(alpha: float = 2.0, beta: float = 1.0) -> Named:
    """The alpha-beta rule."""
    return Named(f"AlphaBetaRule({alpha:g}, {beta:g})", (AlphaBeta(alpha, beta, STABILIZER),))


def LayerNormRule() -> Named:
    """The LN rule: mean and scale of a LayerNorm are constants."""
    return Named("LayerNormRule()", (ConstantStatistics(),))


def rules_of(rule: AnyRule) -> tuple[Rule, ...]:
    """The rules of relprop that a rule stands for."""
    if isinstance(rule, Named):
        return rule.rules
    if isinstance(rule, Rule):
        return (rule,)
    raise RuleError(f"{rule!r} is no rule; write {getattr(rule, '__name__', 'ZeroRule')}()")


def rows_of(selector: Selector, module: nn.Module, rule: AnyRule) -> list[Row]:
    """The rows of a composite that give a rule to one layer."""
    rows: list[Row] = []
    for part in rules_of(rule):
        if isinstance(part, Pass):
            # an activation, a reshape and dropout pass relevance on as it is without being told
            if list(module.parameters(recurse=False)):
                rows += [(selector & Kind("scale"), part), (selector, part)]
            continue
        rows.append((selector, part))
        if isinstance(part, LinearRule):
            rows.append((selector & Kind("scale"), part))
        if isinstance(part, StepRule):
            rows.append((selector & Kind("pool"), part))
    return rows


def is_compatible(rule: AnyRule, layer: nn.Module) -> bool:
    """Whether a rule is made for a layer: most need one with a weight; zero, epsilon and pass take any.

    A `StepRule` is asked operation by operation, by its own `is_compatible`, when it runs.
    """
    parts = rules_of(rule)
    if any(isinstance(p, (EpsilonPool, Pass)) for p in parts):
        return True
    if any(isinstance(p, ConstantStatistics) for p in parts):
        return isinstance(layer, nn.LayerNorm)
    if any(isinstance(p, StepRule) for p in parts) and isinstance(layer, POOLING_LAYERS):
        return True
    if any(isinstance(p, LinearRule) for p in parts):
        return isinstance(getattr(layer, "weight", None), Tensor)
    return True
