"""The commands and their options. What takes long to import is imported when a command runs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from relprop.cli.options import model_options, picture_options, rule_options
from relprop.cli.report import report
from relprop.cli.table import table
from relprop.cli.text import text
from relprop.progress import Progress


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, no_args_is_help=True)
@click.version_option(package_name="relprop", message="%(prog)s %(version)s")
def relprop() -> None:
    """Layer-wise relevance propagation for any PyTorch model, unedited."""


@relprop.command()
@click.argument("photo")
@model_options
@rule_options
@click.option("--target", metavar="CLASS", help="Index or name of the class to explain. [default: the strongest]")
@click.option("--classes", metavar="FILE", help="Class names, one a line, where the network's own are not known.")
@click.option("--out", metavar="FILE", help="Picture to write: .png, .svg or .pdf. [default: PHOTO-relevance.png]")
@click.option("--over", is_flag=True, help="Draw the relevance over the photograph.")
@picture_options
@click.option("--shared-scale", is_flag=True, help="One scale for the maps of several presets.")
def explain(
    photo: str,
    model: str,
    weights: str | None,
    size: int | None,
    presets: tuple[str, ...],
    rows: tuple[str, ...],
    target: str | None,
    classes: str | None,
    out: str | None,
    over: bool,
    reduce: str,
    percentile: float,
    smooth: float,
    colours: str,
    shared_scale: bool,
) -> None:
    """Explain what a network saw in PHOTO, and draw it.

    PHOTO is a file, or one of the built-in photographs chelsea, coffee and astronaut. With several --preset
    their maps stand side by side.
    """
    from relprop.cli import output, session
    from relprop.render.figure import check_path
    from relprop.render.palette import palette
    from relprop.render.scale import check_options

    rules = session.Rules.read(presets, rows)
    check_options(reduce, percentile, smooth)
    palette(colours)
    destination = check_path(out or f"{Path(photo).stem}-relevance.png")
    with Progress() as progress:
        progress.step("loading")
        subject = session.prepare(photo, model, weights, size=size, classes=classes)
        progress.step("predicting")
        scores = session.logits(subject)
        index = session.choose_target(target, scores, subject.loaded.names)
    composites = rules.composites(subject)
    output.say_notes(subject.loaded.notes)
    output.say_top(subject, scores)
    explained = output.explain_all(subject, composites, index)
    output.say_explained(subject, scores, index, explained)
    figure = output.draw(
        subject,
        index,
        scores,
        explained,
        over=over,
        reduce=reduce,
        percentile=percentile,
        smooth=smooth,
        colours=colours,
        shared_scale=shared_scale,
    )
    from relprop.render import save

    click.echo(f"wrote {save(figure, destination)}")


@relprop.command()
@click.argument("photo", required=False)
@model_options
@rule_options
def plan(
    photo: str | None,
    model: str,
    weights: str | None,
    size: int | None,
    presets: tuple[str, ...],
    rows: tuple[str, ...],
) -> None:
    """Print which rule every operation of a network gets, and why, without explaining anything.

    PHOTO, if given, is what the forward runs on; otherwise a grey picture.
    """
    from relprop.cli import output, session

    rules = session.Rules.read(presets, rows)
    with Progress() as progress:
        progress.step("loading")
        subject = session.prepare(photo, model, weights, size=size)
    output.say_notes(subject.loaded.notes)
    for _, composite in rules.composites(subject):
        output.say_plan(subject, composite)


@relprop.command()
def rules() -> None:
    """List the rules, and the selectors that say which operations they are for."""
    from relprop.cli import words

    click.echo("rules\n")
    _list(words.rules())
    click.echo("\nselectors; combine them with & (and), | (or), ~ (not)\n")
    _list(words.selectors())
    click.echo("\nexample: --rule \"Name('blocks.*') & Kind('conv')=Gamma(0.25)\"")


@relprop.command()
def presets() -> None:
    """List the presets: published sets of rules."""
    from relprop.cli import words

    _list(words.presets())


def _list(classes: dict[str, Any]) -> None:
    from relprop.cli.words import signature

    for cls in classes.values():
        first = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").strip()
        click.echo(f"  {signature(cls)}")
        click.echo(click.wrap_text(first, width=100, initial_indent="      ", subsequent_indent="      "))


@relprop.command()
@click.option("--out", default="relprop-demo", show_default=True, metavar="FOLDER", help="Where the pictures go.")
@click.option("--photo", "photos", multiple=True, metavar="PHOTO", help="Other photographs than the built-in ones.")
def demo(out: str, photos: tuple[str, ...]) -> None:
    """Explain three photographs with a pretrained network and five presets, and draw them."""
    from relprop.cli.demo import run

    run(Path(out), photos)


relprop.add_command(report)
relprop.add_command(table)
relprop.add_command(text)
