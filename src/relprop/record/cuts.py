"""Where relevance ends inside a model: the calls whose results go on as constants."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

from torch.autograd.function import Function

from relprop.ops import name_of
from relprop.record.checkpoints import REENTRANT
from relprop.record.scope import ModuleScope
from relprop.record.tensors import tensors


def _bodies() -> Iterator[CodeType]:
    """What the forwards of all custom Functions run, in either style; not that of checkpoints."""
    classes: list[type[Function]] = Function.__subclasses__()
    while classes:
        each = classes.pop()
        classes += each.__subclasses__()
        for method in (each.forward, each.setup_context):
            code = _run(method)
            if code is not None and code is not REENTRANT:
                yield code


@lru_cache(maxsize=1024)
def _run(method: Callable[..., Any]) -> CodeType | None:
    """What a function runs under its decorators: what these run, others run too."""
    return getattr(inspect.unwrap(method), "__code__", None)


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
        depth, bodies = 0, set(_bodies())
        while (frame := frame.f_back) is not None:
            if depth < 3 and frame.f_code.co_filename == REENTRANT.co_filename:
                return  # activation checkpointing at its own work
            if frame.f_code in bodies:
                return  # its node in the graph is judged, and whatever it calls stands below that
            depth += 1
        name = name_of(func)
        self.add("data" if name == "__get__" else name)
