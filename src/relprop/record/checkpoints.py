"""Activation checkpointing with `use_reentrant=True`, as far as the recorder has to know it."""

from __future__ import annotations

import sys
from typing import Any

from torch.utils.checkpoint import CheckpointFunction

REENTRANT = CheckpointFunction.forward.__code__


def in_reentrant_checkpoint() -> bool:
    """Whether the running code was called by a checkpoint with `use_reentrant=True`."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code is REENTRANT:
            return True
        frame = frame.f_back
    return False
