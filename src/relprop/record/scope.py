"""Which module is running: followed by PyTorch's global module hooks, for the time of one call in one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Tap = Callable[[tuple[str, ...], Any], Any]


class ModuleScope:
    """A context in which `paths` names the running module.

    tap   called with a module's paths and its output when it returns; what it returns is handed on instead
    """

    def __init__(self, model: nn.Module, tap: Tap | None = None) -> None:
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)
        self._stack: list[nn.Module] = []
        self._thread = threading.get_ident()
        self._tap = tap
        self._handles: list[Any] = []

    def __enter__(self) -> ModuleScope:
        register = torch.nn.modules.module
        self._handles.append(register.register_module_forward_pre_hook(self._enter))
        self._handles.append(register.register_module_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != self._thread:
            return
        self._stack.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if torch.compiler.is_compiling() or threading.get_ident() != self._thread:
            return None
        while self._stack:
            if self._stack.pop() is module:
                break
        if self._tap is not None and output is not None and module in self._names:
            return self._tap(tuple(self._names[module]), output)
        return None

    @property
    def module(self) -> nn.Module | None:
        return self._stack[-1] if self._stack else None

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the innermost running module that belongs to the model."""
        for module in reversed(self._stack):
            names = self._names.get(module)
            if names is not None:
                return tuple(names)
        return ("",)
