"""The audit: where every unit of relevance went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from relprop.record.books import ENTRIES

#: The unexplained share that is tolerated, relative to the sum of absolute relevance.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.1, torch.complex64: 1e-3}
#: A site that lost less than this part of what is missing did not lose it.
_ROUNDING = 1e-3
_MOST = 12  # functions that a message names
_WORDS = {
    "bias": "biases",
    "epsilon": "epsilon (stabilisers)",
    "constants": "constants and cuts",
    "excess": "rules that do not conserve",
    "excluded": "left out by conditions",
}


@dataclass(frozen=True)
class Audit:
    """The books of one explanation.

    seed = inputs + leaves + bias + epsilon + constants + excess + excluded + unexplained

    seed         relevance put in at the output
    inputs       relevance at each explained input
    leaves       relevance at further leaves (position embeddings, token types, initial states)
    bias         absorbed by biases, by the rules' formulas
    epsilon      absorbed by stabilisers, by formula
    constants    absorbed by constants: addends, pads, detached tensors
    excess       lost or gained where a rule does not conserve (an empty branch, softmax)
    excluded     left out by conditions: at the selected layers by formula; what goes around them, where
                 `exclude_parallel` leaves that out, is the remainder of the part above them
    unexplained  the remainder; the only other entry that is computed as one
    scale        sum of absolute relevance at the inputs and leaves, or at the output if that is more; where all of it
                 cancels there, at the operation inside that most comes to
    sites, books  with audit="sites": what went unexplained at every site, worst first; and the entries of each, by
                 its index in the plan
    tolerance    the share of `scale` up to which `unexplained` is rounding
    conserving   False for gradient methods, which have no books to balance
    """

    seed: float
    inputs: dict[str, float]
    leaves: dict[str, float]
    bias: float
    epsilon: float
    constants: float
    excess: float
    scale: float
    tolerance: float
    conserving: bool = True
    cuts: tuple[tuple[str, str], ...] = ()
    sites: tuple[tuple[str, float], ...] = field(default=())
    native: tuple[str, ...] = ()
    excluded: float = 0.0
    notes: tuple[str, ...] = ()
    books: dict[int, dict[str, float]] = field(default_factory=dict)

    @cached_property
    def explained(self) -> float:
        booked = self.bias + self.epsilon + self.constants + self.excess + self.excluded
        return sum(self.inputs.values()) + sum(self.leaves.values()) + booked

    @property
    def unexplained(self) -> float:
        return self.seed - self.explained

    @property
    def unexplained_share(self) -> float:
        """|unexplained| relative to the sum of absolute relevance."""
        return abs(self.unexplained) / self.scale if self.scale else abs(self.unexplained)

    @property
    def balanced(self) -> bool:
        return not self.conserving or self.unexplained_share <= self.tolerance

    @property
    def worst(self) -> tuple[tuple[str, float], ...]:
        """The sites to show: the five worst; where the books do not balance, without those whose share of what is
        missing is rounding."""
        least = 0.0 if self.balanced else _ROUNDING * abs(self.unexplained)
        return tuple(row for row in self.sites[:5] if not abs(row[1]) < least)

    def rows(self) -> list[tuple[str, float]]:
        rows = [("seed", self.seed)]
        rows += [(f"input {name}", value) for name, value in self.inputs.items()]
        rows += [(f"leaf {name}", value) for name, value in self.leaves.items()]
        rows += [(_WORDS[e], getattr(self, e)) for e in ENTRIES if e != "excluded" or self.excluded]
        return [*rows, ("unexplained", self.unexplained)]

    def _repr_html_(self) -> str:
        from relprop.render import notebook

        return notebook.audit(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __str__(self) -> str:
        if not self.conserving:
            return "audit: a gradient method; its map is not relevance and nothing is conserved"
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        base = abs(self.seed) if abs(self.seed) > 1e-6 * self.scale else self.scale or 1.0
        lines = [f"{name:<{width}}  {value:>12.5g}  {value / base:>8.2%}" for name, value in rows]
        verdict = "balanced" if self.balanced else "NOT BALANCED"
        lines.append(f"{verdict}: unexplained is {self.unexplained_share:.1e} of the absolute relevance "
                     f"(tolerated {self.tolerance:.0e})")  # fmt: skip
        lines += [f"cut: {path or '(model)'}.{name}" for path, name in self.cuts]
        lines += [f"native gradient by request: {name}" for name in self.native]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"worst site: {name}  {value:+.3g}" for name, value in self.worst]
        return "\n".join(lines)


def lost(audit: Audit, natives: Mapping[str, str]) -> str:
    """The sentence that says that no site accounts for what is missing; empty where one does.

    natives  the functions that ran natively, each with a module it ran in
    """
    if audit.worst:
        return ""
    ran = [f"{path or '(model)'}.{name}" for name, path in natives.items()]
    more = f" and {len(ran) - _MOST} more" if len(ran) > _MOST else ""
    which = f". Such ran: {', '.join(ran[:_MOST])}{more}" if ran else ""
    return f"No site accounts for it: an operation that runs natively, without a row in the plan, lost it{which}.\n"


def overgrown(audit: Audit, at_output: Callable[[], float]) -> str | None:
    """The sentence that says that relevance has grown until its rounding outweighs the output.

    The books balance all the same: they are measured by the relevance itself.

    at_output  how much the outputs come to, asked for only where the seed does not settle it
    """
    largest = max(audit.scale, *(abs(getattr(audit, entry)) for entry in ENTRIES))
    double = audit.tolerance == TOLERANCE[torch.float64]
    rounding = largest * torch.finfo(torch.float64 if double else torch.float32).eps  # half types: summed in float32
    if not audit.conserving or rounding <= abs(audit.seed):
        return None
    amount = at_output()
    if rounding <= amount or not amount:  # an output of zero is what its contributions cancel to, and they are shown
        return None
    return (
        f"relevance grew to {largest:.1e} below outputs of {amount:.1e}, so its rounding alone is more than they. "
        "Unless the output itself is but what rounding left of larger contributions, denominators came near zero, "
        'layer after layer: as a rule where biases are left out (bias="zero"), or by gamma in its standard form or '
        'epsilon on inputs of both signs. z+ does not grow, a larger epsilon absorbs, and audit="sites" keeps the '
        "books of every operation"
    )
