"""Recurrent layers: `lstm`, `gru`, `rnn_tanh`, `rnn_relu` and their cells, each one site.

The forward is torch's own kernel. For the backward the states are computed again step by step, and a rule takes the
relevance back through them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.errors import ModelStateError
from relprop.ops.base import Call, Fact, Op
from relprop.ops.table import op


@dataclass
class Weights:
    """One direction of one layer. `w_ih [G*H, I]`, `w_hh [G*H, P]`, gates stacked as torch stacks them."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None


def in_float32(t: Tensor | None) -> Any:
    return None if t is None else t.float()


class Recurrent(Op):
    """A recurrent call.

    cell       "lstm", "gru", "rnn_tanh", "rnn_relu"
    layers     per layer, the weights of its directions
    sizes      batch sizes of a packed sequence, or None
    single     a cell: one step, no sequence dimension
    batch_first, unbatched   the layout of input and output
    roles      which of "x", "h", "c" each operand is
    """

    family = "recurrent"
    kind = "recurrent"

    def __init__(
        self,
        cell: str,
        layers: list[list[Weights]],
        roles: tuple[str, ...],
        *,
        sizes: Tensor | None = None,
        batch_first: bool = False,
        unbatched: bool = False,
        single: bool = False,
        constants: dict[str, Tensor | None] | None = None,
    ) -> None:
        self.cell, self.layers, self.roles = cell, layers, roles
        self.sizes, self.batch_first, self.unbatched, self.single = sizes, batch_first, unbatched, single
        self.constants = constants or {}

    def in_float32(self) -> Recurrent:
        """The same call with its weights in float32."""
        made = copy.copy(self)
        made.layers = [[Weights(*map(in_float32, vars(w).values())) for w in ways] for ways in self.layers]
        return made

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        return rule.recurrent(self, operands, outputs, gs, books)

    # -- layouts -------------------------------------------------------------------------------------------------

    def steps(self, data: Tensor) -> list[Tensor]:
        """`data` as one tensor [N_t, ...] a time step; N_t falls for packed sequences."""
        if self.single:
            return [data if data.ndim == 2 else data.unsqueeze(0)]
        if self.sizes is not None:
            return list(data.split(self.sizes.tolist()))
        if self.unbatched:
            return list(data.unsqueeze(1))
        return list(data.transpose(0, 1) if self.batch_first else data)

    def joined(self, steps: Sequence[Tensor], like: Tensor) -> Tensor:
        """The inverse of `steps`."""
        if self.single:
            return steps[0].reshape(like.shape)
        if self.sizes is not None:
            return torch.cat(list(steps))
        data = torch.stack(list(steps))
        if self.unbatched:
            return data.squeeze(1)
        return data.transpose(0, 1) if self.batch_first else data


def _check(call: Call, dropout: float, train: bool) -> None:
    if train and dropout > 0:
        raise ModelStateError(
            f"{call.name} with dropout p = {dropout} in training mode: the explanation would be random. "
            "Call model.eval() first."
        )


def _layers(flat: Sequence[Tensor], biases: bool, count: int, both_ways: bool) -> list[list[Weights]]:
    directions = 2 if both_ways else 1
    size = len(flat) // (count * directions)
    groups = [list(flat[i * size : (i + 1) * size]) for i in range(count * directions)]
    made = []
    for group in groups:
        w_ih, w_hh, *rest = group
        b_ih, b_hh = (rest[0], rest[1]) if biases else (None, None)
        w_hr = rest[-1] if len(rest) in (1, 3) else None
        made.append(Weights(w_ih, w_hh, b_ih, b_hh, w_hr))
    return [made[i * directions : (i + 1) * directions] for i in range(count)]


def _made(call: Call, op_: Recurrent, named: dict[str, Tensor]) -> Recurrent:
    op_.constants = {k: v for k, v in named.items() if k not in op_.roles}
    op_.operands, op_.run, op_.fact = tuple(named[r] for r in op_.roles), call.run, Fact()
    return op_


def _roles(call: Call, named: dict[str, Tensor]) -> tuple[str, ...]:
    return tuple(k for k, v in named.items() if call.depends(v))


@op("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Op:
    args = call.args
    packed = isinstance(args[3], (list, tuple))
    if packed:
        data, sizes, state, flat, biases, count, dropout, train, both_ways = args[:9]
        batch_first = False
    else:
        data, state, flat, biases, count, dropout, train, both_ways, batch_first = args[:9]
        sizes = None
    _check(call, dropout, train)
    named = {"x": data}
    if isinstance(state, (list, tuple)):
        named |= {"h": state[0], "c": state[1]}
    else:
        named |= {"h": state}
    made = Recurrent(
        call.name,
        _layers(flat, biases, count, both_ways),
        _roles(call, named),
        sizes=sizes,
        batch_first=batch_first,
        unbatched=sizes is None and data.ndim == 2,
    )
    return _made(call, made, named)


@op("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(call: Call) -> Op:
    data, state, w_ih, w_hh, b_ih, b_hh = call.bind("input hx w_ih w_hh b_ih b_hh", b_ih=None, b_hh=None)
    named = {"x": data}
    named |= {"h": state[0], "c": state[1]} if isinstance(state, (list, tuple)) else {"h": state}
    weights = [[Weights(w_ih, w_hh, b_ih, b_hh)]]
    made = Recurrent(call.name.removesuffix("_cell"), weights, _roles(call, named), single=True)
    return _made(call, made, named)
