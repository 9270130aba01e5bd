"""Marks on autograd's nodes: what is ours, and what is to be written down or scaled when the backward comes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from relprop.record.books import Ledger
from relprop.record.coverage import MARK
from relprop.record.tensors import tensors
from relprop.rules.base import as_is

Pass = Callable[[Tensor], Tensor]


def mark(
    result: Any,
    given: Any,
    ledger: Ledger,
    share: Pass | None = None,
    before: Pass = as_is,
    entry: str = "constants",
) -> None:
    """Mark the nodes that this call made as ours, and hang its account and its factor before them."""
    outs = [t for t in tensors(result) if t.grad_fn is not None]
    stops = {t.grad_fn for t in tensors(given) if t.grad_fn is not None}
    stack = [t.grad_fn for t in outs]
    if (share is not None or before is not as_is) and outs:
        _hang(outs[0].grad_fn, ledger, share, before, entry)
    while stack:
        node: Any = stack.pop()
        if node is None or node in stops or MARK in node.metadata:
            continue
        node.metadata[MARK] = True
        stack.extend(n for n, _ in node.next_functions)


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
            node.metadata[MARK] = True
