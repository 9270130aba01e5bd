"""What the adapters share: modules by name or by themselves, and relevance at their inputs."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError

_INPUT_OF = "input of "


def path_of(model: nn.Module, layer: nn.Module | str) -> str:
    """The path of a layer that is given by its path or as the module itself.

    Raises:
        InputError: where the model has no such module, with the nearest names.
    """
    names = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    if isinstance(layer, str):
        if layer in names:
            return layer
        near = difflib.get_close_matches(layer, names, 3)
        hint = f"; nearest names: {', '.join(near)}" if near else ""
        raise InputError(f"the model has no module named {layer!r}{hint}")
    if isinstance(layer, nn.Module):
        for name, module in names.items():
            if module is layer:
                return name
        alike = [name for name, module in names.items() if type(module) is type(layer)][:3]
        hint = f"; modules of its class: {', '.join(alike)}" if alike else ""
        raise InputError(f"{type(layer).__name__} is not a module of this model{hint}")
    raise InputError(f"a layer is a module or its path, got {type(layer).__name__}")


def pattern(path: str) -> str:
    """A path as a pattern that matches it alone."""
    return escape(path)


class InputsOf(nn.Module):
    """A model that also has a name for what goes into some of its modules.

    `explain(..., layers=tapped.patterns)` then gives the relevance at the inputs of those modules. The model itself
    is not touched: what goes in is seen by a hook for the time of one call, in one thread.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        self._model = (model,)  # not a submodule: the names of the model stay its own
        self._paths = tuple(paths)
        found = dict(model.named_modules(remove_duplicate=False))
        self._taps = {found[path]: (path, Taps()) for path in self._paths}
        self.train(model.training)

    @property
    def patterns(self) -> list[str]:
        return [pattern(f"{_INPUT_OF}{path}.") + "*" for path in self._paths]

    def named_modules(self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Iterator[Any]:
        yield from self._model[0].named_modules(memo, prefix, remove_duplicate)
        for path, taps in self._taps.values():
            for i, tap in enumerate(taps):
                yield f"{_INPUT_OF}{path}.{i}", tap

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._watching():
            return self._model[0](*args, **kwargs)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        thread = threading.get_ident()

        def enter(module: nn.Module, args: tuple[Any, ...]) -> Any:
            if torch.compiler.is_compiling() or module not in self._taps or threading.get_ident() != thread:
                return None
            taps = self._taps[module][1]
            return tuple(taps[i](a) if isinstance(a, Tensor) else a for i, a in enumerate(args))

        handle = nn.modules.module.register_module_forward_pre_hook(enter)
        try:
            yield
        finally:
            handle.remove()

    def relevance(self, layers: dict[str, Any], path: str) -> Any:
        """Relevance at what went into a module, from `Explanation.layers`: a tensor, or a tuple for several."""
        found = [r for i in range(Taps.COUNT) if (r := layers.get(f"{_INPUT_OF}{path}.{i}")) is not None]
        if not found:
            raise InputError(f"nothing that depends on the input goes into {path!r} as a positional tensor")
        return found[0] if len(found) == 1 else tuple(found)


class Taps(list[nn.Identity]):
    """One tap for each positional argument of a module."""

    COUNT = 8

    def __init__(self) -> None:
        super().__init__(nn.Identity() for _ in range(self.COUNT))
