"""From a recorded forward to explanations: propagate, read, balance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from relprop.errors import AuditError, InputError, ModelStateError, warn
from relprop.explain.audit import TOLERANCE, Audit
from relprop.explain.explanation import Explanation
from relprop.explain.forward import Forward, Request
from relprop.explain.inputs import check_finite, detached, outside_inference
from relprop.explain.seed import Seed
from relprop.numerics import dot, nonzero, numbers
from relprop.record import Captures, Leaf, Ledger, Recorder
from relprop.record.tape import Tape
from relprop.record.tensors import tensors
from relprop.units import Rows, Units

#: Tensors with the modified gradients at them, from which a backward goes down.
Front = list[tuple[Tensor, Tensor]]


def propagate(
    forward: Forward, seed: Seed, request: Request, condition: Mapping[str, Units] | None = None, keep: bool = False
) -> Explanation:
    """One backward for one seed under one condition. `keep` holds the graph for another."""
    if request.create_graph and (torch.is_inference_mode_enabled() or not torch.is_grad_enabled()):
        with outside_inference(), torch.enable_grad():  # whatever the caller's mode is
            return propagate(forward, seed, request, condition, keep)
    recorder, captures = forward.recorder, forward.recorder.captures
    ledger = recorder.ledger
    ledger.begin(request.by_site)
    captures.open(_selections(captures, condition or {}))
    wanted = {id(leaf.tensor): leaf.tensor for leaf in recorder.leaves}
    wanted |= {id(t): t for t in captures.tensors()}
    grads = descend(recorder, seed, request, wanted, keep)
    read = {i: _read(recorder, wanted[i], g) for i, g in grads.items()}
    leaves = [leaf.tensor for leaf in recorder.leaves]
    relevance = [read[id(t)] if id(t) in read else torch.zeros_like(recorder.graph.values(t)) for t in leaves]
    audit = _balance(forward, seed, relevance, ledger)
    if captures.selecting:
        audit = replace(audit, notes=audit.notes + _unreached(captures))
    further = [leaf.ids is not None and leaf.source is None for leaf in recorder.leaves]
    shown = [n for p in request.places for n in captures.at(p)]
    layers = _layers(captures, shown, read)
    aside = [n for n in dict.fromkeys(shown) if n not in layers and n not in captures.selecting]
    audit = replace(audit, notes=audit.notes + tuple(str(unreached(n, None, None)) for n in aside)) if aside else audit
    values = {i: recorder.graph.values(t) for i, t in wanted.items()} if shown else {}
    return Explanation(
        relevance=_structured(recorder.leaves, relevance, request.wrt, grads if request.stop else None),
        output=forward.output if request.create_graph else detached(forward.output),
        target=detached(seed.target),
        audit=audit,
        plan=forward.plan(),
        layers=layers | (captures.weights.found if captures.weights is not None else {}),
        leaves={leaf.name: r for leaf, r, other in zip(recorder.leaves, relevance, further, strict=True) if other},
        inputs=forward.args[0] if len(forward.args) == 1 and not forward.kwargs else (forward.args, forward.kwargs),
        activations=_layers(captures, shown, values, merge=_last),
        gradients=_layers(captures, shown, grads, merge=_last),
        reached=dict(captures.reached),
        at_output=(recorder.graph.values(seed.tensor), seed.g),
    )


def _selections(captures: Captures, condition: Mapping[str, Units]) -> dict[str, Units]:
    """The units by the names of what was captured. One place has one selection."""
    found: dict[str, Units] = {}
    asked: dict[int, str] = {}
    for text, units in condition.items():
        for name in captures.at(text):
            found[name] = units
            for run in captures.found[name]:
                before = asked.setdefault(id(run), text)
                if before != text:
                    raise InputError(f"conditions: {before!r} and {text!r} both select at {name!r}: give one of them")
    return found


def descend(
    recorder: Recorder, seed: Seed, request: Request, wanted: Mapping[int, Tensor], keep: bool
) -> dict[int, Tensor]:
    """The modified gradients at the wanted tensors, by identity; tensors that nothing reaches are left out.

    Where relevance must pass the conditions' places and may not go around them, the backward runs in stages: from what
    is explained, and from every place, down to the places next below it, and from the lowest ones on. A module that
    runs several times is a place each time.
    """
    captures, found = recorder.captures, dict[int, Tensor]()
    stages = captures.runs(captures.selecting) if request.exclude_parallel else []
    front: Front = [(seed.tensor, seed.g)]
    if stages:
        front, found = _staged(recorder, front, stages, list(wanted.values()))
        _write_around(recorder, front, seed)
    tensors = list(wanted.values())
    return found | _at(tensors, _gradients(recorder, front, tensors, keep))


def _staged(
    recorder: Recorder, front: Front, stages: Sequence[Sequence[Tensor]], wanted: Sequence[Tensor]
) -> tuple[Front, dict[int, Tensor]]:
    """The modified gradients at the lowest of the stages, which are given in the order of execution, and at whatever
    of the wanted lies above a stage."""
    graph = recorder.graph
    tops = [[seed for seed, _ in front], *reversed(stages)]
    arrived: list[dict[int, Tensor]] = [{id(t): g for t, g in front}] + [{} for _ in stages]
    below = [graph.below(top, wanted) for top in tops]
    leads = {id(t): graph.below([t], wanted) for t in wanted}
    lies = [{j for j in range(i + 1, len(tops)) if any(id(t) in below[i] for t in tops[j])} for i in range(len(tops))]
    found: dict[int, Tensor] = {}
    lowest: Front = []
    for i, top in enumerate(tops):
        here = [(t, arrived[i][id(t)]) for t in top if id(t) in arrived[i]]
        following = [j for j in sorted(lies[i]) if not any(j in lies[k] for k in lies[i])]
        if not following:
            lowest += here
            continue
        last = {id(t) for j in following for t in tops[j]}
        # of what was asked for, what lies between this stage and those that follow
        asked = [t for t in wanted if id(t) in last or (id(t) in below[i] and last & leads[id(t)])]
        got = _at(asked, _gradients(recorder, here, asked, True))
        for key, g in got.items():
            found[key] = found[key] + g if key in found else g
        for j in following:
            for t in tops[j]:
                if id(t) in got:
                    arrived[j][id(t)] = arrived[j][id(t)] + got[id(t)] if id(t) in arrived[j] else got[id(t)]
    return lowest, found


def _write_around(recorder: Recorder, front: Front, seed: Seed) -> None:
    """What the stages above the conditions left out: relevance that went around."""
    came = dot(_standing(recorder, seed.tensor), seed.g)
    went = [dot(_standing(recorder, t), g) for t, g in front]
    booked = sum(recorder.ledger.totals().values())
    recorder.ledger.open(None)
    recorder.ledger.add("excluded", came - sum(went) - booked)


def _standing(recorder: Recorder, tensor: Tensor) -> Tensor:
    values = recorder.graph.values(tensor)
    return values if recorder.carry == "nowhere" else nonzero(values)


def _at(tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> dict[int, Tensor]:
    return {id(t): g for t, g in zip(tensors, grads, strict=True) if g is not None}


def _gradients(recorder: Recorder, front: Front, wanted: Sequence[Tensor], keep: bool) -> Sequence[Tensor | None]:
    """The modified gradients at the wanted tensors, from those at the front.

    Where activations are checkpointed the recorder has to see what is computed again, so the engine runs under it;
    `torch.autograd.grad` would leave it, so the engine is called as that function calls it.
    """
    if not front or not wanted:
        return [None] * len(wanted)
    if isinstance(recorder.graph, Tape):
        return recorder.graph.gradients(front, wanted)
    recorder.ledger.last = not keep
    with outside_inference():
        if not (recorder.checkpointed or recorder.reentrant):
            return _engine(front, wanted, keep)
        # in this thread, where the recorder is, on every device
        with torch.autograd.set_multithreading_enabled(False), recorder.scope, recorder.replay():
            try:
                if recorder.reentrant:
                    return _reentrant(recorder, front, wanted, keep)
                return _engine(front, wanted, keep)
            except CheckpointError as error:
                raise ModelStateError(
                    "activation checkpoints: what was computed again is not what was computed first. One with "
                    "use_reentrant=True and one with use_reentrant=False cannot stand in one another here: use one "
                    f"kind, or run the model without. torch says: {str(error).splitlines()[0]}"
                ) from error


def _engine(front: Front, wanted: Sequence[Tensor], keep: bool, accumulate: bool = False) -> Sequence[Tensor | None]:
    return torch.autograd.Variable._execution_engine.run_backward(
        tuple(t for t, _ in front),
        tuple(g for _, g in front),
        keep,
        False,
        tuple(wanted),
        allow_unreachable=True,
        accumulate_grad=accumulate,
    )


def _reentrant(recorder: Recorder, front: Front, wanted: Sequence[Tensor], keep: bool) -> Sequence[Tensor | None]:
    """A checkpoint with `use_reentrant=True` wants a backward that accumulates: into our own leaves alone, because
    parameters enter every call as detached aliases."""
    if any(not t.is_leaf for t in wanted):
        raise InputError(
            "layers= cannot look into activation checkpoints with use_reentrant=True: checkpoint with "
            "use_reentrant=False (transformers: gradient_checkpointing_kwargs={'use_reentrant': False})"
        )
    for t in wanted:
        t.grad = None
    with recorder.boxes.hooks():  # what is computed again may change its tensors in place, as the forward may
        _engine(front, (), keep, accumulate=True)
    grads = [t.grad for t in wanted]
    for t in wanted:
        t.grad = None
    return grads


def _read(recorder: Recorder, tensor: Tensor, g: Tensor) -> Tensor:
    """From a modified gradient to what the composite's map shows."""
    if recorder.composite.reading == "gradient":
        return g
    if tensor.is_complex():
        return (recorder.graph.values(tensor).conj() * g).real
    return _standing(recorder, tensor) * g


# -- the books ---------------------------------------------------------------------------------------------------------


def _balance(forward: Forward, seed: Seed, relevance: Sequence[Tensor], ledger: Ledger) -> Audit:
    """The books of one backward; the device is waited for once."""
    recorder, count = forward.recorder, len(relevance)
    at_output = _standing(recorder, seed.tensor)
    wide = torch.promote_types(seed.g.dtype, torch.float32)
    put_in = (at_output.conj() * seed.g).real if at_output.is_complex() else at_output.to(wide) * seed.g
    each = (put_in, *relevance)
    sums = [r.sum(dtype=None if r.is_complex() else torch.float64) for r in each]
    sums += [torch.linalg.vector_norm(r, 1, dtype=torch.promote_types(r.dtype, torch.float32)) for r in each]
    found = numbers(sums)
    inputs: dict[str, float] = {}
    leaves: dict[str, float] = {}
    for leaf, total in zip(recorder.leaves, found[1 : 1 + count], strict=True):
        book = inputs if leaf.source is not None or leaf.ids is None else leaves
        name = leaf.source if leaf.source is not None else leaf.name
        book[name] = book.get(name, 0.0) + total
    dtypes = {seed.tensor.dtype, *recorder.dtypes, *(leaf.tensor.dtype for leaf in recorder.leaves)}
    booked: Any = ledger.totals()
    return Audit(
        seed=found[0],
        inputs=inputs,
        leaves=leaves,
        **booked,
        scale=_scale(max(found[1 + count], sum(found[2 + count :])), ledger),
        tolerance=max(TOLERANCE.get(d, 0.0) for d in dtypes) or TOLERANCE[torch.float32],
        conserving=recorder.composite.reading == "relevance",
        cuts=tuple(recorder.cuts),
        sites=tuple(ledger.worst()) if ledger.by_site else (),
        books=ledger.sites() if ledger.by_site else {},
        native=tuple(f"{u.node} ({u.path or '(model)'}.{u.function})" for u in recorder.unknown),
    )


def _scale(ends: float, ledger: Ledger) -> float:
    """What rounding is measured by: absolute relevance at both ends or, where it all cancels there, in between."""
    between = ledger.largest()
    return between if ends < _NOTHING * between else ends


#: The part of the relevance inside a network at which that at its ends is what rounding has left of it.
_NOTHING = 1e-6


def finite(result: Explanation) -> bool:
    """Known from the audit's sums, so that nothing waits for the device once more."""
    return math.isfinite(result.audit.scale) and math.isfinite(result.audit.unexplained)


def refuse_not_finite(result: Explanation, forward: Forward) -> None:
    """Say where NaN or infinity came from."""
    check_finite(forward.args, forward.kwargs)
    wide = "Use a wider dtype (model.float())"
    for out in tensors(result.output):
        if out.is_floating_point() and not bool(torch.isfinite(out).all()):
            hint = f" {wide}." if out.dtype in (torch.float16, torch.bfloat16) else ""
            raise InputError(f"the model's output holds NaN or infinity: nothing can be explained.{hint}")
    worst = next((f" The first site with such values: {name}." for name, v in result.audit.sites if v != v), "")
    raise AuditError(
        "the relevance is not finite: denominators vanished, or the range of "
        f"{next(tensors(result.relevance)).dtype} was exceeded.{worst} {wide}, or a larger epsilon."
    )


# -- what is returned --------------------------------------------------------------------------------------------------


def _structured(leaves: Iterable[Leaf], relevance: Sequence[Tensor], wrt: Any, reached: Any = None) -> Any:
    """Relevance in the structure of what is explained: a tensor, a tuple (positional inputs) or a dict.

    reached  where the propagation stops inside the model: the gradients by identity, of which others are left out
    """
    by_name: dict[str, Tensor] = {}
    for leaf, r in zip(leaves, relevance, strict=True):
        if (leaf.ids is None or leaf.source is not None) and (reached is None or id(leaf.tensor) in reached):
            by_name.setdefault(leaf.source if leaf.source is not None else leaf.name, r)
    if wrt is not None:
        wanted = [str(w) for w in ([wrt] if isinstance(wrt, (str, int)) else wrt)]
        for name in wanted:
            if name not in by_name:
                raise InputError(f"wrt: no explained input is named {name!r}; there are: {', '.join(by_name)}")
        by_name = {name: by_name[name] for name in wanted}
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    if all(k.isdigit() for k in by_name):
        return tuple(by_name.values())
    return by_name


def _layers(
    captures: Captures, names: Iterable[str], read: Mapping[int, Tensor], merge: Callable[[Any], Any] = sum
) -> dict[str, Any]:
    """One tensor a place, a list where it was passed several times, tuples where several tensors passed at once.

    merge  makes one of a map's own tensor and that of a batch norm that joined it
    """
    found: dict[str, Any] = {}
    for name in names:
        runs = []
        for run in captures.found[name]:
            parts = [[read[id(t)] for t in part if id(t) in read] for part in run]
            merged = [merge(p) for p in parts if p]
            if merged:
                runs.append(merged[0] if len(merged) == 1 else tuple(merged))
        if runs:
            found[name] = runs[0] if len(runs) == 1 else runs
    return found


def _last(parts: Sequence[Tensor]) -> Tensor:
    return parts[-1]


def _unreached(captures: Captures) -> tuple[str, ...]:
    """What is said of conditions that no relevance passes; a warning where that is so in every sample."""
    notes = []
    for name, units in captures.selecting.items():
        reached = captures.reached.get(name)
        parts = units.parts if isinstance(units, Rows) and reached is not None else (units,)
        each = [None] if reached is None else list(reached.reshape(-1).chunk(len(parts)))
        for part, found in zip(parts, each, strict=True):
            note = unreached(name, part, found)
            if note and (found is None or not bool(found.any())):
                warn(note)
            notes += [note] if note else []
    return tuple(dict.fromkeys(notes))


def unreached(name: str, units: Any, reached: Tensor | None) -> str | None:
    """The sentence that says that relevance does not pass a condition, or not in every sample.

    reached  whether it does, by sample; None: the place lies on no way from the input to what is explained
    """
    if reached is None:
        return f"no relevance comes to {name}: it does not lie between the input and what is explained"
    if bool(reached.all()):
        return None
    note = f"no relevance passes {name} under {units}: values or modified gradients are zero there"
    return note + f" in {int((~reached).sum())} of {len(reached)} samples" if bool(reached.any()) else note
