"""What the adapters share: modules by name or by themselves."""

from __future__ import annotations

from glob import escape

from torch import nn

from relprop.errors import InputError, nearest


def path_of(model: nn.Module, layer: nn.Module | str) -> str:
    """The path of a layer that is given by its path or as the module itself; "" is the whole model.

    Raises:
        InputError: where the model has no such module, with the nearest names.
    """
    names = dict(model.named_modules(remove_duplicate=False))
    if isinstance(layer, str):
        if layer in names:
            return layer
        raise InputError(f"the model has no module named {layer!r}{nearest(layer, names)}")
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
