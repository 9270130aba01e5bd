"""Quantus: explanations for its metrics, and its metrics by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from relprop.errors import InputError, nearest
from relprop.explain import LRP
from relprop.extras import require
from relprop.models.sources import import_torchvision

Array = npt.NDArray[Any]


def explain(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    composite: Any = None,
    channels: str = "sum",
    seed: Any = "value",
    device: Any = None,
    **ignored: Any,
) -> Array:
    """Quantus' `explain_func`: relevance of a batch as an array.

    composite  as `relprop.LRP` takes it; or an explainer of `relprop.adapters.pnpxai`, with its own seed
    channels   "sum": relevance of a pixel over its channels, [N, 1, ...], as `quantus.explain` gives it;
               "keep": of every entry
    seed       "value", or "one": relevance one at the output, so that a map's sign is not that of a negative logit, as
               on the randomised networks of Quantus' randomisation metrics
    ignored    what Quantus hands to every explain_func (`method`, `xai_lib`, ...)

    Use it as `metric(..., explain_func=explain, explain_func_kwargs={"composite": rp.EpsilonPlus()})`.
    """
    if channels not in ("sum", "keep"):
        raise InputError(f'channels must be "sum" or "keep", got {channels!r}')
    known = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = torch.get_default_dtype() if known is None else known.dtype
    where = device or (None if known is None else known.device)
    x = torch.as_tensor(np.array(inputs)).to(dtype=dtype, device=where)
    target = None if targets is None else torch.as_tensor(np.array(targets), device=where).long().reshape(-1)
    if hasattr(composite, "attribute"):
        explainer = composite.copy()
        explainer.model = model  # which Quantus may have changed
        relevance = explainer.attribute(x, target)
    else:
        relevance = LRP(model, composite).explain(x, target=target, seed=seed).relevance
    if channels == "sum" and relevance.ndim > 2:
        relevance = relevance.sum(1, keepdim=True)
    return relevance.cpu().numpy()


def explain_func(composite: Any = None, **options: Any) -> Callable[..., Array]:
    """`explain` with its composite settled, for `quantus.evaluate(xai_methods={"name": ...})`."""

    def explained(model: nn.Module, inputs: Any, targets: Any, **given: Any) -> Array:
        return explain(model, inputs, targets, **{**given, "composite": composite, **options})

    return explained


def metric(name: str, **settings: Any) -> Any:
    """One of Quantus' metrics by its class' name ("PixelFlipping") or by the name in its table ("Pixel-Flipping").

    Raises:
        InputError: for a metric that Quantus does not have, with the nearest names.
    """
    known = metrics()
    made = known.get(name) or {k.casefold().strip(): v for k, v in known.items()}.get(name.casefold().strip())
    if made is None:
        raise InputError(f"Quantus has no metric {name!r}{nearest(name, known, listed=6)}")
    try:
        return made(**{"disable_warnings": True, **settings})
    except (TypeError, ValueError) as error:
        raise InputError(f"Quantus' {made.__name__} does not take these settings: {error}") from error


def metrics() -> dict[str, Any]:
    """Quantus' metrics by both of their names."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()  # Quantus imports it by way of zennit, and may find it beside another build of torch
    quantus = require("quantus", "quantus", "a metric of Quantus")
    found: dict[str, Any] = {}
    for group in quantus.AVAILABLE_METRICS.values():
        for shown, cls in group.items():
            found[cls.__name__] = cls
            found[shown.strip()] = cls
    return found


def higher_is_better(metric: Any) -> bool:
    """Quantus' own word on how a metric's scores are to be read."""
    return getattr(getattr(metric, "score_direction", None), "name", "HIGHER") != "LOWER"


def mean_score(metric: Any, model: nn.Module, x: Tensor, target: Tensor, relevance: Tensor, composite: Any) -> float:
    """One number of a Quantus metric for a batch that is explained already.

    Curves (as of pixel flipping) are averaged, for each is the output along the way.
    """
    maps = relevance.sum(1, keepdim=True) if relevance.ndim > 2 else relevance
    scores = metric(
        model=model,
        x_batch=x.cpu().numpy(),
        y_batch=target.cpu().numpy(),
        a_batch=maps.cpu().numpy(),
        explain_func=explain,
        explain_func_kwargs={"composite": composite},
        device=x.device.type,
    )
    return float(np.nanmean(np.asarray(scores, dtype=float)))
