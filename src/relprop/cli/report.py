"""`relprop report`: one page of maps by several presets and for several targets, to switch between."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relprop.cli.options import model_options, picture_options, rule_options
from relprop.progress import Progress

if TYPE_CHECKING:
    from relprop.cli.session import Subject
    from relprop.composite import Composite
    from relprop.explain import Explanation


@click.command("report")
@click.argument("photo")
@model_options
@rule_options
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="CLASS",
    help="Index or name of a class to explain. Repeatable. [default: the strongest]",
)
@click.option("--classes", metavar="FILE", help="Class names, one a line, where the network's own are not known.")
@click.option("--out", "--output", "out", metavar="FILE", help="Page to write: .html. [default: PHOTO-report.html]")
@click.option("--title", default="", metavar="TEXT", help="At the head of the page. [default: what was explained]")
@picture_options
def report(
    photo: str,
    model: str,
    weights: str | None,
    size: int | None,
    presets: tuple[str, ...],
    rows: tuple[str, ...],
    targets: tuple[str, ...],
    classes: str | None,
    out: str | None,
    title: str,
    reduce: str,
    percentile: float,
    smooth: float,
    colours: str,
) -> None:
    """Explain what a network saw in PHOTO, and write a page to look at it.

    PHOTO is a file, or one of the built-in photographs chelsea, coffee and astronaut. With several --preset and
    --target the page switches between their maps. It shows the prediction, the values under the pointer, where the
    relevance went and every operation's rule; it opens from disk and needs nothing from outside.
    """
    from relprop.cli import output, session
    from relprop.extras import require
    from relprop.render import to_html
    from relprop.render.files import check_destination
    from relprop.render.page import SUFFIXES
    from relprop.render.palette import palette
    from relprop.render.scale import check_options

    rules = session.Rules.read(presets, rows)
    check_options(reduce, percentile, smooth)
    palette(colours)
    require("jinja2", "cli", "writing a page")
    destination = check_destination(out or f"{Path(photo).stem}-report.html", SUFFIXES, "a page")
    with Progress() as progress:
        progress.step("loading")
        subject = session.prepare(photo, model, weights, size=size, classes=classes)
        progress.step("predicting")
        scores = session.logits(subject)
    wanted = list(dict.fromkeys(session.choose_target(t, scores, subject.loaded.names) for t in targets or (None,)))
    composites = list(dict(rules.composites(subject)).items())
    output.say_notes(subject.loaded.notes)
    output.say_top(subject, scores)
    maps = explain_all(subject, composites, wanted)
    names = subject.loaded.names if len(subject.loaded.names) == scores.numel() else ()
    for target in wanted:
        click.echo(f"explained: {session.class_name(target, names)} ({target}), score {float(scores[target]):.4g}")
        output.say_audits([(rule, maps[rule, target]) for rule, _ in composites])
    with Progress() as progress:
        progress.step("writing the page")
        to_html(
            {(rule, _target(target, names)): found for (rule, target), found in maps.items()},
            destination,
            subject.view,
            title=title,
            subtitle=f"{model} on {Path(photo).name}",
            names=names,
            reduce=reduce,  # type: ignore[arg-type]  # checked above
            percentile=percentile,
            smooth=smooth,
            colours=colours,
            settings=_settings(subject, photo, model, weights),
            command=command_line(click.get_current_context()),
        )
    click.echo(f"wrote {destination} ({destination.stat().st_size / 1e6:.1f} MB)")


def explain_all(
    subject: Subject, composites: list[tuple[str, Composite]], targets: list[int]
) -> dict[tuple[str, int], Explanation]:
    """One explanation for each pair of rules and target, with a progress line."""
    from relprop.explain import LRP

    found = {}
    with Progress(total=len(composites) * len(targets)) as progress:
        for name, composite in composites:
            lrp = LRP(subject.loaded.model, composite)
            for target in targets:
                progress.step(f"explaining class {target} with {name}")
                found[name, target] = lrp.explain(subject.x, target=target)
    return found


def _target(index: int, names: tuple[str, ...]) -> str:
    return f"{names[index]} ({index})" if index < len(names) else f"class {index}"


def _settings(subject: Subject, photo: str, model: str, weights: str | None) -> dict[str, object]:
    found: dict[str, object] = {"photograph": Path(photo).name, "model": model}
    if weights is not None:
        found["weights"] = Path(weights).name
    return {**found, "input": " x ".join(str(n) for n in subject.x.shape)}


def command_line(context: click.Context) -> str:
    """The command as it can be given again: what differs from the defaults, quoted for a shell."""
    words = ["relprop", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif value not in (None, (), "") and value != parameter.default:
            for one in value if isinstance(value, tuple) else (value,):
                words += [parameter.opts[0], str(one)]
    return shlex.join(words)
