"""The demo: a pretrained network, three photographs, five presets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from relprop.cli import output, session
from relprop.errors import InputError
from relprop.models import load_model, read_photo
from relprop.models.photos import BUILT_IN
from relprop.progress import Progress
from relprop.render import save
from relprop.render.figure import check_path

PRESETS = ("EpsilonPlusFlat", "EpsilonGammaBox", "EpsilonAlpha2Beta1Flat", "EpsilonPlus", "UniformEpsilon")


def run(folder: Path, photos: Sequence[str] = ()) -> None:
    """Explain the photographs and write a picture for each.

    Raises:
        InputError: for a folder that cannot be made, or a photograph that cannot be read.
        MissingExtraError: where the demo's packages are not installed.
    """
    chosen = tuple(photos) or BUILT_IN
    rules = session.Rules.read(PRESETS, ())
    with Progress(total=len(chosen) + 1) as progress:
        progress.step("loading the network")
        loaded = load_model(session.DEFAULT_MODEL)
        subjects = []
        for photo in chosen:
            progress.step(f"reading {photo}")
            subjects.append(session.look_at(read_photo(photo), loaded))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error
    paths = [check_path(folder / f"{Path(photo).stem}.png") for photo in chosen]

    composites = rules.composites(subjects[0])
    output.say_plan_in_short(subjects[0], composites[0][1])
    written = []
    for photo, subject, path in zip(chosen, subjects, paths, strict=True):
        click.echo(f"\n{photo}")
        scores = session.logits(subject)
        output.say_top(subject, scores)
        index = session.choose_target(None, scores, subject.loaded.names)
        explained = output.explain_all(subject, composites, index)
        output.say_explained(subject, scores, index, explained)
        written.append(save(output.draw(subject, index, scores, explained), path))
    click.echo(
        "\ninput, bias, ...: where the score went. What biases absorb does not reach the photograph; with\n"
        "--preset \"EpsilonPlusFlat(bias='zero')\" relprop explain passes it on."
    )
    click.echo("\nwrote " + "\n      ".join(str(path) for path in written))
