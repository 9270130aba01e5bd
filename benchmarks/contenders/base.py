"""What a contender is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from benchmarks.cases import Problem

Call = Callable[[], Tensor]
"""One explanation from scratch, forward included: the input's relevance, in the scale of the explained value.

Of a problem with several targets it is `[M, *x.shape]`.
"""


class NotOffered(Exception):
    """The library has no such rule set."""


@dataclass(frozen=True)
class Contender:
    """A library, or plain torch.

    `prepare(problem, preset)` does what the library lets its users do once and returns the call that is
    measured; it raises `NotOffered` where the library has no such rules. It may change the problem's model. A
    contender that changes more than that (classes, say) is `apart`: it gets a process of its own.
    """

    name: str
    prepare: Callable[[Problem, str], Call]
    package: str | None = None
    apart: bool = False

    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def version(self) -> str | None:
        """The installed version; "source" of a package that is importable without being installed."""
        if self.package is None or not self.installed():
            return None
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return "source"
