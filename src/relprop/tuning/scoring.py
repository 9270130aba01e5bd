"""A number for the explanations of a batch, and which way is better."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop import metrics
from relprop.errors import InputError

Direction = Literal["maximize", "minimize"]
#: model, inputs, relevance, targets -> one value a sample
Own = Callable[..., Any]


def _conservation(
    model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor, explained: Tensor | None = None
) -> Tensor:
    """Against what the explanation says it explains; against the model's output where it does not say."""
    if explained is None:
        with torch.no_grad():
            output = model(x)
        explained = output.gather(1, target[:, None])[:, 0] if output.ndim == 2 else output
    return metrics.relative_conservation_error(relevance, explained)


METRICS: dict[str, tuple[Own, Direction]] = {
    "area_between_curves": (metrics.area_between_curves, "maximize"),
    "symmetric_relevance_gain": (metrics.symmetric_relevance_gain, "maximize"),
    "relative_conservation_error": (_conservation, "minimize"),
}


@dataclass(frozen=True)
class Scoring:
    """A metric, its options, and its direction; `given` is how it was asked for."""

    name: str
    metric: Any
    direction: Direction
    options: dict[str, Any] = field(default_factory=dict)
    quantus: bool = False
    given: dict[str, Any] = field(default_factory=dict)

    def described(self) -> str:
        """What a study on file is held to."""
        shown = ", ".join(f"{name}={_lasting(self.given[name])}" for name in sorted(self.given))
        return f"{self.name}({shown})" if shown else self.name

    def __call__(
        self, model: nn.Module, x: Tensor, target: Tensor, relevance: Tensor, explained: Tensor | None, choice: Any
    ) -> float:
        """The mean over a batch.

        explained  the value explained for each sample, where it is known
        choice     the composite or explainer, for metrics that explain more
        """
        if self.quantus:
            from relprop.adapters.quantus import mean_score

            return mean_score(self.metric, model, x, target, relevance, choice)
        options = {**self.options, "explained": explained} if self.metric is _conservation else self.options
        found = self.metric(model, x, relevance, target, **options)
        return float(torch.as_tensor(found, dtype=torch.float64).mean())


def make_scoring(metric: Any, direction: str | None, options: dict[str, Any] | None) -> Scoring:
    """From a name of ours or of Quantus, one of Quantus' metrics, or a function.

    Raises:
        InputError: for an unknown name, with the nearest ones.
    """
    if direction not in (None, "maximize", "minimize"):
        raise InputError(f'direction must be "maximize" or "minimize", got {direction!r}')
    options = dict(options or {})
    quantus = False
    if isinstance(metric, str) and metric in METRICS:
        name, (made, best) = metric, METRICS[metric]
    elif isinstance(metric, str):
        name, (made, best), quantus = metric, _quantus(metric, options), True
    elif callable(metric) and hasattr(metric, "score_direction"):
        from relprop.adapters.quantus import higher_is_better

        name, made, quantus = type(metric).__name__, metric, True
        best = "maximize" if higher_is_better(metric) else "minimize"
    elif callable(metric):
        name, made, best = getattr(metric, "__name__", type(metric).__name__), metric, "maximize"
    else:
        raise InputError(f"metric must be a name or a function, got {type(metric).__name__}")
    return Scoring(name, made, direction or best, {} if quantus else options, quantus, options)  # type: ignore[arg-type]


def _quantus(name: str, options: dict[str, Any]) -> tuple[Any, Direction]:
    """A metric of Quantus by its name."""
    near = difflib.get_close_matches(name, METRICS, 2, cutoff=0.6)
    from relprop.adapters import quantus

    try:
        if name not in quantus.metrics():
            quantus.metric(name)
    except (InputError, ImportError) as error:
        hint = f"; nearest of relprop's: {', '.join(near)}" if near else f"; relprop has {', '.join(METRICS)}"
        raise InputError(f"unknown metric {name!r}{hint}; {error}") from None
    made = quantus.metric(name, **options)
    return made, "maximize" if quantus.higher_is_better(made) else "minimize"


def _lasting(value: Any) -> str:
    """A text that is the same in the next process."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} of sum {float(value.double().sum()):.9g}"
    return str(getattr(value, "__qualname__", type(value).__name__)) if callable(value) else repr(value)
