"""What is known about the tensors of one forward, kept beside them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from relprop.ops.base import Fact

#: No entry lies below.
NOTHING: frozenset[int] = frozenset()


class _Known(weakref.ref[Any]):
    """A weak reference to a tensor, which remembers its place and what is known."""

    place: int
    version: int
    fact: Fact | None = None
    reads = 0
    undo: tuple[Callable[[], None], ...] = ()
    seen = NOTHING
    source: str | None = None


class Facts:
    """Facts by tensor object, forgotten when it goes.

    A fact about values holds for one version of the tensor; what lies below it stays.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._read_maps: list[Any] = []
        me = weakref.ref(self)

        def gone(known: _Known) -> None:
            facts = me()
            if facts is not None and facts._known.get(known.place) is known:
                del facts._known[known.place]

        self._gone = gone

    def _find(self, tensor: Tensor) -> _Known | None:
        known = self._known.get(id(tensor))
        return known if known is not None and known() is tensor else None

    def _make(self, tensor: Tensor) -> _Known:
        known = self._find(tensor)
        if known is None:
            known = _Known(tensor, self._gone)
            known.place, known.version = id(tensor), tensor._version
            self._known[known.place] = known
        return known

    def get(self, value: Any) -> Fact | None:
        """What is known about a tensor, as it is now; None of anything else."""
        known = self._known.get(id(value))
        if known is None or known() is not value or known.version != cast(Tensor, value)._version:
            return None
        return known.fact

    def put(self, tensor: Tensor, fact: Fact | None) -> None:
        known = self._make(tensor)
        if fact is not None:
            for link in fact.stem:
                if link.tensor is tensor:
                    fact.stem, fact.chained = (), False  # changed in place: what it stems from is no more
        known.fact, known.version = fact, tensor._version

    def read(self, tensor: Tensor) -> None:
        """A call reads the tensor."""
        known = self._known.get(id(tensor))
        if known is not None and known() is tensor:
            known.reads += 1
            if known.fact is not None and known.fact.producer is not None:
                self._read_maps.append(known.fact.producer)
            if known.undo:
                calls, known.undo = known.undo, ()
                for call in calls:
                    call()

    def loosen(self) -> None:
        """The call has run that read what linear maps made: unless it was their batch norm, it stands between."""
        for producer in self._read_maps:
            producer.loosen()
        self._read_maps.clear()

    def on_next_read(self, tensor: Tensor, undo: Callable[[], None]) -> None:
        """What holds only as long as nobody else reads the tensor."""
        known = self._make(tensor)
        known.undo = (*known.undo, undo)

    def reads(self, tensor: Tensor) -> int:
        known = self._find(tensor)
        return known.reads if known is not None else 0

    def seen(self, tensor: Tensor) -> frozenset[int]:
        """The entries that lie between the input and this tensor."""
        known = self._find(tensor)
        return known.seen if known is not None else NOTHING

    def mark_seen(self, tensor: Tensor, seen: frozenset[int]) -> None:
        if seen:
            known = self._make(tensor)
            known.seen = known.seen | seen

    def source(self, tensor: Tensor) -> str | None:
        """The name of the integer input that this tensor of integers was made from."""
        known = self._find(tensor)
        return known.source if known is not None else None

    def put_source(self, tensor: Tensor, name: str) -> None:
        self._make(tensor).source = name

    def move(self, old: Tensor, new: Any) -> None:
        """`new` holds the same values as `old`."""
        known = self._find(old)
        if known is not None:
            self.put(new, known.fact if known.version == old._version else None)
            self.mark_seen(new, known.seen)
