"""`LRP`: explain what a model did, as it is."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop.composite import Composite, as_composite
from relprop.errors import (
    AuditError,
    InputError,
    ModelStateError,
    NoPathError,
    SelectorError,
    UnknownOperationError,
)
from relprop.explain.audit import TOLERANCE, Audit
from relprop.explain.explanation import Explanation
from relprop.explain.inputs import check_finite, detached, names, rebuild
from relprop.explain.seed import Seed, explicit, make_seed
from relprop.numerics import dot, nonzero
from relprop.plan import Plan
from relprop.record import Leaf, Ledger, Recorder
from relprop.record.coverage import Unknown, walk
from relprop.record.recorder import tensors


@dataclass
class _Run:
    """One recorded forward."""

    recorder: Recorder
    output: Any
    seed: Seed | None
    unknown: tuple[Unknown, ...]
    notes: tuple[str, ...]

    def plan(self) -> Plan:
        sites = tuple(s for s, _ in self.recorder.sites)
        decisions = tuple(d for _, d in self.recorder.sites)
        return Plan(_name(self.recorder.composite), sites, decisions, tuple(self.recorder.cuts), self.notes)


def _name(composite: Composite) -> str:
    return composite.name


class LRP:
    """Layer-wise relevance propagation through any PyTorch model, as it is.

    model      any `nn.Module` that runs forward; it is not changed in any way
    composite  a preset, a `Composite`, a rule (given to every linear map) or rows of (selector, rule).
               None: chosen by what the model is made of, and said in the plan

    Thread-safe: every call keeps its own state.
    """

    def __init__(self, model: nn.Module, composite: Any = None) -> None:
        if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
            model = model._orig_mod
        if not isinstance(model, nn.Module):
            raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        _check_kind(model)
        self.model = model
        self._composite = None if composite is None else as_composite(composite)
        self._totals: dict[Any, Any] = {}

    # -- what a user calls ---------------------------------------------------------------------------------------

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Which rule each executed site gets, and why. Runs the forward once and propagates nothing."""
        composite, notes = self._chosen(args, kwargs)
        run = self._record(composite, args, kwargs, target=None, seed=None, notes=notes)
        return run.plan()

    def explain(
        self,
        *args: Any,
        target: Any = None,
        seed: Literal["value", "one"] | Tensor = "value",
        layers: Sequence[str] | str = (),
        wrt: Sequence[str | int] | str | int | None = None,
        unknown: Literal["error", "gradient"] = "error",
        audit: Literal["total", "sites"] = "total",
        **kwargs: Any,
    ) -> Explanation:
        """Explain the model's output on these inputs.

        args, kwargs  what the model takes. Explained are all floating tensors among them, nested ones too, and the
                      embeddings of integer ones
        target        None: the arg max of a 2-d output (a 0-d or 1-d output is explained whole); an int; a tensor
                      of ints, one a sample; a tuple that indexes the output after its batch dimension; a boolean
                      mask of the output's shape; a callable from the raw output to the tensor to explain; or a
                      floating tensor of the output's shape: the relevance at the output itself
        seed          "value": relevance at the output is the explained value, so relevance sums to it up to the
                      audit's entries. "one": it is one. A tensor: one relevance for each explained value
        layers        paths of modules (patterns allowed) whose output relevance is wanted too
        wrt           names or positions of the inputs to return, if not all; changes no value
        unknown       "error": an operation without a rule is an error. "gradient": its own gradient is taken, and
                      the audit says so
        audit         "total": the books of the whole call, always kept. "sites": those of every site too

        Raises a `RelpropError` that says what was seen and what to do; the model is never changed.
        """
        if unknown not in ("error", "gradient"):
            raise InputError(f'unknown must be "error" or "gradient", got {unknown!r}')
        layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self._check_layers(layers)
        composite, notes = self._chosen(args, kwargs)
        run = self._record(composite, args, kwargs, target, seed, layers, unknown, notes)
        result = self._propagate(run, args, kwargs, wrt, by_site=audit == "sites")
        if not _finite(result):
            self._refuse_not_finite(result, args, kwargs)
        if not result.audit.balanced and unknown == "error":
            if audit != "sites":
                run = self._record(composite, args, kwargs, target, seed, layers, unknown, notes)
                result = self._propagate(run, args, kwargs, wrt, by_site=True)
            raise AuditError(
                "the books do not balance: "
                f"{result.audit.unexplained_share:.1e} of the absolute relevance is unexplained.\n{result.audit}"
            )
        return result

    # -- record --------------------------------------------------------------------------------------------------

    def _chosen(self, args: Any, kwargs: Any) -> tuple[Composite, tuple[str, ...]]:
        if self._composite is not None:
            return self._composite, ()
        from relprop.explain.choose import choose

        composite, why = choose(self.model)
        return composite, (why,)

    def _record(
        self,
        composite: Composite,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        target: Any,
        seed: Any,
        layers: tuple[str, ...] = (),
        unknown: str = "error",
        notes: tuple[str, ...] = (),
    ) -> _Run:
        totals = self._count(composite, args, kwargs)
        carry = "everywhere" if seed is not None and explicit(target, seed) else None
        recorder = Recorder(self.model, composite, carry=carry, layers=layers, totals=totals)
        made: Seed | None = None
        with torch.inference_mode(False), torch.enable_grad(), recorder.boxes.hooks(), recorder.scope:
            inputs = {name: rebuild(value, name, recorder.add_input) for name, value in names(args, kwargs)}
            new_args = tuple(inputs[str(i)] for i in range(len(args)))
            new_kwargs = {k: inputs[k] for k in kwargs}
            with recorder:
                output = self.model(*new_args, **new_kwargs)
                chosen = target(output) if seed is not None and _is_function(target) else None
            if seed is not None:
                made = make_seed(output, target, seed, lambda t: _head(recorder, t), chosen)
        if made is None:
            _check_rows(recorder)
            return _Run(recorder, output, None, (), notes)
        if not made.tensor.requires_grad:
            self._refuse_no_path(recorder, args, kwargs, made)
        found, _ = walk([made.tensor])
        if found and unknown == "error":
            raise UnknownOperationError(_unknown_message(found))
        _check_rows(recorder)
        notes = (*notes, *((made.note,) if made.note else ()))
        return _Run(recorder, output, made, tuple(found), notes)

    def _count(self, composite: Composite, args: Any, kwargs: Any) -> Any:
        """Selectors that count from the end need the number of sites: one forward to plan, remembered."""
        from relprop.selectors import Positions

        probe = Positions(composite.selectors)
        if not probe.needs_totals:
            return None
        key = (repr(composite.rows), _shapes(args, kwargs))
        if key not in self._totals:
            recorder = Recorder(self.model, composite, totals=dict.fromkeys(probe.counted, 0))
            with torch.inference_mode(False), torch.enable_grad(), recorder.boxes.hooks(), recorder.scope:
                inputs = {name: rebuild(value, name, recorder.add_input) for name, value in names(args, kwargs)}
                with recorder:
                    self.model(*(inputs[str(i)] for i in range(len(args))), **{k: inputs[k] for k in kwargs})
            self._totals[key] = dict(recorder.positions.counts)
        return self._totals[key]

    def _refuse_no_path(self, recorder: Recorder, args: Any, kwargs: Any, seed: Seed) -> None:
        check_finite(args, kwargs)
        if recorder.cuts:
            where = ", ".join(f"{path or '(model)'}.{name}" for path, name in recorder.cuts)
            raise NoPathError(
                f"nothing of the input reaches the explained output: the gradient is cut at {where}. "
                "Explain a model (or a target) without that detach or no_grad."
            )
        if not recorder.leaves:
            raise NoPathError(
                "nothing of the input reaches the explained output: the inputs hold integers alone and no embedding "
                "was called on them. Give floating inputs, or embed the integers inside the model."
            )
        raise NoPathError(
            "nothing of the input reaches the explained output: it is computed from constants alone. "
            "Check that the model uses its input and that the target is not an integer or boolean result."
        )

    def _check_layers(self, layers: Sequence[str]) -> None:
        from fnmatch import fnmatchcase

        paths = [name for name, _ in self.model.named_modules(remove_duplicate=False)]
        for pattern in layers:
            if not any(fnmatchcase(p, pattern) for p in paths):
                near = difflib.get_close_matches(pattern, paths, 3)
                hint = f"; nearest names: {', '.join(near)}" if near else ""
                raise InputError(f"layers: no module is named {pattern!r}{hint}")

    # -- propagate -----------------------------------------------------------------------------------------------

    def _propagate(self, run: _Run, args: Any, kwargs: Any, wrt: Any, by_site: bool = False) -> Explanation:
        recorder, seed = run.recorder, run.seed
        assert seed is not None
        ledger = recorder.ledger = Ledger(by_site)
        captured = [t for groups in recorder.captures.values() for group in groups for t in group]
        wanted = [leaf.tensor for leaf in recorder.leaves] + captured
        grads = _backward(recorder, seed, wanted)
        read = _Reader(recorder.composite.reading, recorder.carry != "nowhere")
        relevance = [read(leaf.tensor, g) for leaf, g in zip(recorder.leaves, grads, strict=False)]
        by_capture = {id(t): read(t, g) for t, g in zip(captured, grads[len(recorder.leaves) :], strict=True)}
        audit = self._balance(run, relevance, ledger)
        result = Explanation(
            relevance=_structured(recorder.leaves, relevance, args, kwargs, wrt),
            output=detached(run.output),
            target=detached(seed.target),
            audit=audit,
            plan=run.plan(),
            layers=_layers(recorder.captures, by_capture),
            leaves={
                leaf.name: r
                for leaf, r in zip(recorder.leaves, relevance, strict=True)
                if leaf.ids is not None and leaf.source is None
            },
            inputs=args[0] if len(args) == 1 and not kwargs else (args, kwargs),
        )
        return result

    def _refuse_not_finite(self, result: Explanation, args: Any, kwargs: Any) -> None:
        check_finite(args, kwargs)
        for out in tensors(result.output):
            if out.is_floating_point() and not bool(torch.isfinite(out).all()):
                raise InputError("the model's output holds NaN or infinity: nothing can be explained")
        raise AuditError(
            "the relevance is not finite: denominators vanished or the range of "
            f"{next(tensors(result.relevance)).dtype} was exceeded. Use a larger epsilon, or a wider dtype "
            "(model.float())."
        )

    def _balance(self, run: _Run, relevance: list[Tensor], ledger: Ledger) -> Audit:
        recorder, seed = run.recorder, run.seed
        assert seed is not None
        at_output = nonzero(seed.tensor.detach()) if recorder.carry != "nowhere" else seed.tensor.detach()
        sums = torch.stack(
            [dot(at_output, seed.g).double(), dot(at_output.abs(), seed.g.abs()).double()]
            + [r.double().sum() if not r.is_complex() else r.real.double().sum() for r in relevance]
            + [r.abs().double().sum() for r in relevance]
        ).tolist()
        count = len(relevance)
        inputs: dict[str, float] = {}
        leaves: dict[str, float] = {}
        for leaf, total in zip(recorder.leaves, sums[2 : 2 + count], strict=True):
            book = inputs if leaf.source is not None or leaf.ids is None else leaves
            name = leaf.source if leaf.source is not None else leaf.name
            book[name] = book.get(name, 0.0) + total
        entries = ledger.totals()
        dtype = seed.tensor.dtype
        audit = Audit(
            seed=sums[0],
            inputs=inputs,
            leaves=leaves,
            **entries,
            scale=max(sums[1], sum(sums[2 + count :])),
            tolerance=TOLERANCE.get(dtype, 1e-3),
            conserving=recorder.composite.reading == "relevance",
            cuts=tuple(recorder.cuts),
            sites=tuple(ledger.worst()) if ledger.by_site else (),
            native=tuple(f"{u.node} ({u.path or '(model)'}.{u.function})" for u in run.unknown),
        )
        return audit


def _backward(recorder: Recorder, seed: Seed, wanted: Sequence[Tensor], keep: bool = False) -> Sequence[Tensor | None]:
    """The modified gradients at the wanted tensors.

    Where activations are checkpointed the recorder has to see what is computed again, so the engine runs under it;
    `torch.autograd.grad` would leave it, so the engine is called as that function calls it.
    """
    with torch.inference_mode(False):
        if not recorder.checkpointed:
            return torch.autograd.grad(seed.tensor, wanted, seed.g, allow_unused=True, retain_graph=keep)
        engine = torch.autograd.Variable._execution_engine
        with recorder.scope, recorder.replay():
            return engine.run_backward(
                (seed.tensor,),
                (seed.g,),
                keep,
                False,
                tuple(wanted),
                allow_unreachable=True,
                accumulate_grad=False,
            )


class _Reader:
    """From modified gradients to what the composite's map shows."""

    def __init__(self, reading: str, on_zeros: bool) -> None:
        self.reading, self.on_zeros = reading, on_zeros

    def __call__(self, tensor: Tensor, g: Tensor | None) -> Tensor:
        values = tensor.detach()
        if g is None:
            return torch.zeros_like(values)
        if self.reading == "gradient":
            return g
        if values.is_complex():
            return (values.conj() * g).real
        return (nonzero(values) if self.on_zeros else values) * g


def _finite(result: Explanation) -> bool:
    """Known from the audit's sums, so that nothing waits for the device once more."""
    return math.isfinite(result.audit.scale) and math.isfinite(result.audit.seed)


def _is_function(target: Any) -> bool:
    return callable(target) and not isinstance(target, Tensor)


def _head(recorder: Recorder, tensor: Tensor) -> Tensor | None:
    if recorder.head is None:
        return None
    made, logits = recorder.head
    return logits if made() is tensor else None


def _check_rows(recorder: Recorder) -> None:
    """Every row of the user's composite must have matched a site that its rule serves."""
    composite = recorder.composite
    if type(composite) is not Composite or not composite.selective or not recorder.sites:
        return
    for i, (selector, rule) in enumerate(composite.rows):
        matched = [s for s, _ in recorder.sites if selector.matches(s)]
        if not matched:
            paths = list(dict.fromkeys(s.path for s, _ in recorder.sites))
            kinds = ", ".join(dict.fromkeys(s.kind for s, _ in recorder.sites))
            from relprop.selectors import Name

            asked = [p for s in selector.walk() if isinstance(s, Name) for p in s.patterns]
            near = [n for p in asked for n in difflib.get_close_matches(p, paths, 3)]
            hint = f" Nearest module paths: {', '.join(near)}." if near else ""
            raise SelectorError(
                f"row {i} of the composite, ({selector!r}, {rule}), matched none of the {len(recorder.sites)} sites "
                f"of this forward.{hint} Kinds that ran: {kinds}. See LRP.plan for all sites."
            )


def _unknown_message(found: Sequence[Unknown]) -> str:
    lines = []
    for node, function, path in list(dict.fromkeys(found))[:5]:
        where = f" in module {path!r}" if path else ""
        what = f"torch function {function!r} ({node})" if function else f"operation {node}"
        if not function and node.endswith("Backward") and not node.startswith("torch::"):
            line = f"relprop.register_function({node!r}, lambda node, g: ...)  # the modified gradient of its input"
        elif not function:
            line = (
                "it ran out of sight (a scripted or traced submodule, or another thread); "
                "relprop.register_module(TheModule, 'identity')"
            )
        else:
            line = f"relprop.op({function!r})(parser)"
        lines.append(f"  {what}{where} has no rule. To give it one: {line}")
    return (
        "operations without a rule lie between input and output:\n"
        + "\n".join(lines)
        + '\nOr pass unknown="gradient" to take their own gradient; the audit then says so.'
    )


def _check_kind(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelStateError(
            "the model is TorchScript: its calls cannot be seen. Explain the Python model it was made from."
        )
    if isinstance(model, nn.DataParallel):
        raise ModelStateError(
            "DataParallel runs the model in threads that cannot be seen: explain model.module instead."
        )


def _shapes(args: Any, kwargs: Any) -> Any:
    return tuple((tuple(t.shape), t.dtype) for t in tensors((args, dict(kwargs))))


def _structured(leaves: Sequence[Leaf], relevance: Sequence[Tensor], args: Any, kwargs: Any, wrt: Any) -> Any:
    """Relevance in the structure of what is explained."""
    by_name: dict[str, Tensor] = {}
    for leaf, r in zip(leaves, relevance, strict=True):
        name = leaf.source if leaf.source is not None else leaf.name
        if leaf.source is not None and leaf.ids is None:
            continue
        if leaf.ids is not None and leaf.source is None:
            continue
        by_name.setdefault(name, r)
    keys = list(by_name)
    if wrt is not None:
        wanted = [str(w) for w in ([wrt] if isinstance(wrt, (str, int)) else wrt)]
        for name in wanted:
            if name not in by_name:
                raise InputError(f"wrt: no explained input is named {name!r}; there are: {', '.join(keys)}")
        by_name = {name: by_name[name] for name in wanted}
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    positional = all(k.isdigit() for k in by_name)
    if positional:
        return tuple(by_name.values())
    return by_name


def _layers(captures: Mapping[str, list[list[Tensor]]], read: Mapping[int, Tensor]) -> dict[str, Any]:
    """One tensor a module, a list where it ran several times. A map merged with its batch norm reads both parts."""
    found: dict[str, Any] = {}
    for path, groups in captures.items():
        runs = []
        for group in groups:
            parts = [read[id(t)] for t in group]
            if not parts:
                continue
            same = all(p.shape == parts[0].shape for p in parts)
            runs.append(torch.stack(parts).sum(0) if same and len(parts) > 1 else parts[0] if same else tuple(parts))
        if runs:
            found[path] = runs[0] if len(runs) == 1 else runs
    return found


__all__ = ["LRP", "AuditError"]
