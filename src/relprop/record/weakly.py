"""Methods that are called without holding their object."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """The bound method without a hold on its object, which outlives whoever calls.

    What autograd's nodes hold may not hold what holds the graph: through them no cycle is ever collected.
    """
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        target = reference()
        assert target is not None, "the recorder lives as long as its forward and backward"
        return target(*args)

    return call
