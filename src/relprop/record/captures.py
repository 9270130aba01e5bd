"""Outputs of modules whose relevance is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from relprop.record.facts import Facts
from relprop.record.marks import mark_written


class Captures:
    """Tensors kept of one forward.

    patterns  which module paths
    found     by path, one group of tensors for every time the module ran
    """

    def __init__(self, patterns: Sequence[str], facts: Facts) -> None:
        self.patterns = tuple(patterns)
        self.found: dict[str, list[list[Tensor]]] = {}
        self._facts = facts

    def tap(self, paths: tuple[str, ...], output: Any, replaying: bool) -> Any:
        """What a module hands on; its output is kept where it was asked for."""
        wanted = [p for p in paths if any(fnmatchcase(p, pattern) for pattern in self.patterns)]
        if not wanted:
            return None
        group: list[Tensor] = []
        for path in wanted if not replaying else ():
            self.found.setdefault(path, []).append(group)
        if isinstance(output, Tensor):
            if not output.requires_grad:
                return None
            fact = self._facts.get(output)
            if fact is not None and fact.producer is not None:
                fact.producer.capture = group
            return self.keep(group, output)
        if isinstance(output, tuple) and type(output) is tuple:
            return tuple(self.keep(group, o) if isinstance(o, Tensor) and o.requires_grad else o for o in output)
        return None

    def keep(self, group: list[Tensor], output: Tensor) -> Tensor:
        """Keep the tensor as it is now; the model goes on with an equal one, which it may change."""
        with torch._C.DisableTorchFunction():
            onward = output.clone()
        mark_written(onward)
        self._facts.move(output, onward)
        fact = self._facts.get(onward)
        if fact is not None:
            fact.step = None  # the tensor that was captured has to stay as it is
        group.append(output)
        return onward
