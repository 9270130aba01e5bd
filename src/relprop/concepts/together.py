"""Several conditions in one backward: the samples are repeated, and each copy has conditions of its own.

Whether a model takes its samples one beside the other is not guessed. The first condition is propagated alone; what
the repeated samples give has to agree with it, in shape and in the values at the output and at the conditions' places.
Where it does not, every condition has a backward of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from relprop.errors import RelpropError
from relprop.explain import LRP, Explanation
from relprop.explain.backward import unreached
from relprop.explain.forward import Forward, Request
from relprop.explain.inputs import names, rebuild
from relprop.record import place
from relprop.record.tensors import tensors
from relprop.units import Rows, Units

#: A backward needs room besides what the forward kept: at its peak at most so many times that.
OVERHEAD = 2
_AGREE = {torch.float64: 1e-8, torch.float32: 1e-3}
_ELSE = 5e-2
_COMMON = "the relevance of {} is one for all of them, and left out: a budget of 0 gives it for each"
_SHARED = "the books are those of {} conditions that were propagated together"


class _Uneven(Exception):
    """A tensor is not made of one part for each copy of the samples."""


def together(
    lrp: LRP,
    conditions: Sequence[Mapping[str, Units]],
    request: Request,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    budget: int,
) -> Iterator[Explanation]:
    """The explanations of conditions as they are made, those on the same places in as few passes as `budget` allows."""
    single = replace(request, conditions=tuple(conditions))
    forward = lrp.recorded(single, args, kwargs)
    parts = _fit(lrp, forward, args, kwargs, budget)
    each = lrp.explain_each(single, args, kwargs, forward)
    first, rest = next(each), list(conditions[1:])
    yield first
    alike = len({tuple(c) for c in conditions}) == 1  # on the same places
    if parts > 1 and len(rest) > 1 and alike and not _asks_weights(lrp, request):
        done = 0
        try:
            for e in _batched(lrp, rest, first, single, args, kwargs, parts):
                yield e
                done += 1
            return
        except (_Uneven, RelpropError, RuntimeError, ValueError, IndexError, TypeError):
            # what the repeated samples do not allow: one at a time, which raises for what is wrong in itself
            each = itertools.islice(each, done, None)
    yield from each


def _fit(lrp: LRP, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], budget: int) -> int:
    """How many copies of the samples the budget has room for."""
    besides = [*lrp.model.parameters(), *lrp.model.buffers(), *tensors((args, kwargs))]
    kept = forward.recorder.boxes.size(besides)
    return budget // (OVERHEAD * kept) if kept else 1


def _asks_weights(lrp: LRP, request: Request) -> bool:
    """Relevance of weights is a sum over the batch."""
    return any(place(lrp.model, text, "layers").kind == "parameter" for text in request.layers)


def _batched(
    lrp: LRP,
    conditions: Sequence[Mapping[str, Units]],
    first: Explanation,
    request: Request,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    parts: int,
) -> Iterator[Explanation]:
    """Chunks of nearly one size, those of equal size on one forward."""
    for size, chunks in _chunks(conditions, parts):
        rows = tuple({name: Rows(tuple(c[name] for c in chunk)) for name in chunk[0]} for chunk in chunks)
        repeated = _repeated(args, kwargs, size, request)
        asked = replace(request, conditions=rows, targets=repeated[2], seed=repeated[3])
        forward = lrp.recorded(asked, repeated[0], repeated[1])
        (output,) = forward.seeds
        _agree((output.tensor.detach(), output.g), first.at_output, size)
        captured = forward.recorder.captures.found
        for name, alone in first.activations.items():
            _agree([part[-1].detach() for run in captured[name] for part in run if part], alone, size)
        for e, chunk in zip(lrp.explain_each(asked, repeated[0], repeated[1], forward), chunks, strict=True):
            yield from [_part(e, first, condition, i, size) for i, condition in enumerate(chunk)]


def _chunks(
    conditions: Sequence[Mapping[str, Units]], parts: int
) -> Iterator[tuple[int, list[Sequence[Mapping[str, Units]]]]]:
    count = math.ceil(len(conditions) / parts)
    small, larger = divmod(len(conditions), count)
    start = larger * (small + 1)
    if larger:
        yield small + 1, [conditions[i : i + small + 1] for i in range(0, start, small + 1)]
    yield small, [conditions[i : i + small] for i in range(start, len(conditions), small)]


def _repeated(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], count: int, request: Request
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...], Any]:
    """Arguments, targets and seed for so many copies of the samples, one copy after the other."""
    found = [t for t in tensors((args, dict(kwargs))) if t.ndim]
    if not found:
        raise _Uneven
    samples = len(found[0])

    def copies(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != samples:
            return tensor
        return tensor.repeat(count, *[1] * (tensor.ndim - 1))

    given = {name: rebuild(value, name, lambda _, t: copies(t)) for name, value in names(args, kwargs)}
    (target,), seed = request.targets, request.seed
    if isinstance(target, Tensor):
        target = copies(target)
    elif isinstance(target, list) and all(isinstance(t, int) for t in target):
        target = target * count
    if isinstance(seed, Tensor) and seed.numel() > 1:
        seed = seed.reshape(-1).repeat(count)
    return tuple(given[str(i)] for i in range(len(args))), {k: given[k] for k in kwargs}, (target,), seed


def _agree(copies: Any, alone: Any, count: int) -> None:
    """Every copy must have come to the same values as the samples alone."""
    for whole, single in zip(tensors(copies), tensors(alone), strict=True):
        _divides(whole, single, count)
        tolerance = _AGREE.get(single.dtype, _ELSE) * float(single.abs().max()) if single.numel() else 0.0
        if float((whole.unflatten(0, (count, -1)) - single).abs().max()) > tolerance:
            raise _Uneven


def _divides(whole: Tensor, single: Tensor, count: int) -> None:
    if single.ndim == 0 or whole.shape != (count * len(single), *single.shape[1:]):
        raise _Uneven


def _part(e: Explanation, first: Explanation, condition: Mapping[str, Units], i: int, count: int) -> Explanation:
    """The explanation under one of the conditions."""

    def cut(whole: Any, alone: Any) -> Any:
        if isinstance(alone, Tensor):
            _divides(whole, alone, count)
            return whole[i * len(alone) : (i + 1) * len(alone)]
        if isinstance(alone, Mapping):
            return {k: cut(whole[k], alone[k]) for k in alone}
        return type(alone)(cut(w, a) for w, a in zip(whole, alone, strict=True))

    reached = cut(e.reached, first.reached)
    said: dict[str, None] = {}
    for text, units in condition.items():
        passed = [name for name in reached if fnmatchcase(name, text)] or [text]
        said |= {note: None for name in passed if (note := unreached(name, units, reached.get(name)))}
    leaves = {k: r for k, r in e.leaves.items() if len(r) == count * len(first.leaves[k])}
    common = [k for k in e.leaves if k not in leaves]  # such as position embeddings, which all copies read
    return Explanation(
        relevance=cut(e.relevance, first.relevance),
        output=first.output,
        target=first.target,
        audit=replace(e.audit, notes=(*said, _SHARED.format(count), *map(_COMMON.format, common))),
        plan=first.plan,
        layers=cut(e.layers, first.layers),
        leaves={k: cut(r, first.leaves[k]) for k, r in leaves.items()},
        inputs=first.inputs,
        activations=cut(e.activations, first.activations),
        gradients=cut(e.gradients, first.gradients),
        reached=reached,
        at_output=cut(e.at_output, first.at_output),
    )
