"""Options that several commands share: which network, and which rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

Command = Callable[..., Any]


def model_options(command: Command) -> Command:
    """The options that say which network, with which weights."""
    options = [
        click.option(
            "--model",
            default="efficientnet-lite0",
            show_default=True,
            metavar="MODEL",
            help="efficientnet-lite0, torchvision:NAME, timm:NAME, or FILE.py:FACTORY.",
        ),
        click.option(
            "--weights",
            metavar="FILE",
            help="Weights: .safetensors, or a state dict as torch.save writes it. Never a pickled model.",
        ),
        click.option("--size", type=click.IntRange(1), help="Side of the network's input, if not its own."),
    ]
    return _with(command, options)


def rule_options(command: Command) -> Command:
    """The options that say which rules."""
    options = [
        click.option(
            "--preset",
            "presets",
            multiple=True,
            metavar="NAME",
            help='A preset, with arguments if it has any: "EpsilonGammaBox(low=-2, high=2)". '
            "See relprop presets. Repeatable. [default: the one that suits the network]",
        ),
        click.option(
            "--rule",
            "rows",
            multiple=True,
            metavar="SELECTOR=RULE",
            help="A rule for chosen operations, before the preset's: \"Name('blocks.0.*')=Gamma(0.25)\". "
            "Repeatable, the first that matches wins. See relprop rules.",
        ),
    ]
    return _with(command, options)


def picture_options(command: Command) -> Command:
    """The options that say how maps are drawn."""
    options = [
        click.option(
            "--reduce", default="sum", show_default=True, help="Channels to one number: sum, positive, norm, ..."
        ),
        click.option(
            "--percentile", type=float, default=99.5, show_default=True, help="Of strengths, that the scale ends at."
        ),
        click.option("--smooth", type=float, default=0.0, show_default=True, help="Gaussian, in pixels of the input."),
        click.option("--colours", default="relevance", show_default=True, help="Colour map."),
    ]
    return _with(command, options)


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """The command with these options, in the order in which its help lists them."""
    for option in reversed(options):
        command = option(command)
    return command
