"""Tensors kept for the backward, copied before the model changes them in place."""

from __future__ import annotations

import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


class Box:
    """One tensor that a node of the graph keeps."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Boxes:
    """All tensors kept in one forward, by the storage they lie in.

    A storage is alive as long as one of its boxes is, so its address identifies it among living boxes.
    """

    def __init__(self) -> None:
        self._by_storage: defaultdict[int, list[weakref.ref[Box]]] = defaultdict(list)
        self._latest: list[weakref.ref[Box]] = []
        self._aliases: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Tensor]]] = {}
        self._given: defaultdict[int, list[weakref.ref[Tensor]]] = defaultdict(list)

    def hooks(self) -> Any:
        """The context in which every tensor that autograd keeps is put into a box."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def elsewhere(self) -> bool:
        """Whether what is kept now goes to somebody else: activation checkpointing, offloading."""
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        return top is not None and getattr(top[0], "__self__", None) is not self

    def _pack(self, tensor: Tensor) -> Box:
        if tensor.requires_grad:  # a constant keeps nothing else alive
            with torch._C.DisableTorchFunction():  # what autograd keeps is no cut of the model's
                tensor = tensor.detach()
        box = Box(tensor)
        self._latest.append(weakref.ref(box))
        return box

    def _sorted(self) -> defaultdict[int, list[weakref.ref[Box]]]:
        """The boxes by storage. Few models ask, so those that came since the last time are looked at only now."""
        latest, self._latest = self._latest, []
        for reference in latest:
            box = reference()
            if box is not None and box.value.layout is torch.strided:
                self._by_storage[box.value.untyped_storage()._cdata].append(reference)
        return self._by_storage

    def alias(self, constant: Tensor) -> Tensor:
        """The constant as a tensor of our own, which keeps its values should the model change it in place."""
        if type(constant) is not Tensor or constant.layout is not torch.strided:
            return constant
        known = self._aliases.get(id(constant))
        if known is not None and known[0]() is constant and (alias := known[1]()) is not None:
            return alias
        alias = constant.detach()
        given = weakref.ref(alias)
        self._aliases[id(constant)] = weakref.ref(constant), given
        self._given[alias.untyped_storage()._cdata].append(given)
        return alias

    def before_write(self, target: Tensor) -> None:
        """The model is about to change `target`: what is kept of its storage is copied first."""
        if target.layout is not torch.strided:
            return
        storage = target.untyped_storage()._cdata
        with torch._C.DisableTorchFunctionSubclass():
            for reference in self._sorted().pop(storage, ()):
                box = reference()
                if box is not None:
                    box.value = box.value.clone()
            for given in self._given.pop(storage, ()):
                alias = given()
                if alias is not None:
                    alias.data = alias.clone()
        self._aliases.clear()  # what is asked for from now on has other values

    def size(self, besides: Iterable[Tensor] = ()) -> int:
        """How many bytes are kept, each storage counted once. `besides`: tensors that live anyway, such as weights."""
        counted = {t.untyped_storage()._cdata for t in besides if t.layout is torch.strided}
        total = 0
        for storage, references in self._sorted().items():
            box = next((b for r in references if (b := r()) is not None), None)
            if box is not None and storage not in counted:
                total += box.value.untyped_storage().nbytes()
        return total

    def kept(self, tensor: Tensor) -> int:
        """How many nodes keep something of the tensor's storage."""
        return sum(r() is not None for r in self._sorted().get(tensor.untyped_storage()._cdata, ()))

    def alone_with(self, tensor: Tensor) -> bool:
        """Whether something of the tensor's memory is kept, and nobody else but the tensor holds it."""
        if tensor._base is not None or tensor.layout is not torch.strided:
            return False
        storage, kept = tensor.untyped_storage(), self.kept(tensor)
        users: int = torch._C._storage_Use_Count(storage._cdata)  # `storage` is one
        return kept > 0 and users == kept + 2

    def free(self, tensor: Tensor) -> bool:
        """Whether nobody else holds the tensor's memory, once what is kept of it has memory of its own."""
        if tensor._base is not None or tensor.layout is not torch.strided:
            return False
        self.before_write(tensor)
        storage = tensor.untyped_storage()
        return torch._C._storage_Use_Count(storage._cdata) == 2  # `storage` is one

    def stand_in(self, old: Tensor, new: Tensor) -> Callable[[], None]:
        """What is kept of `old` is from now on read from `new`. Returns what takes that back while `old` lives."""
        boxes = [b for r in self._sorted().pop(old.untyped_storage()._cdata, ()) if (b := r()) is not None]
        place = self._by_storage[new.untyped_storage()._cdata]
        for box in boxes:
            box.value = new.detach()
            place.append(weakref.ref(box))
        held, kept = weakref.ref(old), [weakref.ref(b) for b in boxes]

        def undo() -> None:
            tensor = held()
            for box in (b for r in kept if (b := r()) is not None):
                assert tensor is not None, "whoever reads a tensor holds it"
                box.value = tensor.detach()
                self._by_storage[tensor.untyped_storage()._cdata].append(weakref.ref(box))

        return undo


def _unpack(box: Box) -> Tensor:
    return box.value


def alone(kept: Tensor) -> bool:
    """Whether nobody but the node that reads it in its backward holds the memory of a tensor."""
    return kept._base is None and kept.layout is torch.strided and _holders(kept) == _of_one_node()


def _holders(tensor: Tensor) -> tuple[int, int]:
    """How many hold a tensor's memory: in torch, and in Python as a storage."""
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)


@lru_cache(maxsize=1)
def _of_one_node() -> tuple[int, int]:
    """How many do of what a node reads in its backward where nobody else does: it is torch's affair how many tensors
    it makes of one on the way, so a node is asked."""
    found: list[tuple[int, int]] = []

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = x.clone()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, *gs: Any) -> Any:
            found.append(_holders(ctx.saved_tensors[0]))
            return gs[0]

    with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.enable_grad(), Boxes().hooks():
        x = torch.zeros(1, requires_grad=True)
        torch.autograd.grad(Node.apply(x).sum(), x)
    return found[0]
