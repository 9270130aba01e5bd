"""The explained inputs: every floating tensor among the arguments, and the embeddings of integer ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError

Visit = Callable[[str, Tensor], Any]


def outside_inference() -> AbstractContextManager[Any]:
    """The context in which tensors may take part in autograd, whatever the caller's mode is."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


def rebuild(value: Any, name: str, visit: Visit) -> Any:
    """`value` with every tensor in nested lists, tuples and dicts replaced by `visit(name, tensor)`."""
    if isinstance(value, Tensor):
        return visit(name, value)
    if isinstance(value, tuple):
        items = [rebuild(v, f"{name}.{i}", visit) for i, v in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [rebuild(v, f"{name}.{i}", visit) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        found = {k: rebuild(v, f"{name}.{k}", visit) for k, v in value.items()}
        return found if type(value) is dict else _like_mapping(value, found)
    return value


def _like_mapping(value: Any, items: dict[Any, Any]) -> Any:
    try:
        return type(value)(**items) if hasattr(value, "to_tuple") else type(value)(items)
    except TypeError:
        return items


def detached(value: Any, depth: int = 8) -> Any:
    """`value` with every tensor detached, in containers, model outputs and the objects that these hold (caches).

    What holds no tensor of the graph is handed on as it is; what holds one is a copy.
    """
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    if depth == 0 or isinstance(value, (str, bytes, type, nn.Module)) or callable(value):
        return value
    if isinstance(value, (list, tuple)):
        items = [detached(v, depth - 1) for v in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        fields = {k: detached(v, depth - 1) for k, v in value.items()}
        if all(fields[k] is v for k, v in value.items()):
            return value
        made = copy.copy(value)
        for k, v in fields.items():
            made[k] = v  # type: ignore[index]
        return made
    held = getattr(value, "__dict__", None)
    if not held:
        return value
    fields = {k: detached(v, depth - 1) for k, v in held.items()}
    if all(fields[k] is v for k, v in held.items()):
        return value
    made = copy.copy(value)
    made.__dict__.update(fields)
    return made


def names(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield from ((str(i), a) for i, a in enumerate(args))
    yield from kwargs.items()


def check_finite(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise for NaN or infinity among the inputs."""

    def visit(name: str, tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided:
            return tensor
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(f"input {name} holds {bad} entries that are NaN or infinite: clean it before explaining")
        return tensor

    for name, value in names(args, kwargs):
        rebuild(value, name, visit)
