"""Marks on autograd's nodes: what is ours, and what is to be written down or scaled when the backward comes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relprop.record.books import Ledger
from relprop.record.coverage import MARK
from relprop.record.tensors import tensors
from relprop.rules.base import as_is

Pass = Callable[[Tensor], Tensor]
#: The number of the node that this thread makes next.
upcoming: Callable[[], int] = torch._C._autograd._get_sequence_nr


def mark(
    result: Any,
    since: int,
    ledger: Ledger,
    share: Pass | None = None,
    before: Pass = as_is,
    entry: str = "constants",
) -> None:
    """Mark the nodes that a call made as ours, and hang its account and its factor before the first of them.

    since  what `upcoming()` was before the call. The nodes of its results bear it as their mark: those below them with
           such a number are the call's too
    """
    if isinstance(result, Tensor):
        node: Any = result.grad_fn
        if node is None:
            return
        if node._sequence_nr() >= since:
            node.metadata[MARK] = since
    else:
        nodes: list[Any] = [n for t in tensors(result) if (n := t.grad_fn) is not None]
        for node in nodes:
            if node._sequence_nr() >= since:
                node.metadata[MARK] = since
        if not nodes:
            return
        node = nodes[0]
    if share is not None or before is not as_is:
        _hang(node, ledger, share, before, entry)


def own(result: Any, given: Any) -> Any:
    """A result that may bear a hook: a later write into a view would replace its node, and the hook with it."""
    if not (isinstance(result, Tensor) and result.requires_grad and result._is_view()):
        return result
    return result if any(result is t for t in tensors(given)) else result.clone()


def _hang(
    node: Any,
    ledger: Ledger,
    share: Pass | None,
    before: Pass,
    entry: str,
) -> None:
    def prehook(grads: Any) -> Any:
        g = grads[0]
        if g is None:
            return None
        if share is not None:
            ledger.open(None)
            ledger.add(entry, share(g))
        return None if before is as_is else (before(g), *grads[1:])

    node.register_prehook(prehook)


def mark_written(target: Tensor) -> None:
    """A tensor was written; if it is a view, its base has a `CopySlices` node now, which is ours."""
    for tensor in (target, target._base):
        if tensor is not None and tensor.grad_fn is not None:
            node: Any = tensor.grad_fn
            node.metadata.setdefault(MARK, node._sequence_nr())
