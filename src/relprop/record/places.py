"""Places: the addresses at which relevance can be read, selected, started and stopped."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from relprop.errors import InputError, nearest

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
        path = next((n for n, m in model.named_modules() if m is text), None)
        got = f"got {text!r}" if path is None else f"not by the module itself: {path!r}"
        raise InputError(f"{asked}: a place is named by a string, {got}")
    known = module_names(model)
    if text.endswith(INPUT):
        pattern = text.removesuffix(INPUT)
        if not any(fnmatchcase(m, pattern) for m in known):
            raise InputError(f"{asked}: no module is named {pattern!r}{nearest(pattern, known)}")
        return Place(text, pattern, "input")
    if any(fnmatchcase(m, text) for m in known):
        return Place(text, text, "output")
    weights = parameter_names(model)
    if any(fnmatchcase(p, text) for p in weights):
        if not parameters:
            raise InputError(f"{asked}: {text!r} names parameters: here modules and operations are wanted")
        return Place(text, text, "parameter")
    owner, dot, _ = text.rpartition(".")
    if not (owner in ("(model)", *known) if dot and "*" not in text else dot):
        raise InputError(f"{asked}: no module or parameter is named {text!r}{nearest(text, [*known, *weights])}")
    return Place(text, text, "site")


def module_names(model: nn.Module) -> list[str]:
    """The paths of all modules, those of a tied one too."""
    return [name for name, _ in model.named_modules(remove_duplicate=False)]


def parameter_names(model: nn.Module) -> list[str]:
    """The names of all parameters, those of a tied one too."""
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]
