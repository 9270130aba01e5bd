"""What is remembered of a linear map for a batch norm that may follow it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from relprop.composite import Decision
from relprop.ops import LinearMap
from relprop.site import Site


class Producer:
    """The linear map that made a tensor, for a batch norm that follows.

    captures  what the batch norm's result passes, as the map's own did: from the innermost place outwards
    """

    __slots__ = ("_operand", "_version", "captures", "decision", "op", "site")

    def __init__(self, op: LinearMap, site: Site, decision: Decision, operand: Tensor) -> None:
        self.op, self.site, self.decision = op, site, decision
        self._operand: Any = operand
        self._version = operand._version
        self.captures: list[Callable[[Tensor], Tensor]] = []

    def operand(self) -> Tensor | None:
        tensor = self._operand() if isinstance(self._operand, weakref.ref) else self._operand
        return tensor if tensor is not None and tensor._version == self._version else None

    def loosen(self) -> None:
        """Another call than a batch norm has read the output: no chain of outputs may keep all that came before."""
        if not isinstance(self._operand, weakref.ref):
            self._operand = weakref.ref(self._operand)
