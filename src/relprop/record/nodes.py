"""Rules for nodes that no torch call shows: a user's `autograd.Function`, a scripted or traced submodule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import RegistryError

Pull = Callable[[Any, Tensor], Any]


class Nodes:
    """From custom functions to what their backward becomes, and from module classes to what they count as."""

    def __init__(self) -> None:
        self._pulls: dict[str, Pull | None] = {}
        self._modules: dict[type, str] = {}

    def register_function(
        self, function: type[torch.autograd.Function] | str, pull: Pull | None = None, replace: bool = False
    ) -> None:
        """Say how relevance passes a custom `autograd.Function`.

        pull   called as `pull(node, g)` with the function's context (`node.saved_tensors` and what its forward
               noted on `ctx`) and the modified gradient `g` at the output; returns the modified gradients of the
               inputs. For an elementwise function of a saved `x`, the identity rule is
               `lambda node, g: g * f(x) / x`. None: the function is of degree one and its own backward is right.
        """
        name = function if isinstance(function, str) else f"{function.__name__}Backward"
        if name in self._pulls and not replace:
            raise RegistryError(f"{name} is registered already; pass replace=True to override it on purpose")
        self._pulls[name] = pull

    def register_module(
        self, module: type[nn.Module], treat: str = "identity", replace: bool = False
    ) -> None:
        """Take every module of this class as one operation, whatever runs inside.

        treat   "identity": an elementwise function, relevance passes unchanged; "gradient": of degree one, its own
                gradient is right
        """
        if treat not in ("identity", "gradient"):
            raise RegistryError(f'treat must be "identity" or "gradient", got {treat!r}')
        if module in self._modules and not replace:
            raise RegistryError(f"{module.__name__} is registered already; pass replace=True to override it")
        self._modules[module] = treat

    def known(self, name: str) -> bool:
        return name in self._pulls

    def pull(self, name: str) -> Pull | None:
        return self._pulls.get(name)

    def module(self, kind: type) -> str | None:
        return self._modules.get(kind) if self._modules else None

    def forget(self, what: Any) -> None:
        """Take a registration back."""
        name = what if isinstance(what, str) else f"{what.__name__}Backward"
        self._pulls.pop(name, None)
        self._modules.pop(what, None)


NODES = Nodes()
