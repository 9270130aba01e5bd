"""A module around the user's whose submodules keep their paths, so that selectors and places mean what they meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Within(nn.Module):
    """Runs a model inside a function of one's own.

    model  whose submodules and parameters are this one's too, by the same names
    call   from the model and the arguments to the output
    """

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self._parts = (model, call)  # a tuple: the model itself is no submodule
        self.__dict__.update(_modules=model._modules, _parameters=model._parameters, _buffers=model._buffers)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        model, call = self._parts
        return call(model, *args, **kwargs)
