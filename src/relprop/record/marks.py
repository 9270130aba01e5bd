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
from relprop.site import Site

Share = Callable[[Tensor], Tensor]
#: What is done to a gradient; None: nothing of it goes on.
Pass = Callable[[Tensor], Tensor | None]
#: The number of the node that this thread makes next.
upcoming: Callable[[], int] = torch._C._autograd._get_sequence_nr


def mark(
    result: Any,
    since: int,
    ledger: Ledger,
    share: Share | None = None,
    before: Pass = as_is,
    entry: str = "constants",
    site: Site | None = None,
) -> None:
    """Mark the nodes that a call made as ours, and hang its account and its factor before the first of them.

    site   whose books the account is in too
    since  what `upcoming()` was before the call. The nodes of its results bear it as their mark: those below them with
           such a number are the call's too
    """
    made, until = None, upcoming()  # nodes of another thread have numbers of their own
    several = until - since > 1
    for out in (result,) if isinstance(result, Tensor) else tensors(result):
        node: Any = out.grad_fn
        if node is None:
            continue
        if since <= node._sequence_nr() < until:
            node.metadata[MARK] = since
            if several and out._is_view() and (below := _base(out, since)) is not None:
                below.metadata[MARK] = since  # a write into the view would put another node between
                node = below
        made = node if made is None else made
    if made is not None and (share is not None or before is not as_is):
        _hang(made, ledger, share, before, entry, site)


def own(result: Any, given: Any, since: int, rows: bool) -> Any:
    """A result that may bear a hook: a later write into a view would replace its node, and the hook with it.

    rows  whether what is hung looks at rows, however they are arranged: then the hook may be hung on what the call made
          of another shape
    """
    if not (isinstance(result, Tensor) and result.requires_grad and result._is_view()):
        return result
    if any(result is t for t in tensors(given)):
        return result
    if rows and _base(result, since) is not None and _rows(result) == _rows(result._base):
        return result
    return result.clone()


def _rows(tensor: Any) -> tuple[int, torch.Size]:
    return tensor.numel(), tensor.shape[-1:]


def _base(view: Tensor, since: int) -> Any:
    """The node of the tensor that the call made and gives a view of."""
    base = view._base
    node: Any = base.grad_fn if base is not None else None
    return node if node is not None and node._sequence_nr() >= since else None


def _hang(
    node: Any,
    ledger: Ledger,
    share: Share | None,
    before: Pass,
    entry: str,
    site: Site | None,
) -> None:
    def prehook(grads: Any) -> Any:
        g = grads[0]
        if g is None:
            return None
        if share is not None:
            ledger.open(site)
            ledger.add(entry, share(g))
        return None if before is as_is else (before(g), *grads[1:])

    node.register_prehook(prehook)


def mark_written(target: Tensor) -> None:
    """A tensor was written; if it is a view, its base has a `CopySlices` node now, which is ours."""
    for tensor in (target, target._base):
        if tensor is not None and tensor.grad_fn is not None:
            node: Any = tensor.grad_fn
            node.metadata.setdefault(MARK, node._sequence_nr())
