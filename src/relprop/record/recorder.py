"""The recorder: sees every torch call of one forward and gives each site its rule."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from relprop.composite import Composite, Decision
from relprop.errors import RegistryError, UnknownOperationError
from relprop.numerics import dot
from relprop.ops import OPERATORS, TABLE, Called, Expansion, Fact, LinearMap, Native, Op, name_of
from relprop.ops.arithmetic import Sum
from relprop.ops.attention import Attention
from relprop.ops.elementwise import Elementwise
from relprop.ops.structure import move
from relprop.record.attended import attend
from relprop.record.books import Ledger
from relprop.record.call import SeenCall
from relprop.record.captures import Captures
from relprop.record.checkpoints import Again, reentrant_checkpoints
from relprop.record.coverage import Unknown, refusal, walk
from relprop.record.cuts import Cuts
from relprop.record.facts import NOTHING, Facts
from relprop.record.graph import Graph
from relprop.record.inplace import inplace, is_inplace, write, written
from relprop.record.leaves import Leaves
from relprop.record.marks import mark, upcoming
from relprop.record.natives import moved, moves, run_natively
from relprop.record.producer import Producer
from relprop.record.rectified import only_reader, rectify
from relprop.record.residual import residual
from relprop.record.saved import Boxes
from relprop.record.scope import ModuleScope, label
from relprop.record.sites import Sites
from relprop.record.step import Visit
from relprop.record.tensors import function_of, tensors
from relprop.record.weakly import weakly
from relprop.rules import Gradient, Identity
from relprop.rules.base import as_is
from relprop.site import Site

_HEADS = ("softmax", "log_softmax", "sigmoid", "expit", "logsigmoid")


class Recorder(TorchFunctionMode):
    """One forward of one model under one composite.

    carry     where relevance may stand on zeros: "nowhere", "entry" (below entries), "everywhere"
    captures  the tensors inside the model that are kept, selected from or stopped at
    many      several backwards are to come: denominators and modified weights are kept for the next
    store     modified weights that outlive the call, by site, while the user holds the weights frozen
    decided   what this composite has said of this model's sites, from call to call
    graph     how calls enter the graph
    lenient   operations without a rule may take their own gradient
    watch     follow the modules by hooks, so that the nodes without a rule are told by where they were made
    unknown   those that were
    natives   with books by site: the functions that run without a row in the plan, each with a module it ran in first
    """

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
        decided: dict[Any, Decision] | None = None,
        graph: type[Graph] = Graph,
        lenient: bool = False,
        watch: bool = False,
    ) -> None:
        super().__init__()
        self.lenient = lenient
        self.unknown: list[Unknown] = []
        self.natives: dict[str, str] = {}
        self.composite, self.residual = composite, composite.census.residual
        self.store, self.many = store, many
        self.carry = carry or composite.carries()
        self.ledger = Ledger()
        self.facts = Facts()
        self.boxes = Boxes()
        self.graph = graph(self.facts, self.ledger, self.boxes)
        self.captures = Captures() if captures is None else captures
        # the scope must not keep the recorder: through autograd's nodes no cycle is ever collected
        self.scope = ModuleScope(model, weakly(self._tap) if self.captures else None, weakly(self._whole), watch)
        self.leaves = Leaves(self.facts, self.scope, self.graph.begin, self.graph.link)
        self.captures.attach(self.graph, self.facts, self.leaves, self.ledger, self.carry != "nowhere")
        self.sites = Sites(composite, self.carry, self.scope, self.facts, totals, decided)
        self.cuts = Cuts(self.scope)
        self.head: tuple[Any, Tensor] | None = None
        self.dtypes: set[torch.dtype] = set()
        self.replaying = False
        self.checkpointed = False
        self.reentrant = False

    # -- the mode ------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.scope.inside is not None:
            return func(*args, **(kwargs or {}))
        entry = TABLE.get(func)
        if entry is None and isinstance(func, OPERATORS):
            func, entry = TABLE.operator(func)
        if entry is None and getattr(func, "__name__", "") == "__get__" and func != _DATA:
            return func(*args)
        args, kwargs, depends, constants = self.graph.enter(args, kwargs or {})
        if not depends:
            if (target := written(func, entry, args, kwargs)) is not None:
                self.boxes.before_write(target)
            if self.leaves.tokens:
                return self.leaves.follow(func, args, kwargs, self.replaying, self.reentrant)
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            checkpoints = reentrant_checkpoints()
            for context in checkpoints:
                if not isinstance(context.run_function, Again):
                    context.run_function = Again(context.run_function, weakly(self._again))
            if checkpoints and not self.replaying:
                # seen now for the plan alone: the Function that runs it drops this graph and computes it again
                self.reentrant = True
                with torch.enable_grad():
                    return self.__torch_function__(func, types, args, kwargs)
            result = func(*args, **kwargs)
            if not self.replaying:
                self.cuts.note(func, result)
            return result
        if func in _DETACHES:
            result = func(*args, **kwargs)
            if not self.replaying:
                self.cuts.note(func, result)
            return result
        if entry is None:
            return self._unlisted(func, args, kwargs)
        if entry.parse is move and not kwargs and moves(self, entry, args):
            return moved(self, func, args)
        if kwargs.get("out") is not None:
            target = kwargs.pop("out")
            result = self.__torch_function__(func, types, args, kwargs)
            return write(self, target, result)
        call = self.call(func, entry.name, args, kwargs)
        changes = is_inplace(call, entry)
        if constants:
            call.args, call.kwargs = self.graph.hold(args, kwargs, int(changes))
        if changes:
            result = inplace(self, call, entry)
        else:
            result = self.carry_out(call, self.parse(entry, call))
        self.scope.made = upcoming()
        return result

    # -- calls that take no rule ---------------------------------------------------------------------------------

    def _unlisted(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """A function that is not in the table runs natively; the walk over the graph judges its node."""
        full = name_of(func)
        name = full.rpartition("::")[2]
        if name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], torch.Tensor):
            self.boxes.before_write(args[0])
        since = upcoming()
        result = self.graph.outside(func, args, kwargs, self.scope.paths[0])
        label(result, since, (full, self.scope.paths[0]))
        if self.ledger.by_site:
            self.natives.setdefault(full, self.scope.paths[0])
        seen = self.seen(args, kwargs)
        still = any(t.is_floating_point() and not self.graph.depends(t) for t in tensors(result))
        if name in _READS or (still and name not in _SHAPED):
            self.cuts.add(full, underived=still and not hasattr(func, "__code__"))  # its values go on without the graph
        for out in tensors(result):
            if out.grad_fn is not None:
                self.facts.mark_seen(out, seen)
        return result

    def judge(self, found: list[Unknown]) -> None:
        """Refuse operations without a rule, unless they may be."""
        if found and not self.lenient:
            raise UnknownOperationError(refusal(found, self.scope.scripted()))
        self.unknown += found if not self.replaying else [u for u in found if u not in self.unknown]

    def _again(self, run: Callable[..., Any], args: Any) -> Any:
        """What a checkpoint computes again is looked at before the backward goes through it."""
        seen = self in _get_current_function_mode_stack()  # in a checkpoint within another torch has left the mode
        with nullcontext() if seen else self:
            outputs = run(*args)
        with torch._C.DisableTorchFunction():
            self.judge(walk(tensors(outputs))[0])
        return outputs

    # -- calls that are read -------------------------------------------------------------------------------------

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SeenCall:
        """A call as a parser is to see it."""
        return SeenCall(self.scope, self.graph, self.facts, self.cuts, func, name, args, kwargs)

    def parse(self, entry: Any, call: SeenCall) -> Op | Native | Expansion:
        parsed = entry.parse(call)
        if self.residual and isinstance(parsed, Sum) and parsed.factors == (1.0, 1.0):
            if residual(*parsed.operands):
                parsed.kind = "residual"
        return parsed

    def carry_out(self, call: SeenCall, parsed: Op | Native | Expansion) -> Any:
        if not self.checkpointed:
            self.checkpointed = self.boxes.elsewhere()
        if isinstance(parsed, Expansion):
            with self:
                return parsed.run()
        result = run_natively(self, call, parsed) if isinstance(parsed, Native) else self._visit(call, parsed)
        self.facts.loosen()
        return result

    def _visit(self, call: SeenCall, op: Op) -> Any:
        operands, run = op.take()
        site, decision, seen = self._placed(call, op, self.seen(operands, {}))
        rule, family = decision.rule, op.family
        if family == "linear" and (self.many or self.store is not None or self.captures.weights):
            rule = self._keeping(cast(LinearMap, op), rule, site)
        op.bind(rule)
        if rule.constant(op):
            return self.graph.without(run)
        if family == "attention" and isinstance(op, Attention):
            result = attend(self.graph, self.ledger, op, rule, site, operands)
            self.note(result, op.fact, seen)
            return self._tap_site(site, result)
        native = rule.native(op) if family != "fixed" else None
        before = None if op.explicit else native
        if not op.degree_one and isinstance(rule, Gradient) and self.composite.reading == "relevance":
            before, op, operands, run = None, *self._called(call, op)
        if before is as_is and call.name == "relu" and (step := only_reader(self, operands[0])) is not None:
            result = rectify(self, step, operands[0], run)
            self.note(result, op.fact, seen)
            return result
        merged: Producer | None = op.merged_into
        op.merged_into = None
        if before is not None:
            share = _bias_share(op, merged is not None)
            if before is as_is and call.name == "batch_norm":
                before = _ordered
            entry = "bias" if family == "linear" else "constants"
            rows = before is as_is and getattr(op, "rows", False)
            result = self.graph.natively(call, run, share=share, before=before, entry=entry, rows=rows)
            merged = None
        else:
            visit = Visit(op, rule, site, self.ledger)
            plain = native is as_is and isinstance(op, LinearMap) and op.by_row
            result = self.graph.step(visit, run, operands, plain)
        if family == "linear" and isinstance(op, LinearMap) and isinstance(result, Tensor):
            if result.dtype is not op.layout[2]:
                self.dtypes.add(result.dtype)  # autocast's
            joins = merged is None and op.channels(result) == 1  # then a batch norm may follow
            step = visit if native is None and rule.rectifies and not op.carrying else None
            if joins or step is not None:
                op.fact = op.fact or Fact()
                op.fact.producer = Producer(op, site, decision, operands[0]) if joins else None
                op.fact.step = step
        self.note(result, op.fact, seen)
        op.fact = None  # it lives as long as the result, not as long as the graph
        if merged is not None:
            for capture in merged.captures:
                result = capture(result)
        elif family != "fixed":
            result = self._tap_site(site, result)
        if call.name in _HEADS and isinstance(result, Tensor) and len(operands) == 1:
            self.head = (weakref.ref(result), operands[0])
        return result

    def _placed(self, call: SeenCall, op: Op, seen: frozenset[int]) -> tuple[Site, Decision, frozenset[int]]:
        """The call's site with its rule, and the entries that lie below its result."""
        merged: Producer | None = op.merged_into
        if merged is not None:
            if not self.replaying:
                merged.site.notes += (f"with batch norm {self.scope.paths[0]}",)
            op.carrying = merged.op.carrying
            return merged.site, merged.decision, seen | merged.site.entry
        if op.family == "fixed":
            op.carrying = self.sites.carrying(seen)
            return self.sites.here(op.kind, call.name, op.family), Decision(Identity(), "fixed", None), seen
        return self.sites.decide(op, call.name, seen)

    def _keeping(self, op: LinearMap, rule: Any, site: Site) -> Any:
        """What is kept of a map besides: the relevance of its weights, and what further backwards or calls ask for."""
        merged: Producer | None = op.merged_into
        if self.captures.weights:
            rule = self.captures.weights.watch(op, rule, merged.op if merged is not None else op)
        if self.store is not None:
            op.store = self.store.setdefault((site.paths, site.name, site.call, merged is not None), {})
        if self.many:
            op.memory = {}
        return rule

    def _called(self, call: SeenCall, op: Op) -> tuple[Op, tuple[Tensor, ...], Callable[[], Any]]:
        """A call that its own gradient pulls back, and keeps the books of."""
        moving = tuple({id(t): t for t in tensors((call.args, call.kwargs)) if self.graph.depends(t)}.values())
        made = Called(op, function_of(call.func, call.args, call.kwargs, moving))
        made.fact = op.fact
        return made, moving, call.run

    def replay(self) -> Recorder:
        """This recorder for the backward: what activation checkpointing recomputes then gets the same rules."""
        self.replaying = True
        self.graph.starts_again = self.reentrant
        self.sites.replay()
        return self

    def _whole(self, module: nn.Module, treat: str, args: tuple[Any, ...], since: int, output: Any) -> Any:
        """A module that is registered as one operation."""
        moving = [t for t in tensors(args) if self.graph.depends(t)]
        for tensor in moving:
            self.facts.read(tensor)
        if not moving:
            return output
        self.graph.check_whole(self.scope.paths[0])
        name = type(module).__name__
        call = self.call(module, name, args, {})
        if treat == "gradient":
            mark(output, since, self.ledger)
            return output
        if not (isinstance(output, Tensor) and output.shape == moving[0].shape):
            raise RegistryError(
                f"{name} ({self.scope.paths[0]!r}) is registered as an elementwise function, but its output has not "
                f'the shape {tuple(moving[0].shape)} of its input: register it with treat="gradient", or not at all'
            )
        op = Elementwise(name)
        op.operands, op.run = (moving[0],), output.detach().clone
        return self._visit(call, op)

    # -- facts, captures -----------------------------------------------------------------------------------------

    def seen(self, args: Any, kwargs: Any) -> frozenset[int]:
        """The entries that lie below a call with these arguments."""
        if not self.sites.positions.entries:
            return NOTHING
        return self.sites.below(t for t in tensors((args, kwargs)) if self.graph.depends(t))

    def note(self, result: Any, fact: Fact | None, seen: frozenset[int]) -> None:
        if fact is None and not seen:
            return
        for out in (result,) if isinstance(result, Tensor) else tensors(result):
            if self.graph.depends(out):
                if fact is not None:
                    self.facts.put(out, fact)
                if seen:
                    self.facts.mark_seen(out, seen)

    def _tap(self, kind: str, paths: tuple[str, ...], value: Any) -> Any:
        tapped = self.captures.tap(kind, paths, value, self.replaying)
        if self.head is not None and tapped is not None:
            made, logits = self.head
            for old, new in zip(tensors(value), tensors(tapped), strict=True):
                if old is made():
                    self.head = (weakref.ref(new), logits)
        return tapped

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
#: They take the shape alone.
_SHAPED = frozenset("zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones "
                    "new_full new_empty".split())  # fmt: skip
