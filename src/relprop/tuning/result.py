"""What tuning found: the best rules, and all that was tried as table and plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from relprop.composite import Composite
from relprop.errors import InputError
from relprop.explain import LRP
from relprop.extras import require


@dataclass(frozen=True)
class Trial:
    """One try: its number, its score (None where it failed, and why), and what was chosen."""

    number: int
    value: float | None
    params: dict[str, Any]
    failed: str = ""


@dataclass(frozen=True)
class Tuned:
    """What `relprop.tune` found.

    composite    the best rules, or those that tuning began with where nothing beats them; of an explainer, None
    explainer    the explainer with the best parameters, where one was tuned
    value        its score, and `baseline`, the score of what tuning began with, on the same data
    validation   the two scores on data that was held back, (tuned, baseline), if there was any
    params       what was chosen; nothing where it is what tuning began with
    trials       everything that was tried
    study        Optuna's study
    interrupted  whether it was stopped before the last trial
    """

    model: nn.Module
    metric: str
    direction: str
    composite: Composite | None
    explainer: Any
    value: float
    baseline: float | None
    params: dict[str, Any]
    trials: tuple[Trial, ...]
    study: Any = field(repr=False)
    validation: tuple[float, float] | None = None
    interrupted: bool = False

    @property
    def lrp(self) -> LRP:
        """An `LRP` with the best rules."""
        if self.composite is None and not hasattr(self.explainer, "composite"):
            raise InputError(
                f"a {type(self.explainer).__name__} was tuned: it is in .explainer, and has no rules of ours"
            )
        return LRP(self.model, self.explainer.composite() if self.composite is None else self.composite)

    @property
    def improved(self) -> bool:
        """Whether something beats what tuning began with."""
        return bool(self.params)

    def best(self, count: int = 10) -> list[Trial]:
        """The best trials, best first; of equal ones the first."""
        done = [t for t in self.trials if t.value is not None]
        sign = -1 if self.direction == "maximize" else 1
        return sorted(done, key=lambda t: (sign * (t.value or 0.0), t.number))[:count]

    def table(self, count: int = 10) -> str:
        """The best trials as text."""
        failed = sum(t.value is None for t in self.trials)
        lines = [f"{self.metric} ({self.direction}d), {len(self.trials)} trials, {failed} failed"]
        if self.baseline is not None:
            lines.append(f"{'start':>6}  {self.baseline:>10.4g}")
        for trial in self.best(count):
            lines.append(f"{trial.number:>6}  {trial.value:>10.4g}  {_shown(trial.params)}")
        if not self.improved:
            lines.append("nothing that was tried beats the start, so that is kept")
        if self.validation is not None:
            lines.append(f"on data held back: {self.validation[0]:.4g}, at the start {self.validation[1]:.4g}")
        if self.interrupted:
            lines.append("interrupted: with study= it goes on from here")
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """All trials as a pandas frame."""
        pandas = require("pandas", "tabular", "a DataFrame")
        rows = [{"trial": t.number, "value": t.value, **t.params, "failed": t.failed} for t in self.trials]
        return pandas.DataFrame(rows).set_index("trial")

    def picture(self) -> Any:
        """Score by trial, and by each of the parameters that say most: a matplotlib figure."""
        figures = require("matplotlib.figure", "tune", "a plot of the trials")
        done = [t for t in self.trials if t.value is not None]
        names = self._telling(done)[:3]
        figure = figures.Figure(figsize=(4.2 * (1 + len(names)), 3.4), layout="constrained")
        axes = figure.subplots(1, 1 + len(names), squeeze=False, sharey=True)[0]
        axes[0].plot([t.number for t in done], [t.value for t in done], ".", color="0.5", label="trials")
        axes[0].plot([t.number for t in done], self._running(done), color="tab:red", label="best so far")
        if self.baseline is not None:
            axes[0].axhline(self.baseline, color="tab:blue", linestyle="--", label="start")
        axes[0].set(xlabel="trial", ylabel=self.metric.replace("_", " "))
        axes[0].legend(frameon=False)
        for axis, name in zip(axes[1:], names, strict=True):
            have = [t for t in done if name in t.params]
            values = [t.params[name] for t in have]
            axis.plot(
                [v if isinstance(v, float) else str(v) for v in values], [t.value for t in have], ".", color="0.3"
            )
            if not all(isinstance(v, float) for v in values):
                for label in axis.get_xticklabels():
                    label.set(rotation=30, ha="right")
            elif 0 < 10 * min(values) < max(values):
                axis.set_xscale("log")
            axis.set(xlabel=name)
        return figure

    def save(self, path: str | Path) -> Path:
        """Draw it into a file: .png, .svg, .pdf."""
        from relprop.render.figure import save_figure

        return save_figure(self.picture(), path)

    def _running(self, done: list[Trial]) -> list[float]:
        better = max if self.direction == "maximize" else min
        found: list[float] = []
        for trial in done:
            value = trial.value or 0.0
            found.append(better(found[-1], value) if found else value)
        return found

    def _telling(self, done: list[Trial]) -> list[str]:
        """The parameters whose halves (or choices) differ most in their mean score."""
        spread: dict[str, float] = {}
        for name in dict.fromkeys(n for t in done for n in t.params):
            have = [t for t in done if name in t.params]
            values = [t.params[name] for t in have]
            if all(isinstance(v, float) for v in values):
                middle = sorted(values)[len(values) // 2]
                values = [v >= middle for v in values]
            groups: dict[Any, list[float]] = {}
            for key, trial in zip(values, have, strict=True):
                groups.setdefault(key, []).append(trial.value or 0.0)
            means = [sum(g) / len(g) for g in groups.values()]
            spread[name] = max(means) - min(means)
        return sorted(spread, key=lambda n: -spread[n])

    def __str__(self) -> str:
        return self.table()


def _shown(params: dict[str, Any]) -> str:
    return "  ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
