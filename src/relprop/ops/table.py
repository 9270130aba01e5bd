"""The table from torch functions to the parsers that say what they are.

A parser is a function of one `Call`, registered under the names of the torch functions it reads. A name stands for
every spelling of it: `torch.relu`, `Tensor.relu`, `F.relu`, and the in-place `relu_`. An operator that a library adds
to torch bears the library's name too, `torchvision::roi_align`, and may be registered before the library is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch._ops import OpOverload, OpOverloadPacket

from relprop.errors import RegistryError
from relprop.ops.base import Call, Expansion, Native, Op

Parser = Callable[[Call], "Op | Native | Expansion"]

_SPACES: tuple[Any, ...] = (
    torch,
    torch.Tensor,
    F,
    torch.special,
    torch.linalg,
    torch.fft,
    torch._C._nn,
    getattr(torch._C, "_special", None),
    getattr(torch._C, "_linalg", None),
    getattr(torch._C, "_fft", None),
)
#: What libraries add to torch, and torch itself has beneath its functions: one form of an operator, or all.
OPERATORS = (OpOverload, OpOverloadPacket)
#: Forms of operators that the function of the name does not have: `Tensor.to` takes no layout.
_OTHERWISE = ("dtype_layout",)
_METHODS = {
    "add": ("__add__", "__radd__", "__iadd__"),
    "sub": ("__sub__", "__isub__"),
    "rsub": ("__rsub__",),
    "mul": ("__mul__", "__rmul__", "__imul__"),
    "div": ("__truediv__", "__div__", "__itruediv__", "__idiv__"),
    "rdiv": ("__rtruediv__", "__rdiv__"),
    "floor_divide": ("__floordiv__", "__rfloordiv__", "__ifloordiv__"),
    "remainder": ("__mod__", "__imod__"),
    "rmod": ("__rmod__",),
    "pow": ("__pow__", "__ipow__"),
    "rpow": ("__rpow__",),
    "matmul": ("__matmul__", "__imatmul__"),
    "rmatmul": ("__rmatmul__",),
    "neg": ("__neg__",),
    "abs": ("__abs__",),
    "getitem": ("__getitem__",),
    "setitem": ("__setitem__",),
}


class Entry(NamedTuple):
    name: str
    parse: Parser
    inplace: bool


class Table:
    """From torch functions to parsers. One object, `TABLE`, is the library's; a user adds to it by `register`."""

    def __init__(self) -> None:
        self._entries: dict[Any, Entry] = {}
        self._operators: dict[str, Entry] = {}

    def register(self, *functions: str | Callable[..., Any], replace: bool = False) -> Callable[[Parser], Parser]:
        """Decorate a parser with the torch functions it reads, by name or as the callables themselves.

        An operator of a library is named as the library has registered it, "torchvision::roi_align".

        A parser takes a `relprop.ops.Call` and returns what the call is: an `Op`, an `Expansion` into other calls, or
        `Native(form=...)` where the gradient of torch is right as it is:

        @relprop.op("deg2rad")
        def deg2rad(call):
            return Native(form="scale")

        Raises `RegistryError` for a function that stands in the table already, unless `replace=True`, and for a
        name that this torch does not have in any form.
        """
        wrong = [f for f in functions if not (isinstance(f, str) or callable(f))]
        if wrong or not functions:
            raise RegistryError(
                f"op takes torch functions, by name or as the callables themselves, got {wrong[0]!r}"
                if wrong
                else 'op takes the torch functions that are parsed: @relprop.op("deg2rad")'
            )

        def decorate(parse: Parser) -> Parser:
            if not callable(parse):
                raise RegistryError(f"op decorates a parser, a function of one Call, got {parse!r}")
            for function in functions:
                found = False
                name = function if isinstance(function, str) else name_of(function)
                entries: dict[Any, Entry] = self._operators if "::" in name else self._entries
                for target, inplace in [(name, name.endswith("_"))] if "::" in name else _spellings(function):
                    found = True
                    if target in entries and not replace and entries[target].parse is not parse:
                        raise RegistryError(
                            f"{name} is registered already; pass replace=True to override it on purpose"
                        )
                    entries[target] = Entry(name.rpartition("::")[2].rstrip("_"), parse, inplace)
                if not found:
                    raise RegistryError(f"torch {torch.__version__} has no function named {name!r}")
            return parse

        return decorate

    def get(self, function: Any) -> Entry | None:
        return self._entries.get(function)

    def operator(self, called: Any) -> tuple[Any, Entry | None]:
        """The entry of an operator, and what is to be called.

        torch's own operators, `aten::relu`, by which exported models call it, are called as the functions of torch that
        take the same arguments: not as those that are written in Python, which order them otherwise (`F.mse_loss`).
        """
        name = name_of(called)
        entry = self._operators.get(name)
        library, _, function = name.partition("::")
        if entry is None and library == "aten" and getattr(called, "_overloadname", "") not in _OTHERWISE:
            for space in _SPACES:
                known = getattr(space, function, None)
                if known is not None and known in self._entries and not isinstance(known, FunctionType):
                    return known, self._entries[known]
        return called, entry

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def names(self) -> set[str]:
        """The names of the functions in it, as operations bear them."""
        return {entry.name for entries in (self._entries, self._operators) for entry in entries.values()}


def name_of(function: Any) -> str:
    """The name under which a parser of a function is registered."""
    if isinstance(function, OpOverload):
        function = function.overloadpacket
    if isinstance(function, OpOverloadPacket):
        return str(function._qualified_op_name)
    return str(getattr(function, "__name__", function))


def _spellings(function: str | Callable[..., Any]) -> Iterator[tuple[Any, bool]]:
    if not isinstance(function, str):
        yield function, False
        return
    seen = set()
    for space in _SPACES:
        for name, inplace in ((function, False), (function + "_", True)):
            target = getattr(space, name, None)
            if callable(target) and target not in seen and not isinstance(target, type):
                seen.add(target)
                yield target, inplace
    for name in _METHODS.get(function, ()):
        target = getattr(torch.Tensor, name, None)
        if target is not None and target not in seen:
            seen.add(target)
            yield target, name.startswith("__i") and name != "__invert__"


TABLE = Table()
op = TABLE.register
