"""Tensors in nested containers, and the names of torch's in-place calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.numerics import as_it_runs


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def exchanged(value: Any, visit: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor in nested lists, tuples and dicts (model outputs too) replaced by `visit(tensor)`;
    itself where none is."""
    if isinstance(value, torch.Tensor):
        return visit(value)
    if isinstance(value, (list, tuple)):
        items = [exchanged(v, visit) for v in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        fields = {k: exchanged(v, visit) for k, v in value.items()}
        if all(fields[k] is v for k, v in value.items()):
            return value
        made = copy.copy(value)
        for k, v in fields.items():
            made[k] = v
        return made
    return value


def out_of_place(func: Any) -> Any:
    """`Tensor.sigmoid_` -> `Tensor.sigmoid`; a function with `inplace=` is itself."""
    name = getattr(func, "__name__", "")
    operator = _AUGMENTED.get(func)
    if operator is not None:
        return operator
    if name.endswith("_") and not name.endswith("__"):
        for space in (torch.Tensor, torch, torch.nn.functional):
            if getattr(space, name, None) is func and hasattr(space, name[:-1]):
                return getattr(space, name[:-1])
    return func


_AUGMENTED = {
    getattr(torch.Tensor, f"__i{short}__"): getattr(torch.Tensor, name)
    for short, name in {
        "add": "add",
        "sub": "sub",
        "mul": "mul",
        "truediv": "div",
        "pow": "pow",
        "floordiv": "floor_divide",
        "mod": "remainder",
    }.items()
    if hasattr(torch.Tensor, f"__i{short}__")
}


class Hole:
    """Where a tensor stood."""

    def __init__(self, index: int) -> None:
        self.index = index


def function_of(func: Any, args: Any, kwargs: Any, operands: Sequence[Tensor]) -> Callable[..., Any]:
    """A call as a function of some of the tensors in its arguments; it holds none of those."""
    holes = {id(t): Hole(i) for i, t in enumerate(operands)}
    args, kwargs = replaced(args, holes), replaced(kwargs, holes)
    func = as_it_runs(func)

    def call(*given: Tensor) -> Any:
        new = {id(hole): t for hole, t in zip(holes.values(), given, strict=True)}
        return func(*replaced(args, new), **replaced(kwargs, new))

    return call


def replaced(value: Any, new: Mapping[int, Any]) -> Any:
    """`value` with tensors (or holes) in nested lists, tuples and dicts replaced, by identity."""
    if isinstance(value, (torch.Tensor, Hole)):
        return new.get(id(value), value)
    if isinstance(value, tuple):
        items = [replaced(v, new) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [replaced(v, new) for v in value]
    if isinstance(value, dict):
        return {k: replaced(v, new) for k, v in value.items()}
    return value
