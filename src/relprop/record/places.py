"""Places: the addresses at which relevance can be read, selected, started and stopped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from relprop.errors import InputError

INPUT = ":in"


@dataclass(frozen=True)
class Place:
    """One address, as `place` reads it.

    "layer4", "blocks.*.attn"   what the modules of these names return
    "layer4:in"                 what they are given
    "conv1.weight"              the weights of linear maps: relevance that passes through every entry
    "layer4.0.add", "*.relu#1"  what an operation returns, by its label in the plan

    A pattern that fits modules means modules; else parameters; else operations, which are known once they have run.
    """

    text: str
    pattern: str
    kind: Literal["output", "input", "parameter", "site"]

    def fits(self, kind: str, name: str) -> bool:
        return kind == self.kind and fnmatchcase(name, self.pattern)


def place(model: nn.Module, text: str, asked: str, *, parameters: bool = True) -> Place:
    """The place that a text names in this model. Raises `InputError` with the nearest names where there is none.

    asked  the argument that it was given by
    """
    if not isinstance(text, str):
        raise InputError(f"{asked}: a place is named by a string, got {text!r}")
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    if text.endswith(INPUT):
        pattern = text.removesuffix(INPUT)
        if not any(fnmatchcase(m, pattern) for m in modules):
            raise InputError(f"{asked}: no module is named {pattern!r}{nearest(pattern, modules)}")
        return Place(text, pattern, "input")
    if any(fnmatchcase(m, text) for m in modules):
        return Place(text, text, "output")
    known = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if any(fnmatchcase(p, text) for p in known):
        if not parameters:
            raise InputError(f"{asked}: {text!r} names parameters: here modules and operations are wanted")
        return Place(text, text, "parameter")
    owner, dot, _ = text.rpartition(".")
    if not (owner in ("(model)", *modules) if dot and "*" not in text else dot):
        raise InputError(f"{asked}: no module or parameter is named {text!r}{nearest(text, [*modules, *known])}")
    return Place(text, text, "site")


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a sentence: what may have been meant."""
    near = difflib.get_close_matches(name, [n for n in names if n], 3, 0.4)
    return f"; nearest names: {', '.join(near)}" if near else ""
