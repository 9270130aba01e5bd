"""A recorded forward whose relevance can be differentiated.

Autograd's own graph cannot serve twice: where rules change its backward, a derivative of that backward would be
changed by them again. So the model runs natively, on its own parameters, and the rules are kept on a tape beside it.
The tape is run backwards with gradients recorded: relevance is then an ordinary function of inputs and parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from relprop.errors import ModelStateError
from relprop.numerics import as_it_runs, dot
from relprop.record.books import Ledger
from relprop.record.facts import Facts
from relprop.record.graph import Graph
from relprop.record.saved import Boxes
from relprop.record.step import Visit
from relprop.record.tensors import function_of, tensors
from relprop.rules.base import as_is
from relprop.site import Site

Key = tuple[int, int]
Pull = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Any]], Sequence[Tensor | None]]


@dataclass
class Entry:
    """One call: from the modified gradients at its outputs to those at its operands.

    The tensors are held, so that nothing else takes their place; one that the model then changes in place is exchanged
    for a copy. came, went: what identifies operands and outputs when the call ran.
    """

    operands: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    came: tuple[Key, ...]
    went: tuple[Key, ...]
    pull: Pull

    def pulled(self, gs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        return self.pull(self.operands, self.outputs, gs)


class Tape(Graph):
    """What `create_graph=True` records.

    Which tensors depend on the input is kept here: parameters ask for gradients of their own, so autograd does not
    tell.
    """

    in_place = False

    def __init__(self, facts: Facts, ledger: Ledger, boxes: Boxes) -> None:
        super().__init__(facts, ledger, boxes)
        self._entries: list[Entry] = []
        self._moving: dict[Key, Tensor] = {}
        self._fixed: dict[Key, Tensor] = {}

    # -- what depends on the input -------------------------------------------------------------------------------

    def depends(self, value: Any) -> bool:
        return isinstance(value, Tensor) and _key(value) in self._moving

    def constant(self, tensor: Tensor) -> Tensor:
        """The same values, through which no relevance passes; their derivative does."""
        alias = tensor.clone()
        self._fixed[_key(alias)] = alias
        return alias

    def values(self, tensor: Tensor) -> Tensor:
        return tensor

    def begin(self, tensor: Tensor) -> Tensor:
        leaf = tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().clone().requires_grad_()
        self._moving[_key(leaf)] = leaf
        return leaf

    def enter(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any], bool, bool]:
        moving = [t for t in tensors((args, kwargs)) if self.depends(t)]
        for t in moving:
            self._facts.read(t)
        return args, kwargs, bool(moving), False  # what is changed in place is found by its version

    def below(self, tops: Iterable[Tensor], kept: Iterable[Tensor]) -> set[int]:
        own = {_key(t) for t in tops}
        seen = set(own)
        for entry in reversed(self._entries):
            if not seen.isdisjoint(entry.went):
                seen.update(entry.came)
        return {id(t) for t in kept if _key(t) in seen - own}

    # -- the tape ------------------------------------------------------------------------------------------------

    def link(self, kept: Tensor, onward: Tensor, change: Callable[[Tensor], Tensor | None] | None = None) -> None:
        def pull(_: Any, __: Any, gs: Sequence[Any]) -> Sequence[Tensor | None]:
            (g,) = gs
            changed = None if change is None else change(g)
            return (g if changed is None else changed,)

        self._write((kept,), onward, pull)

    def step(self, visit: Visit, run: Callable[[], Any], operands: tuple[Tensor, ...], plain: bool = False) -> Any:
        def pull(given: Sequence[Tensor], made: Sequence[Tensor], gs: Sequence[Any]) -> Sequence[Tensor | None]:
            ledger = visit.ledger
            ledger.open(visit.site)
            pulled = visit.op.pull(visit.rule, given, made, gs, ledger)
            if ledger.by_site:
                ledger.flow(visit.site, given, () if visit.op.within else made, gs, pulled)
            return pulled

        return self._write(operands, run(), pull)

    def natively(
        self,
        call: Any,
        run: Callable[..., Any] | None = None,
        operands: tuple[Tensor, ...] = (),
        share: Callable[[Tensor], Tensor] | None = None,
        before: Callable[[Tensor], Tensor] = as_is,
        entry: str = "constants",
        rows: bool = False,
    ) -> Any:
        """The call's own vector-Jacobian product, of the call alone: its operands may depend on each other."""
        moving = operands or tuple({id(t): t for t in tensors((call.args, call.kwargs)) if self.depends(t)}.values())
        places, func = [id(t) for t in moving], call.func
        ledger, path = self._ledger, call.path  # an entry that held the tape would hold itself
        versions = [(t, t._version) for t in tensors((call.args, call.kwargs)) if id(t) not in places]

        own = as_it_runs(run) if run is not None and operands else None
        alone = function_of(func, call.args, call.kwargs, moving) if own is None else own

        def again(*given: Tensor) -> Any:
            if any(t._version != version for t, version in versions):
                name = getattr(func, "__name__", func)
                raise _refused(f"{name} of a constant that is changed in place afterwards", path)
            return alone(*given)

        def pull(given: Sequence[Tensor], _: Any, gs: Sequence[Any]) -> Sequence[Tensor | None]:
            if share is not None and gs[0] is not None:
                ledger.open(None)
                ledger.add(entry, share(gs[0]))
            if before is not as_is:
                gs = [g if i or g is None else before(g) for i, g in enumerate(gs)]
            return _vjp(again, given, gs)

        return self._write(moving, run(*operands) if run is not None else call.run(), pull)

    def attended(self, op: Any, changed: dict[str, Tensor], lost: float, site: Site, before: Any = as_is) -> Tensor:
        roles = [r for r, t in changed.items() if self.depends(t)]
        ledger, inputs, kernel = self._ledger, {**op.inputs, **changed}, as_it_runs(op.kernel)

        def again(*given: Tensor) -> Any:
            op.inputs = inputs
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels' backward has no derivative
                return kernel(dict(zip(roles, given, strict=True)))

        def pull(given: Sequence[Tensor], made: Sequence[Tensor], gs: Sequence[Any]) -> Sequence[Tensor | None]:
            came = dot(made[0].detach(), gs[0])
            ledger.came(site, came)
            ledger.open(site)
            ledger.add("excess", came, lost)
            return _vjp(again, given, gs)

        return self._write(tuple(changed[r] for r in roles), op.kernel(changed), pull)

    def without(self, run: Callable[[], Any]) -> Any:
        return run()

    def before_write(self, target: Tensor, path: str) -> None:
        if target._is_view():
            raise _refused("a write into a part of a tensor", path)
        old = target.clone()
        for entry in self._entries:
            entry.operands = tuple(old if t is target else t for t in entry.operands)
            entry.outputs = tuple(old if t is target else t for t in entry.outputs)

    def written(self, target: Tensor, result: Tensor) -> None:
        self.link(result, target)

    def _write(self, operands: tuple[Tensor, ...], result: Any, pull: Pull) -> Any:
        outputs = tuple(tensors(result))
        went = tuple(_key(t) for t in outputs)
        depend = {key: t for key, t in zip(went, outputs, strict=True) if t.requires_grad and key not in self._fixed}
        self._moving.update(depend)
        self._entries.append(Entry(operands, outputs, tuple(_key(t) for t in operands), went, pull))
        return result

    def gradients(self, front: Sequence[tuple[Tensor, Tensor]], wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """The modified gradients at the wanted tensors, from those at the front; differentiable."""
        at: dict[Key, Tensor] = {}
        for tensor, g in front:
            at[_key(tensor)] = at[_key(tensor)] + g if _key(tensor) in at else g
        asked = {_key(t) for t in wanted}
        found = {k: g for k, g in at.items() if k in asked}
        with torch.enable_grad():
            for entry in reversed(self._entries):
                gs = [at.pop(k, None) for k in entry.went]
                found.update((k, g) for k, g in zip(entry.went, gs, strict=True) if k in asked and g is not None)
                if all(g is None for g in gs):
                    continue
                for key, operand, pulled in zip(entry.came, entry.operands, entry.pulled(gs), strict=True):
                    if pulled is not None:
                        pulled = pulled.to(operand.dtype).sum_to_size(operand.shape)  # as autograd does
                        at[key] = at[key] + pulled if key in at else pulled
        found.update((k, g) for k, g in at.items() if k in asked)
        return [found.get(_key(t)) for t in wanted]

    # -- what has no derivative ----------------------------------------------------------------------------------

    def placed(self, call: Any, target: Tensor, share: Callable[[Tensor], Tensor] | None) -> Tensor:
        """A call that writes into a part of its first argument: as one that returns another tensor."""

        def func(base: Tensor, *rest: Any, **more: Any) -> Tensor:
            whole = base.clone()
            call.func(whole, *rest, **more)
            return whole

        if not call.args:
            raise _refused(f"{call.name} with its target as a keyword", call.path)
        base = target if self.depends(target) else target.clone()
        result: Tensor = self.natively(_Unlisted(func, (base, *call.args[1:]), call.kwargs, call.path), share=share)
        return result

    def check_whole(self, path: str) -> None:
        raise _refused("a module that is registered as one operation", path)

    def outside(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], path: str) -> Any:
        name = getattr(func, "__name__", str(func))
        if name.endswith("_") and not name.endswith("__"):
            raise _refused(f"{name}, which changes its input", path)
        return self.natively(_Unlisted(func, args, kwargs, path))


@dataclass
class _Unlisted:
    """A call that is not in the table."""

    func: Any
    args: Any
    kwargs: dict[str, Any]
    path: str

    def run(self) -> Any:
        return self.func(*self.args, **self.kwargs)


def _key(tensor: Tensor) -> Key:
    return id(tensor), tensor._version


def _refused(what: str, path: str) -> Exception:
    return ModelStateError(
        f"create_graph=True cannot follow {what} (in module {path or '(model)'!r}): write it with operations that "
        "return a new tensor, or explain without create_graph"
    )


def _vjp(
    function: Callable[..., Any], operands: Sequence[Tensor], gs: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """The vector-Jacobian products of a function at its operands, differentiable in operands and gradients."""
    given = [t.view_as(t) for t in operands]
    pairs = [(y, g) for y, g in zip(tensors(function(*given)), gs, strict=True) if g is not None]
    if not pairs:
        return [None] * len(given)
    return torch.autograd.grad(
        [y for y, _ in pairs], given, [g for _, g in pairs], create_graph=True, allow_unused=True
    )
