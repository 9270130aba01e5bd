"""Where relevance ends inside a model: the calls whose results go on as constants."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch

from relprop.record.checkpoints import REENTRANT
from relprop.record.scope import ModuleScope
from relprop.record.tensors import tensors

#: Between a custom Function's call and its `forward`, in whatever style that is written.
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


class Cuts:
    """The cuts of one forward, each a module's path and a function's name, in the order of execution."""

    def __init__(self, scope: ModuleScope) -> None:
        self._scope = scope
        self._found: dict[tuple[str, str], None] = {}
        #: Those that torch has no derivative for.
        self.underived: dict[tuple[str, str], None] = {}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, name: str, underived: bool = False) -> None:
        """What a call of that name gives in the running module counts as a constant.

        underived  it is torch's own, and no gradient was switched off
        """
        self._found[self._scope.paths[0], name] = None
        if underived:
            self.underived[self._scope.paths[0], name] = None

    def note(self, func: Any, result: Any) -> None:
        """The gradient ends at a call: a cut, unless nothing of value was cut or a custom Function is running."""
        if not any(t.is_floating_point() for t in tensors(result)):
            return
        frame: Any = sys._getframe(1)
        depth, inner = 0, None
        while (frame := frame.f_back) is not None:
            if depth < 3 and frame.f_code.co_filename == REENTRANT.co_filename:
                return  # activation checkpointing at its own work
            if frame.f_code is _APPLY and inner is not REENTRANT:
                return  # its node in the graph is judged, and whatever it calls stands below that
            depth, inner = depth + 1, frame.f_code
        name = getattr(func, "__name__", str(func))
        self.add("data" if name == "__get__" else name)
