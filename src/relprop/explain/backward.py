"""From a recorded forward to explanations: propagate, read, balance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.errors import AuditError, InputError
from relprop.explain.audit import TOLERANCE, Audit
from relprop.explain.explanation import Explanation
from relprop.explain.forward import Forward, Request
from relprop.explain.inputs import check_finite, detached
from relprop.explain.seed import Seed
from relprop.numerics import dot, nonzero, numbers
from relprop.record import Leaf, Ledger, Recorder
from relprop.record.tensors import tensors


def propagate(forward: Forward, seed: Seed, request: Request, keep: bool = False) -> Explanation:
    """One backward for one seed. `keep` holds the graph for another."""
    recorder = forward.recorder
    ledger = recorder.ledger = Ledger(request.by_site)
    captured = [t for groups in recorder.captures.found.values() for group in groups for t in group]
    grads = _gradients(recorder, seed, [leaf.tensor for leaf in recorder.leaves] + captured, keep)
    count = len(recorder.leaves)
    relevance = [_read(recorder, leaf.tensor, g) for leaf, g in zip(recorder.leaves, grads[:count], strict=True)]
    layers = {id(t): _read(recorder, t, g) for t, g in zip(captured, grads[count:], strict=True)}
    audit = _balance(forward, seed, relevance, ledger)
    further = [leaf.ids is not None and leaf.source is None for leaf in recorder.leaves]
    return Explanation(
        relevance=_structured(recorder.leaves, relevance, request.wrt),
        output=detached(forward.output),
        target=detached(seed.target),
        audit=audit,
        plan=forward.plan(),
        layers=_layers(recorder.captures.found, layers),
        leaves={leaf.name: r for leaf, r, other in zip(recorder.leaves, relevance, further, strict=True) if other},
        inputs=forward.args[0] if len(forward.args) == 1 and not forward.kwargs else (forward.args, forward.kwargs),
    )


def _gradients(recorder: Recorder, seed: Seed, wanted: Sequence[Tensor], keep: bool) -> Sequence[Tensor | None]:
    """The modified gradients at the wanted tensors.

    Where activations are checkpointed the recorder has to see what is computed again, so the engine runs under it;
    `torch.autograd.grad` would leave it, so the engine is called as that function calls it.
    """
    with torch.inference_mode(False):
        if not (recorder.checkpointed or recorder.reentrant):
            return _engine(seed, wanted, keep)
        # in this thread, where the recorder is, on every device
        with torch.autograd.set_multithreading_enabled(False), recorder.scope, recorder.replay():
            if recorder.reentrant:
                return _reentrant(recorder, seed, wanted, keep)
            return _engine(seed, wanted, keep)


def _engine(seed: Seed, wanted: Sequence[Tensor], keep: bool, accumulate: bool = False) -> Sequence[Tensor | None]:
    return torch.autograd.Variable._execution_engine.run_backward(
        (seed.tensor,),
        (seed.g,),
        keep,
        False,
        tuple(wanted),
        allow_unreachable=True,
        accumulate_grad=accumulate,
    )


def _reentrant(recorder: Recorder, seed: Seed, wanted: Sequence[Tensor], keep: bool) -> Sequence[Tensor | None]:
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
        _engine(seed, (), keep, accumulate=True)
    grads = [t.grad for t in wanted]
    for t in wanted:
        t.grad = None
    return grads


def _read(recorder: Recorder, tensor: Tensor, g: Tensor | None) -> Tensor:
    """From a modified gradient to what the composite's map shows."""
    values = tensor.detach()
    if g is None:
        return torch.zeros_like(values)
    if recorder.composite.reading == "gradient":
        return g
    if values.is_complex():
        return (values.conj() * g).real
    return (values if recorder.carry == "nowhere" else nonzero(values)) * g


# -- the books ---------------------------------------------------------------------------------------------------------


def _balance(forward: Forward, seed: Seed, relevance: Sequence[Tensor], ledger: Ledger) -> Audit:
    """The books of one backward; the device is waited for once."""
    recorder, count = forward.recorder, len(relevance)
    at_output = seed.tensor.detach()
    if recorder.carry != "nowhere":
        at_output = nonzero(at_output)
    sums = [dot(at_output, seed.g), dot(at_output.abs(), seed.g.abs())]
    sums += [r.sum(dtype=None if r.is_complex() else torch.float64) for r in relevance]
    sums += [r.abs().sum() for r in relevance]
    found = numbers(sums)
    inputs: dict[str, float] = {}
    leaves: dict[str, float] = {}
    for leaf, total in zip(recorder.leaves, found[2 : 2 + count], strict=True):
        book = inputs if leaf.source is not None or leaf.ids is None else leaves
        name = leaf.source if leaf.source is not None else leaf.name
        book[name] = book.get(name, 0.0) + total
    dtypes = {seed.tensor.dtype, *recorder.dtypes}
    return Audit(
        seed=found[0],
        inputs=inputs,
        leaves=leaves,
        **ledger.totals(),
        scale=max(found[1], sum(found[2 + count :])),
        tolerance=max(TOLERANCE.get(d, 0.0) for d in dtypes) or TOLERANCE[torch.float32],
        conserving=recorder.composite.reading == "relevance",
        cuts=tuple(recorder.cuts),
        sites=tuple(ledger.worst()) if ledger.by_site else (),
        native=tuple(f"{u.node} ({u.path or '(model)'}.{u.function})" for u in forward.unknown),
    )


def finite(result: Explanation) -> bool:
    """Known from the audit's sums, so that nothing waits for the device once more."""
    return math.isfinite(result.audit.scale) and math.isfinite(result.audit.seed)


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


def _structured(leaves: Iterable[Leaf], relevance: Sequence[Tensor], wrt: Any) -> Any:
    """Relevance in the structure of what is explained: a tensor, a tuple (positional inputs) or a dict."""
    by_name: dict[str, Tensor] = {}
    for leaf, r in zip(leaves, relevance, strict=True):
        if leaf.ids is None or leaf.source is not None:
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
