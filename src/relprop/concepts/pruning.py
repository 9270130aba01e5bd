r"""Pruning: how much each unit of a network contributes over a data set, and which can go.

The score of a unit (a channel, a neuron, a group of them such as an attention head) is the relevance that passes it,
summed over samples and places:

    s_u = sum_n sum_places |R_nu|      ("abs"; "sum" leaves the sign)

Relevance is conserved from layer to layer, so scores of all layers are shares of the same output. Units of little
relevance are masked with `torch.nn.utils.prune`. [Yeom et al. 2021, "Pruning by explaining"]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from relprop.errors import InputError, nearest
from relprop.explain import LRP, check_lrp
from relprop.record.places import INPUT
from relprop.units import Channels, Directions, Units

Scores = Mapping[str, Tensor]
Chosen = dict[str, Tensor]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def unit_relevance(
    lrp: LRP,
    data: Iterable[Any],
    layers: Sequence[str] | str,
    *,
    target: Any = "label",
    reduce: Literal["abs", "sum"] = "abs",
    units: Units | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """The relevance of every unit of some modules over a data set.

    data     batches: (x, labels), or x alone; x a tensor, or a dict of keywords
    layers   places: paths of modules for their outputs, "path:in" for what they are given; patterns allowed
    target   "label": each sample's label; "predicted": the arg max; anything else as for `LRP.explain`
    reduce   "abs": sum of |R|; "sum": sum of R, so that what speaks for and against cancels
    units    what a unit is; by default `Channels()`. The heads of attention are `Heads(of=12)` where the output
             projection reads them, `"....o_proj:in"`
    options  of `LRP.explain`

    Returns scores [units] by place, in the order the places were first passed, in float64.

    Raises:
        InputError: for no data, batches without labels where they are the target, units that do not fit a tensor, or
            a place that no relevance reached.
    """
    check_lrp(lrp, "unit_relevance")
    if reduce not in ("abs", "sum"):
        raise InputError(f'reduce must be "abs" or "sum", got {reduce!r}')
    found: dict[str, Tensor] = {}
    for batch in data:
        x, labels = _split(batch)
        wanted = _target(target, labels)
        args, kwargs = ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
        e = lrp.explain(*args, target=wanted, layers=layers, **kwargs, **options)
        for path, runs in e.layers.items():
            for r in runs if isinstance(runs, (list, tuple)) else (runs,):
                score = _per_unit(r.detach().double(), path, reduce, units or Channels())
                found[path] = found[path] + score if path in found else score
    if not found:
        raise InputError("there is no data to score units on, or none of the layers ran")
    silent = [path for path, s in found.items() if not bool(s.any())]
    if silent:
        raise InputError(f"no relevance reaches {', '.join(silent)}: score other layers, or explain another target")
    return found


def _split(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)):
        if len(batch) not in (1, 2):
            raise InputError(f"a batch is (x, labels) or x alone, got {len(batch)} parts: give a dict of keywords")
        return batch[0], batch[1] if len(batch) == 2 else None
    return batch, None


def _target(target: Any, labels: Any) -> Any:
    if not isinstance(target, str):
        return target
    if target == "predicted":
        return None
    if target != "label":
        raise InputError(f'target must be "label", "predicted" or a target of LRP.explain, got {target!r}')
    if labels is None:
        raise InputError('the data holds no labels: give batches of (x, labels), or target="predicted"')
    return torch.as_tensor(labels)


def _per_unit(r: Tensor, path: str, reduce: str, units: Units) -> Tensor:
    """[units]"""
    if isinstance(units, Directions):
        raise InputError("directions are not parts of a layer: no sum over its entries is theirs, and no mask")
    try:
        return units.total(r.abs() if reduce == "abs" else r).sum(0)
    except InputError as error:
        raise InputError(f"at {path!r}: {error}") from None


def least(
    scores: Scores,
    amount: float | int,
    *,
    across: Literal["layers", "each"] = "layers",
    normalise: Literal["sum", "l2", "none"] = "sum",
    keep: int = 1,
) -> Chosen:
    """The units with the smallest scores, by path.

    amount     a share below 1 of all units, or a number of them; with "each", of every layer
    across     "layers": the smallest of all layers together; "each": the same share of every layer
    normalise  what scores of different layers are compared by: divided by the layer's sum of absolute scores, by its
               Euclidean norm, or as they are
    keep       at least so many units stay in every layer, or nothing would pass

    Raises:
        InputError: for an amount that does not fit, or scores that are not finite.
    """
    _check_options(scores, across, normalise, keep)
    if across == "each":
        return {path: _smallest(s, _count(amount, len(s), path), keep) for path, s in scores.items()}
    scaled = {path: _scaled(s.double(), normalise) for path, s in scores.items()}
    total = _count(amount, sum(map(len, scaled.values())), "all layers together")
    ranked = sorted((float(v), path, i) for path, s in scaled.items() for i, v in enumerate(s))
    room = {path: max(len(s) - keep, 0) for path, s in scaled.items()}
    chosen: dict[str, list[int]] = {path: [] for path in scaled}
    for _, path, i in ranked:
        if total and len(chosen[path]) < room[path]:
            chosen[path].append(i)
            total -= 1
    if total:
        raise InputError(f"{total} units too many: with keep={keep} there are only {sum(room.values())} to prune")
    return {path: torch.tensor(sorted(units), dtype=torch.int64) for path, units in chosen.items()}


def _check_options(scores: Scores, across: str, normalise: str, keep: int) -> None:
    if not isinstance(scores, Mapping) or not scores:
        raise InputError(f"scores are tensors by the layers' names, as unit_relevance gives them, got {scores!r}")
    for path, s in scores.items():
        if s.ndim != 1 or not bool(torch.isfinite(s).all()):
            raise InputError(f"the scores of {path} must be one finite number a unit, got shape {tuple(s.shape)}")
    if across not in ("layers", "each"):
        raise InputError(f'across must be "layers" or "each", got {across!r}')
    if normalise not in ("sum", "l2", "none"):
        raise InputError(f'normalise must be "sum", "l2" or "none", got {normalise!r}')
    if type(keep) is not int or keep < 0:
        raise InputError(f"keep must be a number of units, got {keep!r}")


def _scaled(s: Tensor, normalise: str) -> Tensor:
    if normalise == "none":
        return s
    norm = s.abs().sum() if normalise == "sum" else s.norm()
    return s / norm if norm > 0 else s


def _count(amount: float | int, size: int, where: str) -> int:
    """How many units of so many."""
    if isinstance(amount, bool) or not 0 <= amount <= size or (amount != int(amount) and amount >= 1):
        raise InputError(f"amount must be a share below 1 or a number up to {size} (units of {where}), got {amount!r}")
    return round(amount * size) if amount < 1 else int(amount)


def _smallest(s: Tensor, count: int, keep: int) -> Tensor:
    count = min(count, max(len(s) - keep, 0))
    return s.argsort(stable=True)[:count].sort().values


def prune_units(
    model: nn.Module, units: Mapping[str, Tensor | Sequence[int]], *, groups: Mapping[str, int] | None = None
) -> nn.Module:
    """Mask units of a model with `torch.nn.utils.prune`: this one changes the model that it is given, and returns it.

    units   indices by place, as `least` gives them. "path": the unit's own weights and bias become 0, so that a linear
            map or a norm gives 0 there. "path:in": what reads the unit is masked, a column of a linear map's weight
    groups  by place (patterns allowed): its units are so many equal groups of neighbours, as heads are:
            {"*.o_proj:in": 12}

    A batch norm after a convolution gives a constant where the convolution gives 0. There score and prune the norm's
    path: its weight and bias are masked. Masks add up over several calls; `torch.nn.utils.prune.remove` makes them
    final, and `copy.deepcopy` before keeps the model.

    Raises:
        InputError: for a path that is no module with weights (nearest names offered), and for units out of range.
    """
    plans = [(_module(model, place.removesuffix(INPUT)), place, chosen) for place, chosen in units.items()]
    masks = [(m, *_masks(m, place, chosen, groups or {})) for m, place, chosen in plans]
    for module, weight, bias in masks:  # nothing is changed before all of them fit
        prune.custom_from_mask(module, "weight", weight)
        if bias is not None:
            prune.custom_from_mask(module, "bias", bias)
    return model


def _module(model: nn.Module, path: str) -> nn.Module:
    known = dict(model.named_modules(remove_duplicate=False))
    if path not in known:
        raise InputError(f"no module is named {path!r}{nearest(path, known)}")
    if not isinstance(getattr(known[path], "weight", None), Tensor):
        raise InputError(
            f"{path!r} is a {type(known[path]).__name__} without weights: prune the convolution, linear map or norm "
            "before it"
        )
    return known[path]


def _masks(module: nn.Module, place: str, units: Any, groups: Mapping[str, int]) -> tuple[Tensor, Tensor | None]:
    """The masks of weight and bias."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    transposed, reads = isinstance(module, _TRANSPOSED), place.endswith(INPUT)
    if getattr(module, "groups", 1) != 1 and (transposed or reads):
        raise InputError(f"{place!r} is a grouped map: only the outputs of a grouped convolution can be masked")
    if reads and weight.ndim < 2:
        raise InputError(f"{place!r}: {type(module).__name__} reads every unit by itself; prune its output")
    dim = int(reads != transposed) if weight.ndim > 1 else 0
    size = weight.shape[dim]
    count = next((n for pattern, n in groups.items() if fnmatchcase(place, pattern)), size)
    if type(count) is not int or count < 1 or size % count:
        raise InputError(f"{place}: {size} units cannot be cut into {count!r} equal groups")
    chosen = torch.as_tensor(units, dtype=torch.int64, device=weight.device).flatten()
    if bool(((chosen < -count) | (chosen >= count)).any()):
        raise InputError(f"{place} has {count} units; asked for were {chosen.tolist()}")
    kept = torch.ones(count, dtype=weight.dtype, device=weight.device)
    kept[chosen] = 0
    kept = kept.repeat_interleave(size // count)
    mask = kept.view([size if i == dim else 1 for i in range(weight.ndim)]).expand_as(weight).clone()
    has_bias = not reads and isinstance(getattr(module, "bias", None), Tensor)
    return mask, kept if has_bias else None
