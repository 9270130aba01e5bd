"""The public surface: what `help`, completion and a star import show of the package and its public parts."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

import relprop as rp

PARTS = ["concepts", "metrics", "models", "presets", "render", "tabular", "text", "tuning", "adapters.julia"]


def public(module: ModuleType) -> dict[str, Any]:
    """What a module has under a public name and is no module itself."""
    return {n: v for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)}


@pytest.mark.parametrize("part", ["", *PARTS])
def test_help_lists_what_there_is(part: str) -> None:
    module = importlib.import_module(f"relprop.{part}".rstrip("."))
    known = public(module)
    assert sorted(module.__all__) == sorted(known)
    text = pydoc.plain(pydoc.render_doc(module))
    for name, value in known.items():
        assert inspect.getdoc(value), f"{name} has no docstring"
        if inspect.isfunction(value) or inspect.isclass(value):
            assert re.search(rf"^    (class )?{name}(\(| = )", text, re.M), name


def test_parts_are_completed_before_they_are_imported() -> None:
    code = (
        "import sys, relprop as rp; assert 'relprop.concepts' not in sys.modules\n"
        "assert {'concepts', 'render', 'tune', 'LRP', 'Epsilon', '__doc__'} <= set(dir(rp)), dir(rp)\n"
        "assert 'relprop.concepts' not in sys.modules\n"
        "from relprop import *\n"
        "LRP, Epsilon"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_one_word_a_thing() -> None:
    """Arguments of our own that mean one thing have one name; those of the adapters are their systems'."""
    other = {"batch", "most", "n_trials", "bs", "k", "num", "preset"}
    allowed = {
        ("relprop.concepts.Walks.top_walks", "most"),  # a bound on the search, beside how many are wanted
        ("relprop.tabular.Explainer", "preset"),  # as explainiverse's users know it
    }
    found = set()
    for part in [p for p in PARTS if not p.startswith("adapters")] + [""]:
        module = importlib.import_module(f"relprop.{part}".rstrip("."))
        for name, value in public(module).items():
            made = {name: value} if callable(value) else {}
            if inspect.isclass(value):
                made |= {f"{name}.{n}": f for n, f in vars(value).items() if inspect.isfunction(f) and n[0] != "_"}
            for path, function in made.items():
                if inspect.isclass(function) and issubclass(function, (tuple, dict, BaseException)):
                    continue  # what is handed out, not asked for
                used = other & set(inspect.signature(function).parameters)
                found |= {(f"{module.__name__}.{path}", word) for word in used}
    assert found == allowed


def test_what_is_drawn_is_drawn_by_one_word() -> None:
    for part in PARTS:
        for name, value in public(importlib.import_module(f"relprop.{part}")).items():
            if inspect.isclass(value) and "save" in vars(value) and part != "adapters.julia":
                drawn = {n for n in ("figure", "draw", "plot", "picture") if n in vars(value)}
                assert drawn == {"picture"}, f"{part}.{name}"


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'EpsilonGamma'; nearest names: EpsilonGammaBox"):
        rp.EpsilonGamma  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'concept'; nearest names: concepts"):
        rp.concept  # noqa: B018
