"""`relprop text`: which words made a language model say that, or make two sentences alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relprop.cli.words import parse_preset
from relprop.errors import InputError
from relprop.progress import Progress

if TYPE_CHECKING:
    from relprop.text.result import Shown

_CAUSAL, _ENCODER = "smollm2", "minilm"


@click.command()
@click.argument("text")
@click.option(
    "--model",
    metavar="MODEL",
    help=f"{_CAUSAL}, {_ENCODER}, a folder that save_pretrained wrote, or a .gguf file. "
    f"[default: {_CAUSAL}, with --similar-to {_ENCODER}]",
)
@click.option(
    "--target",
    metavar="TOKEN",
    help="The next token to explain, as it is written, its leading space too (' Paris'), or #ID. [default: the "
    "likeliest]",
)
@click.option("--contrast", metavar="TOKEN", help="Explain by how much the target is preferred to this token.")
@click.option("--generate", metavar="N", type=click.IntRange(1), help="Let it answer in up to N tokens; explain each.")
@click.option("--similar-to", "other", metavar="TEXT", help="Explain how alike the two texts are.")
@click.option("--preset", metavar="NAME", help="Rules; see relprop presets. [default: AttnLRP]")
@click.option("--page", metavar="N", type=click.IntRange(1), help="The page of a long text to show.")
@click.option("--out", metavar="FILE", help="Write it too: .html (a page), .json (the numbers), .png, .svg or .pdf.")
def text(
    text: str,
    model: str | None,
    target: str | None,
    contrast: str | None,
    generate: int | None,
    other: str | None,
    preset: str | None,
    page: int | None,
    out: str | None,
) -> None:
    """Explain a language model word by word: what made it go on as it does after TEXT.

    TEXT is the text itself, or - to read it from standard input.
    """
    if other is not None and (target or contrast or generate):
        raise InputError("--similar-to compares two texts: leave out --target, --contrast and --generate")
    if generate and (target or contrast):
        raise InputError("--generate explains the model's own answer: leave out --target and --contrast")
    rules = None if preset is None else parse_preset(preset)
    destination = None if out is None else _destination(out)
    said = sys.stdin.read() if text == "-" else text
    for name, value in (("TEXT", said), ("--similar-to", other)):
        if value is not None and not value.strip():
            raise InputError(f"{name} is empty: there is nothing to explain")

    from relprop.text import explain_generation, explain_next, explain_similarity, load
    from relprop.text.models import import_transformers

    with Progress() as progress:
        progress.step("importing transformers")
        import_transformers()
    loaded = load(model or _CAUSAL, "causal") if other is None else load(model or _ENCODER, "encoder")
    if other is None and loaded.kind != "causal":
        raise InputError(f"{model} is a sentence encoder, it says nothing: compare texts with --similar-to")
    if other is not None and loaded.kind != "encoder":
        raise InputError(f"{model} is no sentence encoder: leave out --similar-to, or take --model {_ENCODER}")
    found: Shown
    if generate:
        found = explain_generation(loaded.model, loaded.tokenizer, said, generate, composite=rules)
    else:
        with Progress() as progress:
            progress.step("explaining")
            if other is None:
                found = explain_next(
                    loaded.model, loaded.tokenizer, said, _token(target), _token(contrast), composite=rules
                )
            else:
                found = explain_similarity(loaded.model, loaded.tokenizer, said, other, loaded.pooling, rules)
    found.show(page=page)
    if destination is not None:
        click.echo(f"wrote {found.save(destination)}")


def _token(said: str | None) -> str | int | None:
    """A token as written, or its id as in ``#7042``."""
    if said is not None and said.startswith("#") and said[1:].isdigit():
        return int(said[1:])
    return said


def _destination(out: str) -> Path:
    """Where to write, asked before the work begins."""
    from relprop.render.files import check_destination
    from relprop.text.result import SUFFIXES

    return check_destination(out, SUFFIXES, "what was found")
