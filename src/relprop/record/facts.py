"""What is known about the tensors of one forward, kept beside them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from relprop.ops.base import Fact

_NONE: frozenset[int] = frozenset()


class _Ref(weakref.ref[Any]):
    """A weak reference that remembers the place of its tensor."""

    __slots__ = ("place",)
    place: int


class _Known:
    __slots__ = ("fact", "reads", "ref", "seen", "source", "undo", "version")

    def __init__(self, tensor: Tensor, gone: Callable[[Any], None]) -> None:
        self.ref = _Ref(tensor, gone)
        self.ref.place = id(tensor)
        self.version = tensor._version
        self.fact: Fact | None = None
        self.reads = 0
        self.undo: tuple[Callable[[], None], ...] = ()
        self.seen = _NONE
        self.source: str | None = None


class Facts:
    """Facts by tensor object, forgotten when it goes.

    A fact about values holds for one version of the tensor; what lies below it stays.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        me = weakref.ref(self)

        def gone(ref: _Ref) -> None:
            facts = me()
            if facts is not None:
                known = facts._known.get(ref.place)
                if known is not None and known.ref is ref:
                    del facts._known[ref.place]

        self._gone = gone

    def _find(self, tensor: Tensor) -> _Known | None:
        known = self._known.get(id(tensor))
        return known if known is not None and known.ref() is tensor else None

    def _make(self, tensor: Tensor) -> _Known:
        known = self._find(tensor)
        if known is None:
            known = self._known[id(tensor)] = _Known(tensor, self._gone)
        return known

    def get(self, tensor: Tensor) -> Fact | None:
        known = self._find(tensor)
        return known.fact if known is not None and known.version == tensor._version else None

    def put(self, tensor: Tensor, fact: Fact | None) -> None:
        known = self._make(tensor)
        if fact is not None and fact.stem and any(link.tensor is tensor for link in fact.stem):
            fact.stem, fact.chained = (), False  # changed in place: what it stems from is no more
        known.fact, known.version = fact, tensor._version

    def read(self, tensor: Tensor) -> None:
        """A call reads the tensor."""
        known = self._known.get(id(tensor))
        if known is not None and known.ref() is tensor:
            known.reads += 1
            if known.undo:
                calls, known.undo = known.undo, ()
                for call in calls:
                    call()

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
        return known.seen if known is not None else _NONE

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
