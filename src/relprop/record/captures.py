"""Tensors inside the model whose relevance is asked for, selected, started from or stopped at."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from relprop.errors import ModelStateError
from relprop.numerics import dot, nonzero
from relprop.record.books import Ledger
from relprop.record.facts import Facts
from relprop.record.graph import Graph
from relprop.record.leaves import Leaves
from relprop.record.marks import mark_written
from relprop.record.places import INPUT, Place
from relprop.record.tensors import exchanged
from relprop.record.weakly import weakly
from relprop.record.weights import Weights

#: One time that a place was passed: its tensors, each with what carries relevance for it beside itself (the result of a
#: batch norm that joined a map).
Run = list[list[Tensor]]


class Selection(Protocol):
    """Which part of the relevance at a tensor goes on."""

    def restrict(self, values: Tensor, g: Tensor, where: str) -> Tensor: ...


class _At(NamedTuple):
    """Where a value was met: the names under which it is found, and the kind of place."""

    names: tuple[str, ...]
    kind: str

    def among(self, places: Iterable[Place]) -> bool:
        return any(p.fits(self.kind, n.removesuffix(INPUT)) for p in places for n in self.names)


class _Watch:
    """Looks, at every read of a tensor that was captured, whether its copy is still equal to it.

    name    the place
    value   the tensor, which is not held
    writes  shares the count of writes with the copy
    facts   where the next read is waited for; not held
    """

    def __init__(self, name: str, value: Tensor, writes: Tensor, facts: Facts) -> None:
        self._name, self._value, self._writes, self._facts = name, weakref.ref(value), writes, facts
        self._count = value._version, writes._version

    def __call__(self) -> None:
        read = self._value()
        if read is None:
            return
        if (read._version, self._writes._version) != self._count:
            raise ModelStateError(
                f"the tensor at {self._name!r} is changed in place, and the model then reads it under another name, so "
                "that no copy can stand for it: ask for a place before or after"
            )
        self._facts.on_next_read(read, self)


class Captures:
    """Tensors kept of one forward.

    wanted     places whose relevance is asked for
    selected   places at which a selection may stand
    ends       places at which the propagation stops: leaves
    weights    the weights whose relevance is asked for, if any
    found      by name, one `Run` for every time the place was passed, in the order of execution
    selecting  the selections of the backward that runs, by name
    reached    by the names of selections, which samples' relevance passed them in this backward
    """

    def __init__(
        self,
        wanted: Sequence[Place] = (),
        selected: Sequence[Place] = (),
        ends: Sequence[Place] = (),
        weights: Weights | None = None,
    ) -> None:
        self.places = {*wanted, *selected, *ends}
        self._selected, self._ends = tuple(selected), tuple(ends)
        self.kinds = {p.kind for p in self.places}
        self.weights = weights
        self.found: dict[str, list[Run]] = {}
        self._order: list[Run] = []
        self.selecting: Mapping[str, Selection] = {}
        self.reached: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.places)

    def attach(self, graph: Graph, facts: Facts, leaves: Leaves, ledger: Ledger, carry: bool) -> None:
        """What belongs to the forward that is captured. carry: relevance may stand on zeros."""
        self._graph, self._facts, self._leaves, self._ledger, self._carry = graph, facts, leaves, ledger, carry

    def names(self, place: Place) -> list[str]:
        """The names of what was captured at a place, in the order of execution."""
        return [name for name in self.found if place.fits(place.kind, name.removesuffix(INPUT))
                and name.endswith(INPUT) == (place.kind == "input")]  # fmt: skip

    def at(self, text: str) -> list[str]:
        """The names of what was captured at the place that was written so."""
        return [name for p in self.places if p.text == text for name in self.names(p)]

    def tensors(self, name: str | None = None) -> list[Tensor]:
        """What was captured, under one name or all."""
        runs = self.found[name] if name is not None else [run for runs in self.found.values() for run in runs]
        return list({id(t): t for run in runs for part in run for t in part}.values())

    def runs(self, names: Iterable[str]) -> list[list[Tensor]]:
        """The tensors of every time that one of these names was passed, in the order of execution."""
        wanted = {id(run) for name in names for run in self.found[name]}
        each = ([t for part in run for t in part] for run in self._order if id(run) in wanted)
        return [tensors for tensors in each if tensors]

    # -- in the forward ------------------------------------------------------------------------------------------

    def tap(self, kind: str, names: Sequence[str], value: Any, replaying: bool = False) -> Any:
        """A value that passes a place: what goes on instead of it, or None where nobody asked for it."""
        names = [n for n in names if any(p.fits(kind, n) for p in self.places)]
        if not names:
            return None
        at = _At(tuple(n + INPUT if kind == "input" else n for n in names), kind)
        run: Run = []
        if not replaying:
            self._order.append(run)
        for name in at.names if not replaying else ():
            self.found.setdefault(name, []).append(run)
        return exchanged(value, partial(self._part, at, run))

    def _part(self, at: _At, run: Run, value: Tensor) -> Tensor:
        if not self._graph.depends(value):
            return value
        part: list[Tensor] = []
        run.append(part)
        fact = self._facts.get(value)
        if at.kind != "input" and fact is not None and fact.producer is not None:
            fact.producer.captures.append(partial(weakly(self.keep), at, part))  # a batch norm may join the map
        return self.keep(at, part, value)

    def keep(self, at: _At, part: list[Tensor], value: Tensor) -> Tensor:
        """Keep the tensor as it is now; the model goes on with an equal one, which it may change."""
        self._facts.read(value)
        with torch._C.DisableTorchFunction(), torch.enable_grad():  # a checkpoint may run without
            kept = value
            if at.kind != "site":  # others may read the same tensor: a module may return what it was given
                kept = value.clone()
                self._graph.link(value, kept)
            mark_written(kept)
            if at.among(self._ends):
                kept = self._graph.begin(kept)
                self._leaves.end(at.names[0], kept)
            onward = kept.clone()
            selected = at.among(self._selected)
            self._graph.link(kept, onward, partial(weakly(self.change), at.names, kept.detach()) if selected else None)
        mark_written(onward)
        self._facts.move(value, onward)
        fact = self._facts.get(onward)
        if fact is not None:
            fact.step = None  # the tensor that was captured has to stay as it is
        part.append(kept)
        self._watch(at.names[0], value, onward)
        return onward

    def _watch(self, name: str, value: Tensor, onward: Tensor) -> None:
        """Two tensors stand where the model has one. That is the same unless one is changed in place and the other read
        afterwards, which is refused as the model reads `value` once more."""
        with torch._C.DisableTorchFunction():
            writes = onward.detach()  # it shares the count of writes, and is to hold no memory
            writes.data = onward.new_empty(0)
        self._facts.on_next_read(value, _Watch(name, value, writes, weakref.proxy(self._facts)))

    # -- in the backward -----------------------------------------------------------------------------------------

    def open(self, selecting: Mapping[str, Selection]) -> None:
        """Begin a backward with these selections, by name."""
        self.selecting, self.reached = selecting, {}
        if self.weights is not None:
            self.weights.open()

    def change(self, names: tuple[str, ...], values: Tensor, g: Tensor) -> Tensor | None:
        """The modified gradient that goes on below a selection; what it leaves out is written down."""
        name = next((n for n in names if n in self.selecting), None)
        if name is None:
            return None
        kept = self.selecting[name].restrict(values, g, name)
        standing = nonzero(values) if self._carry else values
        self._ledger.open(None)
        self._ledger.add("excluded", dot(standing, g - kept))
        reached = (standing * kept != 0).flatten(1).any(1) if values.ndim > 1 else (standing * kept != 0).any()
        before = self.reached.get(name)
        if before is not None and before.shape != reached.shape:  # a recurrent layer's output and its last state
            before, reached = before.any().reshape(1), reached.any().reshape(1)
        self.reached[name] = reached if before is None else before | reached
        return kept
