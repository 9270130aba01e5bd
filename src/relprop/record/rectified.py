"""A ReLU that is the only reader of a linear map's output: its result stands for that output.

`g z` is the same where `g` is masked, and zero where it is not. So the output need not be kept beside the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.record.call import SeenCall
from relprop.record.step import Visit

if TYPE_CHECKING:
    from relprop.record.recorder import Recorder


def only_reader(rec: Recorder, tensor: Tensor) -> Visit | None:
    """The linear map's step that made the tensor, if the running call is the first to read it.

    Nobody's, where what is kept is not kept by us (activation checkpointing): it could not be exchanged; nor where
    the results of operations are captured.
    """
    if rec.boxes.elsewhere() or "site" in rec.captures.kinds or not rec.graph.in_place:
        return None
    fact = rec.facts.get(tensor)
    step = fact.step if fact is not None else None
    if step is None or rec.facts.reads(tensor) != 1 or tensor._base is not None:
        return None
    return step if rec.boxes.kept(tensor) == 1 else None  # a function out of sight would keep it too


def rectify(rec: Recorder, step: Visit, operand: Tensor, run: Callable[[], Any]) -> Tensor:
    """Out of place the ReLU's own node masks `g` once more: undone should something else read the map's output."""
    result: Tensor = run()
    step.op.rectified = True
    put_back = rec.boxes.stand_in(operand, result)

    def undo() -> None:
        put_back()
        step.op.rectified = False

    rec.facts.on_next_read(operand, undo)
    return result


def absorb(rec: Recorder, target: Tensor, parsed: Any, call: SeenCall) -> bool:
    """In place the ReLU becomes part of the map's site and has no node of its own: neither the output nor a mask is
    kept. Returns whether it did."""
    step = only_reader(rec, target)
    if step is None:
        return False
    rec.sites.decide(parsed, call.name, rec.seen((target,), {}))
    with torch.no_grad():
        call.run()
    step.op.rectified = True
    rec.facts.put(target, parsed.fact)
    return True
