"""What may be chosen: presets with their parameters, or a rule for every group of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relprop.composite import Composite, Row
from relprop.errors import InputError
from relprop.plan import Plan
from relprop.presets import (
    CPLRP,
    AttnLRP,
    DeepTaylor,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    Preset,
    ResLRP,
    UniformEpsilon,
)
from relprop.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, Zero, ZPlus
from relprop.selectors import LINEAR_MAPS, Entry, Range, Selector

#: The rules that a group may get, and the parameters that are tuned.
GROUP_RULES = ("zero", "epsilon", "gamma", "z_plus", "alpha_beta")
ENTRY_RULES = ("as the others", "flat", "z_box", "w_square")

_CONVOLUTIONAL = (EpsilonPlus, EpsilonPlusFlat, EpsilonGammaBox, EpsilonAlpha2Beta1, EpsilonAlpha2Beta1Flat)
_ATTENTION = (AttnLRP, CPLRP, ResLRP)


Bound = float | tuple[float, float]


@dataclass(frozen=True)
class Space:
    """Base of the spaces.

    epsilon, gamma  ranges, searched on a logarithmic scale
    bounds          of the inputs, for z-box: two numbers, or two ranges that are searched, as ((-3, -1), (1, 3));
                    None: those of the data
    """

    epsilon: tuple[float, float] = (1e-6, 1.0)
    gamma: tuple[float, float] = (1e-2, 10.0)
    bounds: tuple[Bound, Bound] | None = None

    def __post_init__(self) -> None:
        for name in ("epsilon", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"{name} must be a range of positive numbers, got {getattr(self, name)}")
        if self.bounds is not None:
            ends = [b if isinstance(b, tuple) else (b, b) for b in self.bounds]
            if len(ends) != 2 or not ends[0][0] <= ends[0][1] < ends[1][0] <= ends[1][1]:
                raise InputError(f"bounds must be a low and a high one, numbers or rising ranges, got {self.bounds}")

    def limits(self, trial: Any) -> tuple[float, float]:
        """z-box's bounds: as given, or searched."""
        low, high = self.bounds or (0.0, 1.0)
        return _bound(trial, "low", low), _bound(trial, "high", high)

    def prepare(self, plan: Plan, bounds: tuple[float, float], base: Composite) -> Space:
        """The space for one model: what runs in it, the bounds of its inputs, and the composite it starts from."""
        raise NotImplementedError

    def suggest(self, trial: Any) -> Composite:
        """A composite, by the trial's choices."""
        raise NotImplementedError

    def described(self) -> str:
        """What a study on file is held to."""
        raise NotImplementedError


@dataclass(frozen=True)
class Presets(Space):
    """One of several presets, with its epsilon and gamma.

    presets  preset classes; empty: those that suit what runs in the model
    """

    presets: tuple[type[Preset], ...] = ()

    def prepare(self, plan: Plan, bounds: tuple[float, float], base: Composite) -> Presets:
        kinds = {site.kind for site in plan.sites}
        suited: tuple[type[Preset], ...] = (UniformEpsilon, DeepTaylor)
        if "attention" in kinds or {"softmax", "matmul"} <= kinds:
            suited = _ATTENTION
        elif "conv" in kinds:
            suited = (*_CONVOLUTIONAL, UniformEpsilon)
        return Presets(self.epsilon, self.gamma, self.bounds or bounds, self.presets or suited)

    def suggest(self, trial: Any) -> Composite:
        names = [p.__name__ for p in self.presets]
        chosen = self.presets[names.index(trial.suggest_categorical("preset", names))]
        fields = chosen.__dataclass_fields__
        given: dict[str, Any] = {}
        if "epsilon" in fields:
            given["epsilon"] = trial.suggest_float("epsilon", *self.epsilon, log=True)
        if "gamma" in fields and chosen is not ResLRP:
            given["gamma"] = trial.suggest_float("gamma", *self.gamma, log=True)
        for name in ("conv_gamma", "linear_gamma"):
            if name in fields:
                given[name] = trial.suggest_float(name, *self.gamma, log=True)
        if "low" in fields and self.bounds is not None:
            given["low"], given["high"] = self.limits(trial)
        return chosen(**given)

    def described(self) -> str:
        return f"presets {', '.join(p.__name__ for p in self.presets)}"


@dataclass(frozen=True)
class Groups(Space):
    """A rule for every group of layers, and one for the entry.

    groups  selectors by name, as {"stem": rp.Name("stem.*"), "head": rp.Kind("linear")}; empty: the linear maps in
            order, in three equal parts. What is in none keeps its rule
    rules   that a group may get
    entry   rules that the entry may get
    """

    groups: Mapping[str, Selector] = field(default_factory=dict)
    rules: Sequence[str] = GROUP_RULES
    entry: Sequence[str] = ENTRY_RULES
    base: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for given, known in ((self.rules, GROUP_RULES), (self.entry, ENTRY_RULES)):
            wrong = [r for r in given if r not in known]
            if wrong or not given:
                raise InputError(f"unknown rule {wrong[0] if wrong else ''!r} in a space; there are {', '.join(known)}")
        for name, selector in self.groups.items():
            if not isinstance(selector, Selector):
                raise InputError(f'group {name!r}: {selector!r} is no selector, like relprop.Name("layer1.*")')

    def prepare(self, plan: Plan, bounds: tuple[float, float], base: Composite) -> Groups:
        groups = dict(self.groups) or _thirds(sum(LINEAR_MAPS.matches(site) for site in plan.sites))
        for name, selector in groups.items():
            if self.groups and not any(selector.matches(site) for site in plan.sites):
                raise InputError(f"group {name!r}: {selector!r} matches nothing that runs in the model")
        # what is in no group keeps the rules of the composite that is tuned
        return Groups(self.epsilon, self.gamma, self.bounds or bounds, groups, self.rules, self.entry, base.rows)

    def suggest(self, trial: Any) -> Composite:
        rows: list[Row] = []
        first = trial.suggest_categorical("entry", list(self.entry)) if len(self.entry) > 1 else self.entry[0]
        if first == "z_box":
            rows.append((Entry(), ZBox(*self.limits(trial))))
        elif first in ("flat", "w_square"):
            rows.append((Entry(), Flat() if first == "flat" else WSquare()))
        for name, selector in self.groups.items():
            rows.append((selector, self._rule(trial, name)))
        return Tuning([*rows, *self.base], name="tuned")

    def _rule(self, trial: Any, name: str) -> Rule:
        rule = trial.suggest_categorical(f"{name}.rule", list(self.rules)) if len(self.rules) > 1 else self.rules[0]
        if rule == "epsilon":
            return Epsilon(trial.suggest_float(f"{name}.epsilon", *self.epsilon, log=True))
        if rule == "gamma":
            return Gamma(trial.suggest_float(f"{name}.gamma", *self.gamma, log=True))
        return {"zero": Zero(), "z_plus": ZPlus(), "alpha_beta": AlphaBeta()}[rule]

    def described(self) -> str:
        shown = ", ".join(f"{name}={selector!r}" for name, selector in self.groups.items())
        kept = "".join(f"; {selector!r}: {rule}" for selector, rule in self.base)
        return f"groups {shown}; rules {', '.join(self.rules)}; entry {', '.join(self.entry)}{kept}"


class Tuning(Composite):
    """Rows that need not all match: a group may consist of the entry alone."""


def _thirds(count: int) -> dict[str, Selector]:
    """The linear maps in three parts, as equal as can be."""
    if count == 0:
        raise InputError("no linear map runs in the model: there is nothing to tune")
    names = ("lower", "middle", "upper")[-min(count, 3) :] if count < 3 else ("lower", "middle", "upper")
    cuts = [round(i * count / len(names)) for i in range(len(names) + 1)]
    return {name: Range(cuts[i], cuts[i + 1]) for i, name in enumerate(names)}


def _bound(trial: Any, name: str, bound: Bound) -> float:
    return float(trial.suggest_float(name, *bound)) if isinstance(bound, tuple) else bound
