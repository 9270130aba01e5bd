"""One torch call as a parser sees it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from relprop.ops.base import Fact
from relprop.record.cuts import Cuts
from relprop.record.facts import Facts
from relprop.record.graph import Graph
from relprop.record.scope import ModuleScope

_words = cache(str.split)
_FIRST = ("self", "x", "tensor", "input")


class SeenCall:
    """A call with its arguments, where it runs, and what is known about its tensors.

    depends  whether a value depends on the input
    fact     what is known about a tensor; None of anything else
    """

    __slots__ = ("_cuts", "_graph", "_scope", "args", "depends", "fact", "func", "kwargs", "name")

    def __init__(
        self,
        scope: ModuleScope,
        graph: Graph,
        facts: Facts,
        cuts: Cuts,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.func, self.name, self.args, self.kwargs = func, name, args, kwargs
        self._scope, self._graph, self._cuts = scope, graph, cuts
        # straight from where it is known: parsers ask several times a call
        self.depends: Callable[[Any], bool] = graph.depends
        self.fact: Callable[[Any], Fact | None] = facts.get

    def constant(self, tensor: Tensor) -> Tensor:
        """The values of a tensor, through which no relevance passes."""
        with torch._C.DisableTorchFunction():  # in an expansion's calls a `detach` would be a cut of the model's
            return self._graph.constant(tensor)

    def cut(self, tensor: Tensor) -> Tensor:
        """The same, and the audit says that relevance ends at this call."""
        self._cuts.add(self.name)
        return self._graph.constant(tensor)

    @property
    def path(self) -> str:
        """The running module's."""
        return self._scope.paths[0]

    def module(self) -> Any:
        """The innermost running module."""
        return self._scope.module

    def bind(self, names: str, **defaults: Any) -> list[Any]:
        """The arguments under these names, by position or keyword."""
        bound, args = [], self.args
        for i, name in enumerate(_words(names)):
            if i < len(args):
                bound.append(args[i])
            elif name in self.kwargs:
                bound.append(self.kwargs[name])
            elif i == 0 and (first := next((self.kwargs[k] for k in _FIRST if k in self.kwargs), None)) is not None:
                bound.append(first)
            elif name in defaults:
                bound.append(defaults[name])
            else:
                raise TypeError(f"{self.name}() has no argument {name!r} here")
        return bound

    def run(self) -> Any:
        return self.func(*self.args, **self.kwargs)
