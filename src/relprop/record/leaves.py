"""Where relevance is read: the floating inputs, and the embeddings of integer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relprop.errors import InputError
from relprop.ops import OPERATORS, name_of
from relprop.record.checkpoints import in_reentrant_checkpoint
from relprop.record.facts import Facts
from relprop.record.scope import ModuleScope
from relprop.record.tensors import tensors

_SPARSE = frozenset((torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc))


@dataclass
class Leaf:
    """A tensor at which relevance is read: an input, the output of an embedding, or where the propagation ends."""

    name: str
    tensor: Tensor
    source: str | None = None
    ids: Tensor | None = None
    end: bool = False


class Leaves:
    """The leaves of one forward, and the way from integer inputs to the embeddings that make leaves of them.

    tokens   whether integers were given, so that calls on constants have to be followed
    sparse   the names of sparse inputs, which are constants
    """

    def __init__(
        self, facts: Facts, scope: ModuleScope, begin: Callable[[Tensor], Tensor], link: Callable[..., None]
    ) -> None:
        self._facts, self._scope, self._begin, self._link = facts, scope, begin, link
        self._found: list[Leaf] = []
        self._integers: list[Tensor] = []
        self.sparse: list[str] = []

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def tokens(self) -> bool:
        return bool(self._integers)

    def add(self, name: str, tensor: Tensor) -> Tensor:
        """Make a tensor of the arguments a leaf (or, of integers, the source of one). Returns what the model gets."""
        if tensor.layout in _SPARSE:
            self.sparse.append(name)
            return tensor.detach()
        if not (tensor.is_floating_point() or tensor.is_complex()):
            copy = tensor.detach().clone() if tensor.is_inference() else tensor.view_as(tensor)
            self._facts.put_source(copy, name)
            self._integers.append(copy)
            return copy
        leaf = self._begin(tensor.clone() if tensor.is_inference() else tensor)
        self._found.append(Leaf(name, leaf))
        return self._handed_on(leaf)

    def _handed_on(self, leaf: Tensor) -> Tensor:
        """What the model gets of a leaf, and may change."""
        onward = leaf.clone()
        self._link(leaf, onward)
        return onward

    def end(self, name: str, tensor: Tensor) -> None:
        """Make a tensor inside the model a leaf: what lies below it is not propagated to."""
        self._found.append(Leaf(name, tensor, end=True))

    def follow(self, func: Any, args: Any, kwargs: dict[str, Any], again: bool, reentrant: bool) -> Any:
        """A call that depends on nothing yet: token ids are followed to the embedding that makes a leaf of them.

        again, reentrant   whether a checkpoint computes it once more, and of which kind
        """
        name = name_of(func).rpartition("::")[2]
        try:
            result = func(*args, **kwargs)
        except IndexError as error:
            if name != "embedding":
                raise
            raise InputError(self._out_of_table(*_ids_and_table(func, args, kwargs))) from error
        if name in ("embedding", "embedding_bag") and isinstance(result, torch.Tensor):
            seen = torch.is_grad_enabled() or (not again and in_reentrant_checkpoint())
            if seen and result.is_floating_point():
                with torch.enable_grad():
                    return self._embedded(_ids_and_table(func, args, kwargs)[0], result, again, reentrant)
            return result
        sources = [s for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and (s := self._facts.source(a))]
        if sources:
            for out in tensors(result):
                if not out.is_floating_point():
                    self._facts.put_source(out, sources[0])
        return result

    def _embedded(self, ids: Tensor, result: Tensor, again: bool, reentrant: bool) -> Tensor:
        path = self._scope.paths[0] or "embedding"
        leaf = self._begin(result)
        if again:
            first = next((x for x in self._found if x.name == path and x.ids is not None and _same(x.ids, ids)), None)
            if reentrant and first is not None:
                leaf.register_hook(partial(_accumulate, first.tensor))
            return self._handed_on(leaf)
        self._found.append(Leaf(path, leaf, self._facts.source(ids), ids.detach()))
        return self._handed_on(leaf)

    def _out_of_table(self, ids: Tensor, table: Tensor) -> str:
        return (
            f"the embedding {self._scope.paths[0]!r} holds {table.shape[0]} rows and was asked for "
            f"{int(ids.min())} to {int(ids.max())}: a token is outside the vocabulary, or the sequence is longer than "
            "the model takes. Use the model's own tokenizer, and shorten the input."
        )


def _ids_and_table(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The indices and the vectors of an embedding: torch's own function takes the vectors first."""
    first = func is torch.embedding or isinstance(func, OPERATORS)
    names = ("weight", "indices") if first else ("input", "weight")
    a, b = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(names))
    return (b, a) if first else (a, b)


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x, y)


def _accumulate(leaf: Tensor, g: Tensor) -> None:
    """What reaches an embedding that was computed again belongs to the first one."""
    leaf.grad = g if leaf.grad is None else leaf.grad + g
