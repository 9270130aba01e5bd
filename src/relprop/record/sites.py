"""The sites of one forward, in the order of execution, each with its rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from relprop.composite import Composite, Decision
from relprop.ops import Op
from relprop.record.facts import NOTHING, Facts
from relprop.record.scope import ModuleScope
from relprop.selectors import Positions
from relprop.site import Site

#: At the least so many frames of ours stand between the lookup of a site's module and the call that it is the site of.
_HANDLERS = 4


class Sites:
    """What ran, and what the composite says of it.

    carry      where relevance may stand on zeros: "nowhere", "entry" (below entries), "everywhere"
    decided    what this composite has said of this model's sites
    positions  where sites stand among those that the composite's selectors count
    """

    def __init__(
        self,
        composite: Composite,
        carry: str,
        scope: ModuleScope,
        facts: Facts,
        totals: Any,
        decided: dict[Any, Decision] | None = None,
    ) -> None:
        self._decided = decided
        self._static = composite.census.static and type(composite).decide is Composite.decide
        self.composite, self.carry = composite, carry
        self.positions = Positions(composite.census, totals)
        self._scope, self._facts = scope, facts
        self._sites: list[Site] = []
        self._decisions: list[Decision] = []
        self._carrying: list[bool] = []
        self._calls: dict[str, int] = {}
        self._replayed: dict[str, int] | None = None
        self._memory: dict[tuple[tuple[str, ...], str, int], tuple[Site, Decision, bool]] = {}
        self._all_entries = frozenset(hash(e) for e in self.positions.entries)

    def __iter__(self) -> Iterator[tuple[Site, Decision]]:
        return zip(self._sites, self._decisions, strict=True)

    def __len__(self) -> int:
        return len(self._sites)

    def columns(self) -> tuple[tuple[Site, ...], tuple[Decision, ...]]:
        """All sites, and the decision for each."""
        return tuple(self._sites), tuple(self._decisions)

    def here(self, kind: str, name: str, family: str, count: bool = True) -> Site:
        """The site of a call in the running module; `count`: it is to be the next of its name."""
        module, paths = self._scope.where(_HANDLERS)
        key = f"{paths[0]}.{name}"
        call = self._calls.get(key, 0)
        if count:
            self._calls[key] = call + 1
        if self._replayed is not None:
            call %= max(self._replayed.get(key, 1), 1)
        return Site(paths, type(module) if module else None, kind, name, family, len(self._sites), call)

    def decide(self, op: Op, name: str, seen: frozenset[int]) -> tuple[Site, Decision, frozenset[int]]:
        """The site, its rule, and what lies below its output. A recomputation gets what the first pass gave."""
        site = self.here(op.kind, name, op.family)
        if self._replayed is not None and (met := self._memory.get((site.paths, name, site.call))) is not None:
            site, decision, op.carrying = met
            return site, decision, seen | site.entry
        if self.carry != "nowhere":
            op.carrying = self.carrying(seen)
        seen = self.positions.visit(site, seen)
        decision = self._decision(site)
        if site.entry and self.carry == "entry":
            op.carrying = False
        self._sites.append(site)
        self._decisions.append(decision)
        self._carrying.append(op.carrying)
        return site, decision, seen

    def _decision(self, site: Site) -> Decision:
        """What the composite says of the site: asked once of sites that are alike to it."""
        if self._decided is None or not self._static:
            return self.composite.decide(site)
        key = (site.kind, site.name, site.family, site.module_type, site.paths)
        decision = self._decided.get(key)
        if decision is None:
            decision = self._decided[key] = self.composite.decide(site)
        return decision

    def replay(self) -> None:
        """What is met from now on is computed again."""
        self._replayed = dict(self._calls)
        met = zip(self._sites, self._decisions, self._carrying, strict=True)
        self._memory = {(found[0].paths, found[0].name, found[0].call): found for found in met}

    def carrying(self, seen: frozenset[int]) -> bool:
        """Whether relevance may stand on zeros above which these entries lie."""
        return self.carry == "everywhere" or (self.carry == "entry" and not seen)

    def below(self, given: Iterable[Tensor]) -> frozenset[int]:
        """The entries that lie between the input and these tensors, those that depend on it."""
        if not self.positions.entries:
            return NOTHING
        if self._replayed is not None:
            return self._all_entries
        return frozenset().union(*(self._facts.seen(t) for t in given))
