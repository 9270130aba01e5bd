"""The plan: which rule each site gets, and why, printable before anything is propagated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relprop.composite import Decision
from relprop.errors import InputError, nearest
from relprop.site import Site

_WIDE = 60  # letters of a reason that are printed


@dataclass(frozen=True)
class Plan:
    """The sites of one forward with their rules.

    composite   name of the composite
    sites       in order of execution
    decisions   the rule of each site and the row of the composite that gave it
    cuts        places where the gradient ends (module path, function)
    notes       what was decided about the call as a whole
    unknown     operations without a rule on the way to the model's main output (module path, operation); known to
                `LRP.plan` alone, for `explain` refuses them or lists them in the audit
    """

    composite: str
    sites: tuple[Site, ...]
    decisions: tuple[Decision, ...]
    cuts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[tuple[Site, Decision]]:
        return iter(zip(self.sites, self.decisions, strict=True))

    def __len__(self) -> int:
        return len(self.sites)

    def rule(self, path: str) -> str:
        """The rule at the first site in a module. Raises `InputError` where none ran."""
        found = next((str(d.rule) for s, d in self if path in s.paths), None)
        if found is None:
            known = dict.fromkeys(p for site in self.sites for p in site.paths)
            raise InputError(f"no operation ran in a module named {path!r}{nearest(path, known)}")
        return found

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(site, kind, rule, why) for every site."""
        table = []
        for site, decision in self:
            kind = site.kind if not site.notes else f"{site.kind} ({'; '.join(dict.fromkeys(site.notes))})"
            why = decision.why + (" [entry]" if site.entry else "")
            table.append((site.label, kind, str(decision.rule), why))
        return table

    def summary(self) -> str:
        """How many sites of each kind get which rule."""
        counts = Counter((s.kind, str(d.rule)) for s, d in self)
        lines = [f"{self.composite}: {len(self.sites)} sites"]
        lines += [f"  {n:4d} x {kind:<12} {rule}" for (kind, rule), n in counts.items()]
        return "\n".join([*lines, *self.remarks()])

    def _repr_html_(self) -> str:
        from relprop.render import notebook

        return notebook.plan(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def remarks(self) -> list[str]:
        """What is to be said besides the sites: cuts, operations without a rule, notes."""
        lines = [f"cut (no relevance passes): {path or '(model)'}.{name}" for path, name in self.cuts]
        lines += [f"no rule (explain refuses it, and says how to give it one): {path or '(model)'}.{name}"
                  for path, name in self.unknown]  # fmt: skip
        return [*lines, *self.notes]

    def __str__(self) -> str:
        header = ("site", "kind", "rule", "why")
        table: Sequence[tuple[str, ...]] = [header, *((*row[:3], _shortened(row[3])) for row in self.rows())]
        widths = [max(len(row[i]) for row in table) for i in range(3)]
        lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in table]
        return "\n".join([self.composite, *lines, *self.remarks()])


def _shortened(why: str) -> str:
    """A reason that fits on a line: some presets' selectors list many names. `rows` has it whole."""
    return why if len(why) <= _WIDE else f"{why[: _WIDE - 4]} ..."
