"""Composites: ordered selector -> rule, first match wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from relprop.errors import RuleError, SelectorError
from relprop.rules import (
    FAMILIES,
    BilinearHalf,
    Constant,
    ConstantStatistics,
    Gates,
    Gradient,
    Half,
    Identity,
    LinearRule,
    Pass,
    Rule,
    Signed,
    SoftmaxGradient,
    WinnerTakesAll,
    Zero,
)
from relprop.selectors import LINEAR_MAPS, All, Census, Entry, Selector
from relprop.site import Site

Row = tuple[Selector, Rule]

#: What a site gets where the composite names nothing for it.
DEFAULTS: dict[str, Rule] = {
    "linear": Zero(),
    "elementwise": Identity(),
    "sum": Signed(),
    "product": Half(),
    "pool": WinnerTakesAll(),
    "norm": ConstantStatistics(),
    "softmax": SoftmaxGradient(),
    "attention": BilinearHalf(),
    "recurrent": Gates(epsilon=1e-6),
    "selection": Gradient(),
}


class Decision(NamedTuple):
    """The rule that a site gets, and which row of the composite gave it."""

    rule: Rule
    reason: Selector | str
    row: int | None

    @property
    def why(self) -> str:
        return self.reason if isinstance(self.reason, str) else f"row {self.row}: {self.reason!r}"


class Composite:
    """Ordered rows of selector and rule; the first row that matches a site gives its rule.

    A row applies to the operations that its rule is made for (`Gamma` to linear maps, `Identity` to activations);
    where the selector names a kind (`Kind("pool")`), to exactly that kind.
    `reading` is "relevance" (default), or "gradient" for gradient methods such as guided backpropagation, whose map
    is the modified gradient itself.
    """

    reading: Literal["relevance", "gradient"] = "relevance"

    def __init__(self, rows: Sequence[Row] | Rule = (), name: str = "Composite") -> None:
        self.name = name
        #: Whether the user wrote selectors: then each must match something.
        self.selective = not isinstance(rows, Rule)
        self._rows = as_rows(rows)

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._rows

    @property
    def selectors(self) -> tuple[Selector, ...]:
        return tuple(selector for selector, _ in self.rows)

    @cached_property
    def census(self) -> Census:
        return Census(self.selectors)

    def decide(self, site: Site) -> Decision:
        for i, (selector, rule) in enumerate(self.rows):
            if not selector.matches(site):
                continue
            named = self.census.naming[i]
            if applies(rule, site, named):
                return Decision(rule, selector, i)
            if named and not rule.serves(site.family):
                raise RuleError(
                    f"{rule} cannot serve {site.label} (kind {site.kind!r}): row {i} of the composite gives it by "
                    f"{selector!r}. Rules for it: {', '.join(serving(site.family))}"
                )
        return Decision(DEFAULTS.get(site.family, Identity()), "default", None)

    def carries(self) -> str:
        """Where relevance may come to stand on zeros: "nowhere", "entry" (below entries only) or "everywhere"."""
        found = "nowhere"
        for selector, rule in self.rows:
            if rule.gives_zeros and not (isinstance(rule, Pass) and rule.home[0] != "linear"):
                if not isinstance(selector, Entry):
                    return "everywhere"
                found = "entry"
        return found

    def __repr__(self) -> str:
        lines = "".join(f"    ({selector!r}, {rule}),\n" for selector, rule in self.rows)
        return f"{self.name}([\n{lines}])"


def applies(rule: Rule, site: Site, named: bool) -> bool:
    """Whether a row gives its rule to a site that its selector matches. `named`: it asks for the kind."""
    if not rule.serves(site.family):
        return False
    if named:
        return True
    if isinstance(rule, (Gradient, Constant)):
        return True
    if isinstance(rule, LinearRule) or rule.home == ("linear",):
        return site.family == "linear" and site.kind != "scale"
    return site.family in rule.home


def serving(family: str) -> list[str]:
    """Names of the rules that serve a family."""
    import relprop.rules as rules

    found = [v for v in vars(rules).values() if isinstance(v, type) and issubclass(v, Rule)]
    return sorted(r.__name__ for r in found if callable(getattr(r, family, None)) and r not in (Rule, LinearRule))


def as_rows(rows: Sequence[Row] | Rule | Any) -> tuple[Row, ...]:
    """Rows from a list of pairs, or from a rule alone: it is given to every linear map (or its own family)."""
    if isinstance(rows, Rule):
        linear = "linear" in rows.home and set(rows.home) != set(FAMILIES)
        return ((LINEAR_MAPS if linear else All(), rows),)
    if isinstance(rows, Mapping):
        raise SelectorError("a composite is a list of pairs, since their order counts; write list(rows.items())")
    checked = []
    for i, row in enumerate(rows):
        if not (isinstance(row, (tuple, list)) and len(row) == 2):
            raise SelectorError(f"row {i} of a composite must be a pair (selector, rule), got {row!r}")
        selector, rule = row
        if not isinstance(selector, Selector):
            raise SelectorError(f"row {i}: {selector!r} is no selector; write {_meant(selector)}")
        if isinstance(rule, type) and issubclass(rule, Rule):
            raise RuleError(f"row {i}: {rule.__name__} is a rule's class; write {rule.__name__}()")
        if not isinstance(rule, Rule):
            raise RuleError(f"row {i}: {rule!r} is no rule")
        checked.append((selector, rule))
    return tuple(checked)


def as_composite(value: Any) -> Composite:
    """What the user gave as a composite: a composite, a preset's class, a rule, or a list of rows."""
    if isinstance(value, Composite):
        return value
    if isinstance(value, type) and issubclass(value, Composite):
        return value()
    if isinstance(value, Rule):
        return Composite(value, name=str(value))
    if isinstance(value, type) and issubclass(value, Rule):
        return Composite(value(), name=str(value()))
    if isinstance(value, (list, tuple, Mapping)):
        return Composite(as_rows(value))
    raise RuleError(
        f"{value!r} is neither a preset, a composite nor a rule; write one as a value, like rp.EpsilonPlus() or "
        "rp.Epsilon(1e-6), or rows: [(selector, rule), ...]"
    )


def _meant(given: Any) -> str:
    """The selector that somebody probably meant who wrote this in its place."""
    if isinstance(given, str):
        return f'Name("{given}") for a module\'s path, or Kind("{given}") for a kind of operation'
    if isinstance(given, type):
        return f"Type({given.__name__})"
    return 'Name("..."), Kind("...") or Type(...)'
