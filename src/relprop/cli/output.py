"""What the commands print, and the work between: prediction, plan in short, audit, picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
from torch import Tensor

from relprop.cli.session import Subject, class_name, top
from relprop.composite import Composite
from relprop.explain import LRP, Explanation
from relprop.plan import Plan
from relprop.progress import Progress
from relprop.render import grid

Explained = list[tuple[str, Explanation]]


def say_notes(notes: Iterable[str]) -> None:
    """What a user should know first, on standard error."""
    for note in notes:
        click.echo(f"note: {note}", err=True)


def say_top(subject: Subject, scores: Tensor) -> None:
    """The strongest classes with their probabilities."""
    for index, name, share in top(scores, subject.loaded.names):
        click.echo(f"  {share:6.1%}  {name} ({index})")


def plan_of(subject: Subject, composite: Composite) -> Plan:
    """The plan, with a progress line."""
    with Progress() as progress:
        progress.step(f"planning {composite.name}")
        return LRP(subject.loaded.model, composite).plan(subject.x)


def say_plan(subject: Subject, composite: Composite) -> None:
    """Every operation with its rule."""
    click.echo(str(plan_of(subject, composite)))


def say_plan_in_short(subject: Subject, composite: Composite) -> None:
    """How many operations get which rule."""
    click.echo("plan of " + plan_of(subject, composite).summary())


def explain_all(subject: Subject, composites: Sequence[tuple[str, Composite]], target: int) -> Explained:
    """One explanation for each composite, with a progress line."""
    explained = []
    with Progress(total=len(composites)) as progress:
        for name, composite in composites:
            progress.step(f"explaining with {name}")
            explained.append((name, LRP(subject.loaded.model, composite).explain(subject.x, target=target)))
    return explained


def say_audits(explained: Explained) -> None:
    """One explanation's books in full; of several a line each."""
    if len(explained) == 1:
        click.echo(str(explained[0][1].audit))
        return
    header = ("", "seed", "input", "bias", "epsilon", "constants", "excess", "unexplained")
    rows = [header] + [(name, *_entries(explanation.audit)) for name, explanation in explained]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        first, *others = row
        numbers = "  ".join(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        click.echo(f"  {first.ljust(widths[0])}  {numbers}".rstrip())


def _entries(audit: Any) -> tuple[str, ...]:
    if not audit.conserving:
        return ("a gradient", "", "", "", "", "", "")
    inputs = sum(audit.inputs.values()) + sum(audit.leaves.values())
    entries = (audit.seed, inputs, audit.bias, audit.epsilon, audit.constants, audit.excess)
    mark = "" if audit.balanced else " NOT BALANCED"
    return (*(f"{_zero(entry):.3g}" for entry in entries), f"{audit.unexplained_share:.0e}{mark}")


def _zero(value: float) -> float:
    """Without the sign that rounding left on a zero."""
    return 0.0 if abs(value) < 5e-7 else value


def headline(subject: Subject, target: int, scores: Tensor) -> str:
    """The explained class as people write it, with its probability."""
    names = subject.loaded.names if len(subject.loaded.names) == scores.numel() else ()
    return f"{class_name(target, names)} {float(scores.softmax(-1)[target]):.2f}"


def say_explained(subject: Subject, scores: Tensor, target: int, explained: Explained) -> None:
    """What was explained, and where the relevance went."""
    names = subject.loaded.names if len(subject.loaded.names) == scores.numel() else ()
    click.echo(f"explained: {class_name(target, names)} ({target}), whose score is {float(scores[target]):.4g}")
    say_audits(explained)


def draw(subject: Subject, target: int, scores: Tensor, explained: Explained, **options: Any) -> Any:
    """The photograph and beside it the maps."""
    return grid(
        [explanation.relevance for _, explanation in explained],
        [name if len(name) < 34 else name.split("(")[0] for name, _ in explained],
        photo=subject.view,
        photo_title=headline(subject, target, scores),
        **options,
    )
