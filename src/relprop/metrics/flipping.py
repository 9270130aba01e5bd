"""Flipping curves: take features away in the order of their relevance, and watch the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import InputError, nearest
from relprop.explain import LRP, Explanation
from relprop.progress import track

Model = Callable[[Tensor], Any]
Given = Tensor | Explanation
Order = Literal["most", "least", "random"]
Score = Literal["probability", "logit"] | Callable[[Tensor], Tensor]
Baseline = float | Tensor | Literal["mean"] | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Flipping:
    """How features are taken away, and what is watched. The functions of this module take these as keywords.

    steps       number of equal steps from nothing to everything, or the fractions themselves, from 0 to 1
    patch       side of the square (cube, stretch) of pixels that is one feature; 1 for single pixels
    baseline    what a feature becomes: a number, "mean" of each sample and channel, a tensor that broadcasts against
                the input, or a function of the input
    score       "probability" (softmax of logits), "logit" (the output as it is), or a function of the output,
                [N, classes] to [N, classes]
    channels    where the input's channels are: they are one feature together. 1 for images, signals and volumes; None
                where every entry is its own, which is the default for [N, F]
    batch_size  inputs that go through the model at once
    seed        of the random order and of nothing else
    """

    steps: int | Sequence[float] = 10
    patch: int = 1
    baseline: Baseline = 0.0
    score: Score = "probability"
    channels: int | Literal["auto"] | None = "auto"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.steps, int) and self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if not isinstance(self.steps, int):
            given = list(self.steps)
            if len(given) < 2 or any(not 0 <= f <= 1 for f in given) or given != sorted(given):
                raise InputError(f"steps as fractions must rise from 0 to 1, got {given}")
        if self.patch < 1 or self.batch_size < 1:
            raise InputError(f"patch and batch_size must be at least 1, got {self.patch} and {self.batch_size}")
        if isinstance(self.score, str) and self.score not in ("probability", "logit"):
            raise InputError(f'score must be "probability", "logit" or a function, got {self.score!r}')

    @property
    def fractions(self) -> Tensor:
        if isinstance(self.steps, int):
            return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        return torch.tensor(self.steps, dtype=torch.float64)


def flipping(options: dict[str, Any]) -> Flipping:
    """`Flipping` from keywords; an unknown one is an error with the nearest names."""
    known = [f.name for f in fields(Flipping)]
    for name in options:
        if name not in known:
            raise InputError(f"unknown option {name!r}{nearest(name, known, listed=len(known))}")
    return Flipping(**options)


class Gain(NamedTuple):
    """The symmetric relevance gain and its two parts, [N] each: `gain = most + least`."""

    gain: Tensor
    most: Tensor
    least: Tensor


def flipping_curve(
    model: Model, x: Tensor, relevance: Given, target: Any = None, order: Order = "most", **options: Any
) -> Tensor:
    """The output along the way as features are taken away, [N, steps + 1]: untouched first, all gone last.

    relevance  of x's shape, or with one channel or none; or an explanation of x
    target     an index, or one a sample; None: the predicted class
    order      "most" relevant first (a good explanation falls fast), "least" first, or "random"
    options    see `Flipping`

    [Samek et al. 2017, "Evaluating the visualization of what a deep neural network has learned"]
    """
    how = flipping(options)
    if order not in ("most", "least", "random"):
        raise InputError(f'order must be "most", "least" or "random", got {order!r}')
    scores = _curves(model, x, relevance, target, (order,), how)
    return scores[0]


def area_between_curves(model: Model, x: Tensor, relevance: Given, target: Any = None, **options: Any) -> Tensor:
    r"""The area between the curves least-relevant-first and most-relevant-first, [N]: higher is better, 0 is chance.

        mean over steps of  ( f(least first) - f(most first) )

    Between -1 and 1 with probabilities; with `score="logit"` as large as the logits. `options` as for `Flipping`.
    [Achtibat et al. 2024, AttnLRP, sec. 4.1; pnpxai's AbPC is the same]
    """
    least, most = _curves(model, x, relevance, target, ("least", "most"), flipping(options))
    return (least - most).mean(1)


def symmetric_relevance_gain(
    model: Model, x: Tensor, relevance: Given, target: Any = None, *, parts: bool = False, **options: Any
) -> Tensor | Gain:
    r"""The gain over a random order in both directions, [N]: higher is better, 0 is chance.

        SRG = AUC(least first) - AUC(most first) = [AUC(random) - AUC(most first)] + [AUC(least first) - AUC(random)]

    with the curves over the fraction taken away, by trapezoids. `parts=True` also gives the two gains, for which the
    random order is run. `options` as for `Flipping`. [Bluecher et al. 2024, TMLR]
    """
    how = flipping(options)
    orders: tuple[Order, ...] = ("least", "most", "random") if parts else ("least", "most")
    curves = _curves(model, x, relevance, target, orders, how)
    fractions = how.fractions.to(curves[0])
    least, most, *others = (torch.trapezoid(c, fractions.expand_as(c), dim=1) for c in curves)
    if not parts:
        return least - most
    return Gain(least - most, others[0] - most, least - others[0])


# -- the work ----------------------------------------------------------------------------------------------------------


def _curves(
    model: Model, x: Tensor, relevance: Any, target: Any, orders: Sequence[Order], how: Flipping
) -> list[Tensor]:
    """One curve for each order, [N, steps + 1] each."""
    relevance = relevance.relevance if isinstance(relevance, Explanation) else relevance
    _check_given(model, x, relevance)
    channel = _channel(x, how.channels)
    importance = _importance(x, relevance, channel, how.patch)
    filled = _baseline(x, how.baseline, channel)
    with torch.no_grad():
        first = torch.cat([_score(model, part, how) for part in x.split(how.batch_size)])
        chosen = _targets(first, target)
        start = first.gather(1, chosen[:, None])
        total = importance.flatten(1).shape[1]
        counts = (how.fractions * total).round().long().tolist()
        found = []
        for order in orders:
            ranks = _ranks(importance, order, how.seed)
            columns = [start if count == 0 else None for count in counts]
            jobs = [(i, count) for i, count in enumerate(counts) if count]
            values = _run(model, x, filled, ranks, [count for _, count in jobs], chosen, channel, how)
            for (i, _), column in zip(jobs, values, strict=True):
                columns[i] = column
            found.append(torch.cat([c for c in columns if c is not None], 1))
    return found


def _run(
    model: Model,
    x: Tensor,
    filled: Tensor,
    ranks: Tensor,
    counts: Sequence[int],
    chosen: Tensor,
    channel: int | None,
    how: Flipping,
) -> list[Tensor]:
    """The scores with the first `count` features taken away, for all counts, in batches."""
    n = len(x)
    jobs = [(count, i) for count in counts for i in range(n)]
    scores = []
    starts = range(0, len(jobs), how.batch_size)
    for start in track(starts, len(starts), "taking features away"):
        part = jobs[start : start + how.batch_size]
        index = torch.tensor([i for _, i in part], device=x.device)
        limit = torch.tensor([count for count, _ in part], device=x.device)
        gone = ranks[index] < limit.reshape(-1, *(1,) * (ranks.ndim - 1))
        mask = _spread(gone, x, channel, how.patch)
        out = _score(model, torch.where(mask, filled[index], x[index]), how)
        scores.append(out.gather(1, chosen[index, None]))
    every = torch.cat(scores) if scores else x.new_zeros(0, 1)
    return list(every.reshape(len(counts), n, 1).unbind(0)) if counts else []


def _check_given(model: Any, x: Any, relevance: Any) -> None:
    if isinstance(model, LRP) or not callable(model):
        raise InputError(f"a metric takes the model itself, got {type(model).__name__}")
    for name, given in (("x", x), ("relevance", relevance)):
        if not isinstance(given, Tensor):
            raise InputError(f"{name} must be a tensor, got {type(given).__name__}: torch.as_tensor(...) makes one")


def _channel(x: Tensor, asked: int | str | None) -> int | None:
    if asked == "auto":
        return 1 if x.ndim > 2 else None
    if asked is None:
        return None
    if not isinstance(asked, int) or not 1 <= asked < x.ndim:
        raise InputError(
            f"channels must be a dimension after the batch, or None; got {asked!r} for {x.ndim} dimensions"
        )
    return asked


def _importance(x: Tensor, relevance: Tensor, channel: int | None, patch: int) -> Tensor:
    """Relevance of each feature: summed over channels and patches, [N, ...]."""
    r = relevance.detach().to(x.device)
    if r.is_floating_point() and not bool(torch.isfinite(r).all()):
        raise InputError("the relevance holds NaN or infinity: no order can be made of it")
    if channel is not None:
        if r.ndim == x.ndim:
            if r.shape[channel] not in (1, x.shape[channel]):
                raise InputError(f"relevance has {r.shape[channel]} channels, the input {x.shape[channel]}")
            r = r.sum(channel)
        wanted = x.shape[:channel] + x.shape[channel + 1 :]
    else:
        wanted = x.shape
    if r.shape != wanted:
        raise InputError(f"relevance {tuple(relevance.shape)} does not fit the input {tuple(x.shape)}")
    if patch == 1:
        return r
    if channel is None:
        raise InputError("patches need an input with channels and space: [N, C, ...]")
    pad = [p for size in reversed(r.shape[1:]) for p in (0, -size % patch)]
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[r.ndim - 1]
    return pool(F.pad(r.float(), pad)[:, None], patch)[:, 0]


def _spread(gone: Tensor, x: Tensor, channel: int | None, patch: int) -> Tensor:
    """From features to entries of the input."""
    if patch > 1:
        for dim in range(1, gone.ndim):
            gone = gone.repeat_interleave(patch, dim)
        space = x.shape[1:channel] + x.shape[channel + 1 :] if channel is not None else x.shape[1:]
        gone = gone[(slice(None), *(slice(0, size) for size in space))]
    return gone if channel is None else gone.unsqueeze(channel)


def _ranks(importance: Tensor, order: Order, seed: int) -> Tensor:
    """At which place each feature is taken away."""
    flat = importance.flatten(1)
    if order == "random":
        generator = torch.Generator().manual_seed(seed)
        flat = torch.rand(flat.shape, generator=generator).to(flat.device)
    return flat.argsort(dim=1, descending=order != "least", stable=True).argsort(dim=1).reshape(importance.shape)


def _baseline(x: Tensor, baseline: Baseline, channel: int | None) -> Tensor:
    if callable(baseline) and not isinstance(baseline, Tensor):
        filled = baseline(x)
    elif isinstance(baseline, str):
        if baseline != "mean":
            raise InputError(f'baseline must be a number, "mean", a tensor or a function, got {baseline!r}')
        filled = x.mean([d for d in range(1, x.ndim) if d != channel], keepdim=True)
    else:
        filled = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    try:
        return filled.expand(x.shape)
    except RuntimeError:
        raise InputError(f"baseline {tuple(filled.shape)} does not broadcast against {tuple(x.shape)}") from None


def _score(model: Model, x: Tensor, how: Flipping) -> Tensor:
    output = model(x)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise InputError(f"the model's output is {type(output).__name__}: wrap the model so that it gives a tensor")
    if output.ndim == 1:
        output = output[:, None]
    if output.ndim != 2:
        raise InputError(
            f"the model's output has shape {tuple(output.shape)}: wrap the model so that it gives [N, classes]"
        )
    if callable(how.score):
        return how.score(output)
    if how.score == "probability":
        return output.softmax(1) if output.shape[1] > 1 else output.sigmoid()
    return output


def _targets(output: Tensor, target: Any) -> Tensor:
    n, classes = output.shape
    if target is None:
        return output.argmax(1)
    found = torch.as_tensor(target, device=output.device).long()
    found = found.expand(n) if found.ndim == 0 else found
    if found.shape != (n,):
        raise InputError(f"target must be an index or one for each of {n} samples, got shape {tuple(found.shape)}")
    if bool(((found < 0) | (found >= classes)).any()):
        raise InputError(f"target {found.tolist()} is out of range: the output has {classes} classes")
    return found
