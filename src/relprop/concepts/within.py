"""A module around the user's whose submodules keep their paths, so that selectors and places mean what they meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Within(nn.Module):
    """Runs a model inside a function of one's own.

    model  whose modules and parameters go by their own names; it is not registered as a submodule
    call   from the model and the arguments to the output
    """

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self._parts = (model, call)  # a tuple: nothing in it is registered
        self.training = False

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        return self._parts[0].named_modules(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return self._parts[0].named_parameters(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        model, call = self._parts
        return call(model, *args, **kwargs)
