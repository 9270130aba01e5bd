"""The selection of a state-space model: which parts of a split are its input-dependent matrices."""

from __future__ import annotations

from typing import Any

from relprop.ops.base import Call, Expansion, Native, Op
from relprop.ops.structure import move
from relprop.ops.table import TABLE


class Selection(Op):
    """A split into (signal or step size, B, C) in a module that holds a state matrix `A_log`.

    With the constant rule B and C carry nothing, so that the scan is linear in its signal.
    """

    family = "selection"
    degree_one = True
    kind = "selection"

    def __init__(self, call: Call) -> None:
        self._call: Call | None = call
        self._constant = False

    def bind(self, rule: Any) -> None:
        self._constant = bool(getattr(rule, "constant_matrices", False))

    def parts(self) -> Any:
        assert self._call is not None
        call, self._call = self._call, None
        signal, b, c = call.run()
        return (signal, call.constant(b), call.constant(c)) if self._constant else (signal, b, c)


@TABLE.register("split", "split_with_sizes", replace=True)
def split(call: Call) -> Op | Native | Expansion:
    sizes = (
        call.args[1]
        if len(call.args) > 1
        else call.kwargs.get("split_size_or_sections", call.kwargs.get("split_sizes"))
    )
    module = call.module()
    selective = module is not None and hasattr(module, "A_log")
    if selective and isinstance(sizes, (list, tuple)) and len(sizes) == 3 and sizes[1] == sizes[2]:
        made = Selection(call)
        made.operands, made.run = (call.args[0],), made.parts
        return made
    return move(call)
