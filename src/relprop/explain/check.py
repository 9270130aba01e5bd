"""Coverage: what a model's forward is made of, before anything is propagated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from relprop.composite import Composite
from relprop.errors import InputError
from relprop.explain.forward import Forward, Request, record
from relprop.explain.seed import main_output
from relprop.plan import Plan
from relprop.record.coverage import Unknown, walk


@dataclass(frozen=True)
class Coverage:
    """What is covered.

    plan     the sites and their rules
    nodes    number of autograd nodes between input and output
    unknown  those without a rule: explaining raises unless `unknown="gradient"`
    """

    plan: Plan
    nodes: int
    unknown: tuple[Unknown, ...]

    @property
    def complete(self) -> bool:
        return not self.unknown

    def __str__(self) -> str:
        lines = [self.plan.summary(), f"autograd nodes between input and output: {self.nodes}"]
        counts = Counter(self.unknown)
        lines += [f"  no rule: {n} x {u.node} ({u.path or '(model)'}.{u.function})" for u, n in counts.items()]
        lines.append("every node has a rule" if self.complete else 'explaining needs rules, or unknown="gradient"')
        return "\n".join(lines)


def coverage(
    model: nn.Module, composite: Composite, args: Any, kwargs: Any, target: Any, totals: Any, notes: tuple[str, ...]
) -> Coverage:
    """Run the forward and walk its graph."""
    request = Request(targets=(target if target is not None else main_output,), seed="value", lenient=True)
    forward = record(model, composite, args, kwargs, request, totals, notes)
    return Coverage(forward.plan(), forward.nodes, tuple(forward.recorder.unknown))


def without_rule(forward: Forward) -> tuple[tuple[str, str], ...]:
    """Where operations without a rule lie on the way to the model's main output, and which; none where no output can
    be told to be that."""
    try:
        output = main_output(forward.output)
    except InputError:
        return ()
    found, _ = walk([output])
    return tuple(dict.fromkeys((u.path, u.function or u.node) for u in found))
