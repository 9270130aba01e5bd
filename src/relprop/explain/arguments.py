"""What was probably meant, where a model does not take what it was given."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from relprop.errors import InputError, NoPathError, RelpropError, nearest, warn
from relprop.explain.inputs import names

_ABOUT_DEVICES = re.compile(r"\bdevices?\b|placeholder storage|torch\.(cuda|mps|xpu)\.", re.I)
_ABOUT_TYPES = re.compile(r"dtype|scalar type|datatype|input type|type promoting|not implemented for '", re.I)
_WANTS_IDS = re.compile(r"'indices' to have one of the following scalar types")
#: What torch's messages call types of integers.
_INTEGERS = {
    torch.int64: r"Long|long int|int64", torch.int32: r"\bInt\b|\bint\b|int32", torch.int16: r"Short|short|int16",
    torch.uint8: r"Byte|unsigned char|uint8", torch.int8: r"Char\b|\bchar|\bint8", torch.bool: r"Bool|bool",
}  # fmt: skip
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def refuse_misfit(
    error: Exception,
    model: nn.Module,
    call: str,
    own: Collection[str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Raise an `InputError` for what was given, if that is why the model failed.

    A model may take anything, numbers and arrays too, so that only its failure says that something is amiss.

    call, own  what the user called, and its own keywords
    """
    if isinstance(error, RelpropError) and not isinstance(error, NoPathError):
        return
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    if found is not None and found[1] in kwargs:
        raise InputError(_unknown_keyword(found[1], model, call, own)) from error
    if not args and not kwargs:
        raise InputError(f"{call} was given no input: it takes what the model takes, {_signature(model)}") from error
    unbound = _unbound(model, args, kwargs) if isinstance(error, TypeError) else ""
    if unbound:
        named = f"; a target is given by name, target={args[-1]}" if args and type(args[-1]) is int else ""
        raise InputError(f"the model, {_signature(model)}, does not take these inputs: {unbound}{named}") from error
    if len(args) == 1 and isinstance(args[0], Mapping) and args[0] and set(args[0]) <= set(_parameters(model)):
        raise InputError(
            f"input 0 is a mapping of the model's own inputs, {', '.join(map(str, args[0]))}: hand it on as keywords, "
            f"{call}(**inputs)"
        ) from error
    given = [(name, part) for key, value in names(args, kwargs) for name, part in _parts(key, value)]
    arrays = [name for name, part in given if isinstance(part, np.ndarray)]
    if arrays:
        raise InputError(
            f"input {arrays[0]} is a numpy array, and the model takes tensors: give torch.from_numpy(array), in the "
            "dtype of the model; for tables of numpy or pandas: relprop.tabular.Explainer"
        ) from error
    found_tensors = [(name, part) for name, part in given if isinstance(part, torch.Tensor)]
    if not found_tensors:
        raise InputError(_no_tensor(*given[0])) from error
    unfit = _unfit(str(error), model, found_tensors)
    if unfit:
        raise InputError(unfit) from error


def _unfit(message: str, model: nn.Module, given: Sequence[tuple[str, torch.Tensor]]) -> str:
    """What to do about an input on another device or of another type than the model, if the failure speaks of that."""
    weights = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() or t.is_complex()]
    devices, types = ({getattr(t, of): None for t in weights} for of in ("device", "dtype"))
    typed = _ABOUT_TYPES.search(message)
    if not weights or not (typed or _ABOUT_DEVICES.search(message)):
        return ""
    for name, x in given:
        if x.device not in devices:
            return (
                f"input {name} is on {x.device}, and the model on {_listed(devices)}: move one to the other, "
                f"x.to({str(next(iter(devices)))!r}) or model.to({str(x.device)!r})"
            )
    for name, x in given if typed else ():
        if _WANTS_IDS.search(message) and x.dtype not in (torch.int64, torch.int32):
            return f"input {name} is {x.dtype}, and the model looks it up in an embedding: give ids, x.long()"
        other = _INTEGERS.get(x.dtype)
        if x.dtype not in types and (other is None or re.search(other, message)):
            wider = "" if other else f", or the model as model.to({x.dtype})"
            return (
                f"input {name} is {x.dtype}, and the model's parameters are {_listed(types)}: give x.to("
                f"{next(iter(types))}){wider}"
            )
    return ""


def _listed(values: Iterable[Any]) -> str:
    return " and ".join(map(str, values))


def warn_of_swallowed(model: nn.Module, own: frozenset[str], kwargs: Mapping[str, Any]) -> None:
    """Warn of a keyword that is nearly one of ours and went to a model that takes any."""
    for name in kwargs:
        meant = _mistyped(name, own)
        if meant is not None and name not in _parameters(model):
            warn(
                f"{name}= was handed to {type(model).__name__}.forward, which takes any keyword; explain's own is "
                f"{meant}="
            )


@functools.lru_cache(maxsize=256)
def _mistyped(name: str, own: frozenset[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, own, 1, 0.85)), None)


def _unknown_keyword(name: str, model: nn.Module, call: str, own: Collection[str]) -> str:
    takes = f"{call} has no keyword {name!r}, and neither has the model, {_signature(model)}"
    return takes + nearest(name, [*own, *_parameters(model)], cutoff=0.6)


def _no_tensor(name: str, part: Any) -> str:
    """What to do about an input that is none, by what it is."""
    if isinstance(part, str):
        return (
            f"input {name} is a text, {part[:40]!r}, and no input is a tensor: for language models there is "
            "relprop.text, for photographs relprop.models.read_photo"
        )
    if isinstance(part, (bool, int, float, list)):
        return f"input {name} is made of plain numbers, and no input is a tensor: give torch.tensor(numbers)"
    return (
        f"no input is a tensor: input {name} is of type {type(part).__name__}. Give tensors; for tables of numpy or "
        "pandas there is relprop.tabular.Explainer"
    )


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What nested lists, tuples and mappings hold, with its place; a list of plain numbers is one part."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _parts(f"{name}.{key}", part)
    elif isinstance(value, (list, tuple)) and value and not isinstance(_first(value), (bool, int, float)):
        for i, part in enumerate(value):
            yield from _parts(f"{name}.{i}", part)
    else:
        yield name, value


def _first(value: Any) -> Any:
    """The first thing in nested lists."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value


def _unbound(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Why the arguments cannot be those of the model's forward, if they cannot."""
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except ValueError:
        pass
    return ""


def _parameters(model: nn.Module) -> list[str]:
    """The names by which the model takes its inputs."""
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _signature(model: nn.Module) -> str:
    """`Net.forward(x, mask)`."""
    return f"{type(model).__name__}.forward({', '.join(_parameters(model))})"
