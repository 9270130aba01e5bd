"""Rules, selectors and presets as written on the command line: read by hand, never run."""

from __future__ import annotations

import pytest
from torch import nn

import relprop as rp
from relprop.cli.words import parse_preset, parse_row
from relprop.errors import InputError


@pytest.mark.parametrize(
    ("text", "selector", "rule"),
    [
        ("Name('features.*')=Gamma(0.25)", rp.Name("features.*"), rp.Gamma(0.25)),
        ('Name("a=b")=ZPlus', rp.Name("a=b"), rp.ZPlus()),
        ("Kind('conv') = Epsilon(epsilon=1e-3)", rp.Kind("conv"), rp.Epsilon(epsilon=1e-3)),
        ("Type(nn.Conv2d, torch.nn.Linear)=Zero()", rp.Type(nn.Conv2d, nn.Linear), rp.Zero()),
        ("Entry(Kind('conv'))=ZBox(low=-0.5/0.25, high=+2)", rp.Entry(rp.Kind("conv")), rp.ZBox(-2.0, 2)),
        ("Entry=Flat", rp.Entry(), rp.Flat()),
        ("FirstN(7)=AlphaBeta(2, 1)", rp.FirstN(7), rp.AlphaBeta(2, 1)),
        ("Range(0, 7, Kind('linear'))=WSquare()", rp.Range(0, 7, rp.Kind("linear")), rp.WSquare()),
        (
            "(Name('a') | Name('b')) & ~Kind('pool')=Pass()",
            (rp.Name("a") | rp.Name("b")) & ~rp.Kind("pool"),
            rp.Pass(),
        ),
        ("All()=Gamma(variant='standard', gamma=1/4*2)", rp.All(), rp.Gamma(0.5, variant="standard")),
    ],
)
def test_what_is_written_is_what_python_would_make(text: str, selector: rp.Name, rule: rp.Rule) -> None:
    assert parse_row(text) == (selector, rule)


def test_presets_with_and_without_arguments() -> None:
    assert parse_preset("EpsilonPlus") == parse_preset("EpsilonPlus()") == rp.EpsilonPlus()
    assert parse_preset("EpsilonGammaBox(low=-1, high=(1-.5)/.25)") == rp.EpsilonGammaBox(low=-1, high=2.0)
    assert parse_preset("Gamma(1)").rows == rp.Composite(rp.Gamma(1)).rows


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch x')=Gamma()",
        "Name(__import__('os').getcwd())=Gamma()",
        "Name('a').__class__=Gamma()",
        "Name('a')=Gamma().__init__",
        "Name(*['a'])=Gamma()",
        "Name(**{'a': 1})=Gamma()",
        "Name('a')=(lambda: 1)()",
        "Name('a')=[Gamma() for i in range(3)]",
        "Name(f'{1}')=Gamma()",
        "Name('a')=Gamma(2 ** 9)",
        "Name('a')=Gamma(open('x'))",
        "Name('a')=exec('1')",
        "Name('a')=Gamma('1' * 10)",
        "Name('a')=Gamma(1j)",
        "Name('a')=Gamma(1 if 1 else 2)",
        "Type(nn.functional.relu)=Gamma()",
        "Type(nn.Module.forward)=Gamma()",
        "Name('a')=Name('b')",
        "Gamma()=Gamma()",
        "Name('a')=3",
        "3=Gamma()",
        "~3=Gamma()",
        "Name('a') & 3=Gamma()",
        "Name('a')=Rule()",
        "Selector()=Gamma()",
        "Name()=Gamma()",
        "Name(3)=Gamma()",
        "Name('a')=Gamma(",
        "Name('a'=Gamma()",
        "=Gamma()",
        "Name('a')=",
        "",
        "=",
        "Name('a')=" + "(" * 500 + "Gamma()" + ")" * 500,
        "Name('a')=Gamma(" + "-" * 5000 + "1)",
        "Name('a\x00')=Gamma()",
        "Name('a')=Gamma(1/0)",
        "Name('a')=Gamma(0.1, gamma=0.2)",
    ],
)
def test_nothing_else_is_carried_out(text: str) -> None:
    with pytest.raises(InputError):
        parse_row(text)


def test_the_nearest_words_are_offered() -> None:
    with pytest.raises(InputError, match="unknown selector 'Nme'; nearest names: Name"):
        parse_row("Nme('a')=Gamma()")
    with pytest.raises(InputError, match="unknown rule 'gamma'; nearest names: Gamma"):
        parse_row("Name('a')=gamma()")
    with pytest.raises(InputError, match="unknown preset 'Zero_'; nearest names: Zero"):
        parse_preset("Zero_")
    with pytest.raises(InputError, match=r"unknown selector 'blocks'; a text stands in quotes: Name\('blocks'\)$"):
        parse_row("Name(blocks)=Gamma()")
    with pytest.raises(InputError, match=r"unknown rule 'half'; nearest .*; a text stands in quotes: Gates\('half'\)"):
        parse_row("Name('a')=Gates(half)")
