"""Experts of a mixture as concepts: where the output of each lies, whether they are modules or parts of one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from relprop.concepts.crp import Condition
from relprop.errors import InputError, nearest
from relprop.explain import LRP, check_lrp
from relprop.explain.forward import Request
from relprop.units import Channels, Mask

_SORTED = ("grouped_mm", "_grouped_mm")


def expert_conditions(lrp: LRP, layer: str, *args: Any, **kwargs: Any) -> dict[int, Condition]:
    """The condition of each expert that these inputs are routed to: relevance that passes its output alone.

    To be explained without the ways around (`exclude_parallel=True`, the default): the other experts are among them.

    layer         the module that holds the experts: a list of modules ("model.layers.3.mlp.experts" of many models), or
                  one that keeps them in one tensor (transformers from version 5 on), however it runs them
    args, kwargs  the inputs, for which alone the conditions hold

    found = expert_conditions(lrp, "model.layers.3.mlp.experts", input_ids=ids)
    explained = CRP(lrp).explain(input_ids=ids, conditions=list(found.values()), target=...)

    Raises:
        InputError: for a path that is no module, or one in which no experts are seen.
    """
    check_lrp(lrp, "expert_conditions")
    modules = dict(lrp.model.named_modules())
    if layer not in modules:
        raise InputError(f"experts: name the one module that holds them, got {layer!r}{nearest(layer, modules)}")
    holder = modules[layer]
    numbered = {int(name): child for name, child in holder.named_children() if name.isdigit()}
    return _modules(lrp, layer, numbered, args, kwargs) if numbered else _fused(lrp, layer, holder, args, kwargs)


def _modules(
    lrp: LRP, layer: str, numbered: dict[int, nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[int, Condition]:
    """Those that run on at least one token."""
    ran: dict[int, None] = {}

    def watch(i: int) -> Any:
        def hook(module: nn.Module, given: Any, named: Any) -> None:
            if any(isinstance(t, Tensor) and t.numel() for t in (*given, *named.values())):
                ran[i] = None

        return hook

    handles = [m.register_forward_pre_hook(watch(i), with_kwargs=True) for i, m in numbered.items()]
    try:
        lrp.recorded(Request(), args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {i: {f"{layer}.{i}": Channels()} for i in sorted(ran)}


def _fused(
    lrp: LRP, layer: str, holder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[int, Condition]:
    calls: list[list[Tensor]] = []

    def watch(module: nn.Module, given: Any, named: Any) -> None:
        tensors = (t for t in (*given, *named.values()) if isinstance(t, Tensor))
        calls.append([t for t in tensors if t.dtype in (torch.int64, torch.int32)])

    handle = holder.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        forward = lrp.recorded(Request(), args, kwargs)
    finally:
        handle.remove()
    maps = [s for s, _ in forward.recorder.sites if s.kind == "linear" and layer in s.paths]
    if not calls or len(calls[-1]) != 1 or not maps:
        raise InputError(f"no experts are seen in {layer!r}: it has no numbered modules, and is not given the experts "
                         "that each token is routed to")  # fmt: skip
    ids = calls[-1][0].reshape(-1)
    hit = ids.unique().tolist()
    each, rest = divmod(len(maps), len(hit))
    if each > 0 and rest == 0 and maps[0].name not in (*_SORTED, "bmm", "baddbmm"):
        outputs = [maps[(k + 1) * each - 1] for k in range(len(hit))]  # one after the other, each with its own maps
        return {e: {site.label: Channels()} for e, site in zip(hit, outputs, strict=True)}
    last = maps[-1]
    rows = ids.sort().values if last.name in _SORTED else ids
    extra = 2 if last.name in ("bmm", "baddbmm") else 1
    return {e: {last.label: Mask((rows == e).reshape(-1, *[1] * extra))} for e in hit}
