"""The recorder: sees every torch call of one forward and gives each site its rule."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from relprop.composite import Composite, Decision
from relprop.errors import ModelStateError, RegistryError
from relprop.numerics import dot
from relprop.ops import TABLE, Expansion, Fact, LinearMap, Native, Op
from relprop.ops.attention import Attention, Share
from relprop.ops.elementwise import Elementwise, Sum
from relprop.ops.structure import SAME
from relprop.record.books import Ledger
from relprop.record.call import SeenCall
from relprop.record.captures import Captures
from relprop.record.checkpoints import REENTRANT, in_reentrant_checkpoint
from relprop.record.facts import Facts
from relprop.record.inplace import inplace, is_inplace, write
from relprop.record.leaves import Leaves
from relprop.record.marks import mark, own
from relprop.record.residual import residual
from relprop.record.saved import Boxes
from relprop.record.scope import ModuleScope
from relprop.record.step import Step, Visit
from relprop.record.tensors import tensors
from relprop.record.weakly import weakly
from relprop.rules import Identity, Signed
from relprop.rules.base import as_is
from relprop.selectors import Positions
from relprop.site import Site

_HEADS = ("softmax", "log_softmax", "sigmoid", "expit", "logsigmoid")


class Producer:
    """The linear map that made a tensor, for a batch norm that follows."""

    __slots__ = ("_operand", "_version", "capture", "decision", "op", "site")

    def __init__(self, op: LinearMap, site: Site, decision: Decision, operand: Tensor) -> None:
        self.op, self.site, self.decision = op, site, decision
        self._operand: Any = operand
        self._version = operand._version
        self.capture: Callable[[Tensor], Tensor] | None = None

    def operand(self) -> Tensor | None:
        tensor = self._operand() if isinstance(self._operand, weakref.ref) else self._operand
        return tensor if tensor is not None and tensor._version == self._version else None

    def loosen(self) -> None:
        """Another call than a batch norm has read the output: no chain of outputs may keep all that came before."""
        if not isinstance(self._operand, weakref.ref):
            self._operand = weakref.ref(self._operand)


class Recorder(TorchFunctionMode):
    """One forward of one model under one composite.

    carry     where relevance may stand on zeros: "nowhere", "entry" (below entries), "everywhere"
    captures  the tensors inside the model that are kept, selected from or stopped at
    many      several backwards are to come: denominators are kept for the next
    store     modified weights that outlive the call, by site, while the user holds the weights frozen
    """

    #: Whether calls that torch can carry out in place are.
    in_place = True

    def __init__(
        self,
        model: nn.Module,
        composite: Composite,
        *,
        carry: str | None = None,
        captures: Captures | None = None,
        totals: Any = None,
        store: dict[Any, dict[str, Tensor]] | None = None,
        many: bool = False,
    ) -> None:
        super().__init__()
        self.composite = composite
        self.store, self.many = store, many
        self.carry = carry or composite.carries()
        self.positions = Positions(composite.census, totals)
        self.ledger = Ledger()
        self.facts = Facts()
        self.captures = Captures() if captures is None else captures
        # the scope must not keep the recorder: through autograd's nodes no cycle is ever collected
        self.scope = ModuleScope(model, weakly(self._tap) if self.captures else None, weakly(self._whole))
        self.leaves = Leaves(self.facts, self.scope, weakly(self.begin), weakly(self.link))
        self.captures.attach(self)
        self.boxes = Boxes()
        self.sites: list[tuple[Site, Decision]] = []
        self.cuts: list[tuple[str, str]] = []
        self.head: tuple[Any, Tensor] | None = None
        self._aliases: dict[int, tuple[Tensor, Tensor]] = {}
        self._calls: dict[tuple[tuple[str, ...], str], int] = {}
        self.dtypes: set[torch.dtype] = set()
        self.replaying = False
        self.checkpointed = False
        self.reentrant = False
        self._memory: dict[tuple[tuple[str, ...], str, int], tuple[Site, Decision, bool]] = {}
        self._all_entries = frozenset(hash(e) for e in self.positions.entries)

    # -- the mode ------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.scope.inside is not None:
            return func(*args, **(kwargs or {}))
        entry = TABLE.get(func)
        if entry is None and getattr(func, "__name__", "") == "__get__" and func != _DATA:
            return func(*args)
        args, kwargs, depends = self._enter(args, kwargs or {})
        if not depends:
            if self.leaves.tokens:
                return self.leaves.follow(func, args, kwargs, self.replaying, self.reentrant)
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            if not self.replaying and in_reentrant_checkpoint():
                # seen now for the plan alone: the Function that runs it drops this graph and computes it again
                self.reentrant = True
                with torch.enable_grad():
                    return self.__torch_function__(func, types, args, kwargs)
            result = func(*args, **kwargs)
            self._note_cut(func, result)
            return result
        if func in _DETACHES:
            result = func(*args, **kwargs)
            self._note_cut(func, result)
            return result
        if entry is None:
            return self._unlisted(func, args, kwargs)
        if kwargs.get("out") is not None:
            target = kwargs.pop("out")
            result = self.__torch_function__(func, types, args, kwargs)
            return write(self, target, result)
        call = SeenCall(self, func, entry.name, args, kwargs)
        if is_inplace(call, entry):
            return inplace(self, call, entry)
        return self.carry_out(call, self.parse(entry, call))

    def _enter(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any], bool]:
        """Parameters become detached aliases; does any argument depend on the input?"""
        depends = False
        changed: list[Any] | None = None
        for i, value in enumerate(args):
            if isinstance(value, torch.Tensor):
                if value.requires_grad:
                    if value.is_leaf and not (self.replaying and self._computed_again_from(value)):
                        changed = list(args) if changed is None else changed
                        changed[i] = self._alias(value)
                    else:
                        depends = True
                        self.facts.read(value)
            elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
                inner, _, nested = self._enter(value, {})
                depends |= nested
                if inner is not value:
                    changed = list(args) if changed is None else changed
                    changed[i] = inner
        for key, value in kwargs.items():
            if isinstance(value, torch.Tensor):
                if value.requires_grad:
                    if value.is_leaf and not (self.replaying and self._computed_again_from(value)):
                        kwargs = {**kwargs, key: self._alias(value)}
                    else:
                        depends = True
                        self.facts.read(value)
            elif isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
                inner, _, nested = self._enter(value, {})
                depends |= nested
                if inner is not value:
                    kwargs = {**kwargs, key: inner}
        if changed is not None:
            args = type(args)(changed) if type(args) in (list, tuple) else tuple(changed)
        return args, kwargs, depends

    def _computed_again_from(self, leaf: Tensor) -> bool:
        """A checkpoint with `use_reentrant=True` starts again from leaves of its own."""
        return self.reentrant and not isinstance(leaf, nn.Parameter) and id(leaf) not in self._aliases

    def _alias(self, parameter: Tensor) -> Tensor:
        known = self._aliases.get(id(parameter))
        if known is None:
            known = self._aliases[id(parameter)] = (parameter, parameter.detach())
        return known[1]

    # -- how a call enters the graph; a recorder whose relevance is differentiated does each otherwise ------------

    def depends(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the input: parameters enter detached."""
        return tensor.requires_grad

    def constant(self, tensor: Tensor) -> Tensor:
        """The values of a tensor, through which no relevance passes."""
        return tensor.detach()

    def values(self, tensor: Tensor) -> Tensor:
        """The values of a tensor, to read relevance with."""
        return tensor.detach()

    def begin(self, tensor: Tensor) -> Tensor:
        """A leaf with the values of a tensor."""
        return tensor.detach().requires_grad_()

    def link(self, kept: Tensor, onward: Tensor, change: Callable[[Tensor], Tensor | None] | None = None) -> None:
        """`onward` is a copy of `kept`; what comes back is changed on the way."""
        if change is not None:
            onward.register_hook(change)

    def step(self, visit: Visit, run: Callable[[], Any], operands: tuple[Tensor, ...]) -> Any:
        """A call whose backward is its rule's."""
        return Step.run(visit, run, *operands)

    def natively(
        self,
        call: SeenCall,
        run: Callable[..., Any] | None = None,
        operands: tuple[Tensor, ...] = (),
        share: Callable[[Tensor], Tensor] | None = None,
        before: Callable[[Tensor], Tensor] = as_is,
        entry: str = "constants",
    ) -> Any:
        """A call whose backward is its own; `run(*operands)` carries it out, if not the call itself.

        share, entry  what its constants absorb, and the books' entry for that
        before        what is done to the gradient first
        """
        given = (call.args, call.kwargs)
        result = call.run() if run is None else run(*operands)
        if share is not None or before is not as_is:
            result = own(result, given)
        mark(result, given, self.ledger, share, before, entry)
        return result

    def attended(self, op: Attention, changed: dict[str, Tensor], excess: bool) -> Tensor:
        """The attention kernel on operands that share out their gradients; `excess`: the output's relevance is one."""
        result = op.kernel(changed)
        value = result.detach()
        mark(
            result, tuple(changed.values()), self.ledger, (lambda g: dot(value, g)) if excess else None, entry="excess"
        )
        return result

    def without(self, run: Callable[[], Any]) -> Any:
        """A call through which nothing passes."""
        with torch.no_grad():
            return run()

    def before_write(self, target: Tensor) -> None:
        """`target` is about to be given other values in place."""
        self.boxes.before_write(target)

    def written(self, target: Tensor, result: Tensor) -> None:
        """`target` was given the values of `result` in place."""

    def placed(self, call: SeenCall, target: Tensor, share: Callable[[Tensor], Tensor] | None) -> Tensor:
        """What `target` becomes by a call that writes into a part of it, where that is not done in place."""
        raise NotImplementedError

    # -- calls that take no rule ---------------------------------------------------------------------------------

    def _note_cut(self, func: Any, result: Any) -> None:
        """The gradient ends here: noted, unless nothing of value was cut or a custom Function is running."""
        if self.replaying or not any(t.is_floating_point() for t in tensors(result)):
            return
        frame: Any = sys._getframe(1)
        for depth in range(12):
            frame = frame.f_back
            if frame is None:
                break
            if depth < 3 and frame.f_code.co_filename == REENTRANT.co_filename:
                return  # activation checkpointing at its own work
            if "ctx" in frame.f_locals and frame.f_code.co_name == "forward":
                return
        name = getattr(func, "__name__", str(func))
        self._cut("data" if name == "__get__" else name)

    def _cut(self, name: str) -> None:
        cut = (self.scope.paths[0], name)
        if cut not in self.cuts:
            self.cuts.append(cut)

    def _unlisted(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """A function that is not in the table runs natively; the walk over the graph judges its node."""
        name = getattr(func, "__name__", str(func))
        if name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], torch.Tensor):
            self.boxes.before_write(args[0])
        result = func(*args, **kwargs)
        origin = (name, self.scope.paths[0])
        seen = self.seen(args, kwargs)
        if name in _READS or any(t.is_floating_point() and not t.requires_grad for t in tensors(result)):
            self._cut(name)  # its values go on without the graph
        for out in tensors(result):
            if out.grad_fn is not None:
                node: Any = out.grad_fn
                node.metadata.setdefault("relprop.origin", origin)
                self.facts.mark_seen(out, seen)
        return result

    # -- calls that are read -------------------------------------------------------------------------------------

    def parse(self, entry: Any, call: SeenCall) -> Op | Native | Expansion:
        parsed = entry.parse(call)
        if self.composite.census.residual and isinstance(parsed, Sum) and parsed.factors == (1.0, 1.0):
            if residual(*parsed.operands):
                parsed.kind = "residual"
        return parsed

    def carry_out(self, call: SeenCall, parsed: Op | Native | Expansion) -> Any:
        self.checkpointed = self.checkpointed or self.boxes.elsewhere()
        if isinstance(parsed, Expansion):
            with self:
                return parsed.run()
        result = self._native(call, parsed) if isinstance(parsed, Native) else self._visit(call, parsed)
        for operand in call.args:
            fact = self.facts.get(operand) if isinstance(operand, torch.Tensor) else None
            if fact is not None and fact.producer is not None:
                fact.producer.loosen()
        return result

    def _native(self, call: SeenCall, native: Native) -> Any:
        seen = self.seen(call.args, call.kwargs)
        if native.form != "move" and self.carrying(seen):
            result = self._native_carrying(call, native)
        else:
            result = self.natively(call, native.run, native.operands if native.run else (), native.share)
        if call.name in SAME and isinstance(result, Tensor):
            self.dtypes.add(result.dtype)
        self._note(result, native.fact, seen)
        return result

    def _native_carrying(self, call: SeenCall, native: Native) -> Any:
        """Scalings pass relevance entry by entry; sums stabilise it."""
        run, operands = native.run, native.operands if native.run else ()
        moving = native.operands or tuple(t for t in tensors((call.args, call.kwargs)) if self.depends(t))
        site = self.site("scale", call.name, "elementwise")
        carried_out = call.run if run is None else partial(run, *operands)
        if native.form == "scale" and len(moving) == 1:
            with torch.no_grad():
                shape = carried_out().shape
            if shape == moving[0].shape:
                op = Elementwise(call.name)
                op.carrying = True
                return self.step(Visit(op, Identity(), site, self.ledger), carried_out, moving)
        result = self.natively(call, run, operands, native.share)
        if isinstance(result, Tensor):
            op_sum = Sum((1.0,))
            op_sum.carrying = True
            return self.step(Visit(op_sum, Signed(), site, self.ledger), result.clone, (result,))
        return result

    def _visit(self, call: SeenCall, op: Op) -> Any:
        operands, run = op.take()
        seen = self.seen(operands, {})
        merged: Producer | None = getattr(op, "merged_into", None)
        if merged is not None:
            site, decision = merged.site, merged.decision
            site.notes.append(f"with batch norm {self.scope.paths[0]}")
            del op.merged_into  # type: ignore[attr-defined]
            op.carrying = merged.op.carrying
            seen = seen | site.entry
        elif op.family == "fixed":
            site, decision = self.site(op.kind, call.name, op.family), Decision(Identity(), "fixed", None)
            op.carrying = self.carrying(seen)
        else:
            site, decision, seen = self.decide(op, call.name, seen)
        rule = decision.rule
        if self.captures.weights and isinstance(op, LinearMap):
            rule = self.captures.weights.watch(op, rule, merged.op if merged is not None else op)
        op.bind(rule)
        if self.store is not None and isinstance(op, LinearMap):
            op.store = self.store.setdefault((site.paths, site.name, site.call, merged is not None), {})
        if self.many and isinstance(op, LinearMap):
            op.memory = {}
        if rule.constant(op):
            return self.without(run)
        if isinstance(op, Attention):
            result = self._attend(op, rule, site, operands, call)
            self._note(result, op.fact, seen)
            return self._tap_site(site, result)
        before = rule.native(op) if op.family != "fixed" else None
        if before is as_is and call.name == "relu" and (step := self.only_reader(operands[0])) is not None:
            return self._rectify(step, op, operands[0], run, seen)
        if before is not None:
            share = _bias_share(op, merged is not None)
            if before is as_is and call.name == "batch_norm":
                before = _ordered
            entry = "bias" if isinstance(op, LinearMap) else "constants"
            result = self.natively(call, run, share=share, before=before, entry=entry)
            merged = None
        else:
            visit = Visit(op, rule, site, self.ledger)
            result = self.step(visit, run, operands)
        if isinstance(op, LinearMap):
            op.fact = op.fact or Fact()
            if isinstance(result, Tensor):
                op.fact.producer = Producer(op, site, decision, operands[0]) if merged is None else None
                op.fact.step = visit if before is None and rule.rectifies and not op.carrying else None
        self._note(result, op.fact, seen)
        op.fact = None  # it lives as long as the result, not as long as the graph
        if merged is not None and merged.capture is not None:
            result = merged.capture(result)
        elif op.family != "fixed" and merged is None:
            result = self._tap_site(site, result)
        if call.name in _HEADS and isinstance(result, Tensor) and len(operands) == 1:
            self.head = (weakref.ref(result), operands[0])
        return result

    def decide(self, op: Op, name: str, seen: frozenset[int]) -> tuple[Site, Decision, frozenset[int]]:
        """The site, its rule, and what lies below its output. A recomputation gets what the first pass gave."""
        site = self.site(op.kind, name, op.family)
        key = (site.paths, name, site.call)
        if self.replaying and key in self._memory:
            site, decision, op.carrying = self._memory[key]
            return site, decision, seen | site.entry
        op.carrying = self.carrying(seen)
        seen = self.positions.visit(site, seen)
        decision = self.composite.decide(site)
        if site.entry and self.carry == "entry":
            op.carrying = False
        self.sites.append((site, decision))
        self._memory[key] = (site, decision, op.carrying)
        return site, decision, seen

    def replay(self) -> Recorder:
        """This recorder for the backward: what activation checkpointing recomputes then gets the same rules."""
        self.replaying = True
        self._totals = dict(self._calls)
        return self

    def _rectify(self, step: Visit, op: Op, operand: Tensor, run: Callable[[], Any], seen: frozenset[int]) -> Tensor:
        """The same out of place, where the ReLU's own node masks `g` once more: undone should something else read
        the map's output after all."""
        result: Tensor = run()
        step.op.rectified = True
        put_back = self.boxes.stand_in(operand, result)

        def undo() -> None:
            put_back()
            step.op.rectified = False

        self.facts.on_next_read(operand, undo)
        self._note(result, op.fact, seen)
        return result

    def only_reader(self, tensor: Tensor) -> Visit | None:
        """The linear map's step that made the tensor, if the running call is the first to read it.

        Nobody's, where what is kept is not kept by us (activation checkpointing): it could not be exchanged; nor where
        the results of operations are captured.
        """
        if self.boxes.elsewhere() or "site" in self.captures.kinds:
            return None
        fact = self.facts.get(tensor)
        step = fact.step if fact is not None else None
        if step is None or self.facts.reads(tensor) != 1 or tensor._base is not None:
            return None
        return step if self.boxes.kept(tensor) == 1 else None  # a function out of sight would keep it too

    def _attend(self, op: Attention, rule: Any, site: Site, operands: tuple[Tensor, ...], call: SeenCall) -> Any:
        """The kernel itself, with what enters it sharing out its gradients."""
        shares = rule.attention(op)
        changed: dict[str, Tensor] = {}
        scores = any(shares.get(role) for role in op.roles if role != "v")
        for role, operand in zip(op.roles, operands, strict=True):
            share = shares.get(role, 0.0)
            if not share:
                changed[role] = self.constant(operand)
                continue
            rest = (1 - share if scores else 0.0) if role == "v" else -share
            visit = Visit(Share(role, share, rest), rule, site, self.ledger)
            changed[role] = self.step(visit, partial(operand.view_as, operand), (operand,))
        # where the values take no share, no operand's accounts for the output
        alone = scores and ("v" not in op.roles or not shares.get("v"))
        result = self.attended(op, changed, alone)
        if not result.requires_grad and any(t.requires_grad for t in changed.values()):
            raise ModelStateError(
                f"the attention kernel at {site.label} returned no gradient: choose another by torch.nn.attention."
            )
        return result

    def _whole(self, module: nn.Module, treat: str, args: tuple[Any, ...], output: Any) -> Any:
        """A module that is registered as one operation."""
        moving = [t for t in tensors(args) if self.depends(t)]
        for tensor in moving:
            self.facts.read(tensor)
        if not moving:
            return output
        name = type(module).__name__
        call = SeenCall(self, module, name, args, {})
        if treat == "gradient":
            mark(output, args, self.ledger)
            return output
        if not (isinstance(output, Tensor) and output.shape == moving[0].shape):
            raise RegistryError(
                f"{name} ({self.scope.paths[0]!r}) is registered as an elementwise function, but its output has not "
                f'the shape {tuple(moving[0].shape)} of its input: register it with treat="gradient", or not at all'
            )
        op = Elementwise(name)
        op.operands, op.run = (moving[0],), output.detach().clone
        return self._visit(call, op)

    # -- sites, facts -------------------------------------------------------------------------------------

    def carrying(self, seen: frozenset[int]) -> bool:
        return self.carry == "everywhere" or (self.carry == "entry" and not seen)

    def site(self, kind: str, name: str, family: str, count: bool = True) -> Site:
        paths = self.scope.paths
        key = (paths, name)
        call = self._calls.get(key, 0)
        if count:
            self._calls[key] = call + 1
        if self.replaying:
            call %= max(self._totals.get(key, 1), 1)
        module = self.scope.module
        return Site(paths, type(module) if module else None, kind, name, family, len(self.sites), call)

    def seen(self, args: Any, kwargs: Any) -> frozenset[int]:
        if not self.positions.entries:
            return frozenset()
        if self.replaying:
            return self._all_entries
        return frozenset().union(*(self.facts.seen(t) for t in tensors((args, kwargs)) if self.depends(t)))

    def _note(self, result: Any, fact: Fact | None, seen: frozenset[int]) -> None:
        for out in tensors(result):
            if self.depends(out):
                if fact is not None:
                    self.facts.put(out, fact)
                self.facts.mark_seen(out, seen)

    def _tap(self, kind: str, paths: tuple[str, ...], value: Any) -> Any:
        return self.captures.tap(kind, paths, value, self.replaying)

    def _tap_site(self, site: Site, result: Any) -> Any:
        if "site" not in self.captures.kinds:
            return result
        tapped = self._tap("site", (site.label,), result)
        return result if tapped is None else tapped


def _ordered(g: Tensor) -> Tensor:
    """torch 2.13 misreads some permuted gradients of a batch norm in eval mode where the batch is one."""
    return g.contiguous()


def _bias_share(op: Op, merged: bool) -> Callable[[Tensor], Tensor] | None:
    if isinstance(op, LinearMap):
        bias = getattr(op, "shift", op.bias) if merged else op.bias
        if bias is None:
            return None
        return lambda g: op.bias_share(g, bias)
    if isinstance(op, Sum) and op.constant is not None:
        constant = op.constant
        if not isinstance(constant, Tensor):
            return lambda g: (g * constant).real.sum()
        # minus infinity masks a score: it carries nothing
        return lambda g: dot(torch.where(constant.isinf(), 0.0, constant).to(g.dtype), g)
    return None


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_DETACHES = frozenset({torch.Tensor.detach, torch.detach, torch.Tensor.detach_, torch.detach_, _DATA})
_READS = frozenset("item tolist numpy __float__ __array__".split())
