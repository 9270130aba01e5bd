"""Activation checkpointing with `use_reentrant=True`, as far as the recorder has to know it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import CheckpointFunction

REENTRANT = CheckpointFunction.forward.__code__


def in_reentrant_checkpoint() -> bool:
    """Whether the running code was called by a checkpoint with `use_reentrant=True`."""
    return bool(reentrant_checkpoints(sys._getframe(2)))


def reentrant_checkpoints(frame: Any = None) -> list[Any]:
    """The contexts of the checkpoints with `use_reentrant=True` that the running code was called by."""
    frame, found = frame or sys._getframe(2), []
    while frame is not None:
        if frame.f_code is REENTRANT:
            found.append(frame.f_locals["ctx"])
        frame = frame.f_back
    return found


class Again:
    """What a checkpoint runs once more in the backward, handed to who looks on."""

    def __init__(self, run: Callable[..., Any], through: Callable[[Callable[..., Any], Any], Any]) -> None:
        self._run, self._through = run, through

    def __call__(self, *args: Any) -> Any:
        return self._through(self._run, args)
