"""The errors of the library. Each says what was seen and what to do; nothing is changed when one is raised."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable


class RelpropError(Exception):
    """Base of every error that relprop raises on purpose."""


class InputError(RelpropError, ValueError):
    """The input, target, seed or an option does not fit: shape, range, NaN or infinity, unknown name."""


class ModelStateError(RelpropError, RuntimeError):
    """The model is in a state that has no explanation: random dropout, batch statistics, TorchScript."""


class UnknownOperationError(RelpropError, NotImplementedError):
    """An operation between input and output has no rule. The message names it and the line that registers one."""


class NoPathError(RelpropError, RuntimeError):
    """Nothing of the input reaches the explained output (``detach``, ``no_grad``, integers without embedding)."""


class RuleError(RelpropError, ValueError):
    """A rule's parameter is out of range, or a rule was given to an operation that it cannot serve."""


class SelectorError(RelpropError, ValueError):
    """A selector is malformed, or it matched no executed site."""


class AuditError(RelpropError, ArithmeticError):
    """The books do not balance: the message gives the unexplained share and the worst site."""


class RegistryError(RelpropError, ValueError):
    """A function or node is registered already, or what was registered cannot be used."""


class MissingExtraError(RelpropError, ImportError):
    """An optional package is not installed. The message has the line that installs it."""


class RelpropWarning(UserWarning):
    """Something was done as asked and is probably not what was meant."""


def nearest(name: str, names: Iterable[str], cutoff: float = 0.4, listed: int = 0) -> str:
    """The end of a sentence that says that there is no such name: what may have been meant, whatever its case.

    listed  where nothing is near: how many of them to name, the first ones
    """
    known = {n.lower(): n for n in names if n}
    near = difflib.get_close_matches(name.lower(), known, 3, cutoff)
    if near:
        return f"; nearest names: {', '.join(known[n] for n in near)}"
    return f"; there are: {', '.join([*known.values()][:listed])}" if listed and known else ""


def warn(message: str) -> None:
    """Warn at the line outside this package that led here, so that it is shown once for each such line."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "relprop":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RelpropWarning, stacklevel=level)
