"""How calls enter autograd's graph, whose backward then carries relevance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from relprop.numerics import dot
from relprop.ops.attention import Attention
from relprop.ops.base import Call
from relprop.record.books import Ledger
from relprop.record.facts import Facts
from relprop.record.marks import Pass, mark, own, upcoming
from relprop.record.saved import Boxes
from relprop.record.step import Visit, take, take_plainly
from relprop.record.tensors import exchanged
from relprop.rules.base import as_is
from relprop.site import Site

_NOTHING: dict[str, Any] = {}
#: The names of what a call changes in place.
_TARGETS = ("input", "self", "out")


class Graph:
    """The graph of one forward. `Tape` is the other one, for relevance that is to be differentiated.

    in_place      whether calls that torch can carry out in place are
    starts_again  whether a checkpoint with `use_reentrant=True` is computing its segment again, from leaves of its own
    """

    in_place = True

    def __init__(self, facts: Facts, ledger: Ledger, boxes: Boxes) -> None:
        self._facts, self._ledger, self._boxes = facts, ledger, boxes
        self._aliases: dict[int, tuple[Tensor, Tensor]] = {}
        self._own: set[int] = set()
        self.starts_again = False

    # -- what depends on the input -------------------------------------------------------------------------------

    def enter(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any], bool, bool]:
        """Parameters become detached aliases; does any argument depend on the input, is any a constant tensor?"""
        depends = constants = False
        changed: list[Any] | None = None
        for i, value in enumerate(args):
            if isinstance(value, Tensor):
                if not value.requires_grad:
                    constants = True
                elif value.is_leaf and not (self.starts_again and self._computed_again_from(value)):
                    changed = list(args) if changed is None else changed
                    changed[i] = self._alias(value)
                else:
                    depends = True
                    self._facts.read(value)
            elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
                inner, _, moving, fixed = self.enter(value, _NOTHING)
                depends, constants = depends or moving, constants or fixed
                if inner is not value:
                    changed = list(args) if changed is None else changed
                    changed[i] = inner
        if changed is not None:
            args = type(args)(changed) if type(args) in (list, tuple) else tuple(changed)
        if kwargs:
            names = tuple(kwargs)
            given, _, moving, fixed = self.enter(tuple(kwargs.values()), _NOTHING)
            depends, constants = depends or moving, constants or fixed
            kwargs = dict(zip(names, given, strict=True))
        return args, kwargs, depends, constants

    def hold(self, args: Any, kwargs: dict[str, Any], first: int) -> tuple[Any, dict[str, Any]]:
        """Constants become aliases of ours too, for a call that depends on the input: rules and books read them later.

        first   the first argument that is not changed by the call itself
        """
        if len(args) > first:
            held = tuple(self._held(value) for value in args[first:])
            args = (*args[:first], *held)
        if kwargs:
            kwargs = {
                name: value if first and name in _TARGETS else self._held(value) for name, value in kwargs.items()
            }
        return args, kwargs

    def _held(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if value.requires_grad or id(value) in self._own else self._boxes.alias(value)
        if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
            return exchanged(value, self._held)
        return value

    def _computed_again_from(self, leaf: Tensor) -> bool:
        """A checkpoint with `use_reentrant=True` starts again from leaves of its own."""
        return not isinstance(leaf, nn.Parameter) and id(leaf) not in self._aliases

    def _alias(self, parameter: Tensor) -> Tensor:
        known = self._aliases.get(id(parameter))
        if known is None:
            known = self._aliases[id(parameter)] = (parameter, parameter.detach())
            self._own.add(id(known[1]))
        return known[1]

    def depends(self, value: Any) -> bool:
        """Whether a value is a tensor that depends on the input: parameters enter detached."""
        return isinstance(value, Tensor) and value.requires_grad

    def constant(self, tensor: Tensor) -> Tensor:
        """The values of a tensor, through which no relevance passes."""
        return tensor.detach()

    def values(self, tensor: Tensor) -> Tensor:
        """The values of a tensor, to read relevance with."""
        return tensor.detach()

    def begin(self, tensor: Tensor) -> Tensor:
        """A leaf with the values of a tensor."""
        return tensor.detach().requires_grad_()

    def below(self, tops: Iterable[Tensor], kept: Iterable[Tensor]) -> set[int]:
        """Which of the kept tensors lie on a way from the tops to the input, by identity."""
        edge = torch.autograd.graph.get_gradient_edge
        stack: list[Any] = [edge(t).node for t in tops]
        own_nodes, seen = set(stack), set[Any]()
        while stack:
            for node, _ in stack.pop().next_functions:
                if node is not None and node not in seen:
                    seen.add(node)
                    stack.append(node)
        return {id(t) for t in kept if (node := edge(t).node) in seen and node not in own_nodes}

    # -- calls ---------------------------------------------------------------------------------------------------

    def link(self, kept: Tensor, onward: Tensor, change: Callable[[Tensor], Tensor | None] | None = None) -> None:
        """`onward` is a copy of `kept`; what comes back is changed on the way."""
        if change is not None:
            onward.register_hook(change)

    def step(self, visit: Visit, run: Callable[[], Any], operands: tuple[Tensor, ...], plain: bool = False) -> Any:
        """A call whose backward is its rule's; `plain`: a dense map, whose rule asks for the map's own gradient."""
        return (take_plainly if plain and not self._ledger.by_site else take)(visit, run, *operands)

    def natively(
        self,
        call: Call,
        run: Callable[..., Any] | None = None,
        operands: tuple[Tensor, ...] = (),
        share: Callable[[Tensor], Tensor] | None = None,
        before: Callable[[Tensor], Tensor] = as_is,
        entry: str = "constants",
        rows: bool = False,
    ) -> Any:
        """A call whose backward is its own; `run(*operands)` carries it out, if not the call itself.

        share, entry  what its constants absorb, and the books' entry for that
        rows          whether that is told by the rows of the gradient, however they are arranged
        before        what is done to the gradient first
        """
        since = upcoming()
        result = call.run() if run is None else run(*operands)
        if share is not None or before is not as_is:
            result = own(result, (call.args, call.kwargs), since, rows)
        mark(result, since, self._ledger, share, before, entry)
        return result

    def attended(self, op: Attention, changed: dict[str, Tensor], lost: float, site: Site, before: Pass) -> Tensor:
        """The attention kernel on operands that share out their gradients.

        lost    the part of the output's relevance that none of them stands for
        before  what is done to the gradient first
        """
        since, ledger = upcoming(), self._ledger
        result = op.kernel(changed)
        share = None
        if lost or ledger.by_site or before is not as_is:
            result = own(result, tuple(changed.values()), since, rows=False)
        if lost or ledger.by_site:
            share = partial(_lost, result.detach(), lost, ledger, site)
        mark(result, since, ledger, share, before, "excess", site)
        return result

    def without(self, run: Callable[[], Any]) -> Any:
        """A call through which nothing passes."""
        with torch.no_grad():
            return run()

    def outside(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], path: str) -> Any:
        """A function that is not in the table."""
        return func(*args, **kwargs)

    def before_write(self, target: Tensor, path: str) -> None:
        """`target` is about to be given other values in place, in the module of that path."""

    def written(self, target: Tensor, result: Tensor) -> None:
        """`target` was given the values of `result` in place."""

    def placed(self, call: Call, target: Tensor, share: Callable[[Tensor], Tensor] | None) -> Tensor:
        """What `target` becomes by a call that writes into a part of it, where that is not done in place."""
        raise NotImplementedError

    def check_whole(self, path: str) -> None:
        """A module that is registered as one operation is about to enter. Raises where that cannot be."""


def _lost(value: Tensor, part: float, ledger: Ledger, site: Site, g: Tensor) -> Tensor:
    came = dot(value, g)
    ledger.came(site, came)
    return came * part
