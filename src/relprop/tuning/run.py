"""`tune`: try rules on data, score the explanations, keep the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop.composite import Composite
from relprop.errors import InputError, RelpropError
from relprop.explain import LRP
from relprop.progress import Progress
from relprop.tuning.result import Trial, Tuned
from relprop.tuning.scoring import Scoring, make_scoring
from relprop.tuning.space import Groups, Presets, Space
from relprop.tuning.study import data_fingerprint, fingerprint, open_study, optuna, quiet

Batch = tuple[Tensor, Tensor]
#: From inputs and targets to relevance, and the value explained for each sample where that is known.
Explain = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


def tune(
    lrp: Any,
    loader: Iterable[Any],
    *,
    metric: Any = "area_between_curves",
    trials: int = 50,
    space: Space | Literal["groups", "presets"] = "groups",
    direction: str | None = None,
    metric_options: dict[str, Any] | None = None,
    study: str | Path | None = None,
    validation: Iterable[Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tuned:
    """Find rules for a model whose explanations do best by a metric.

    lrp             a `relprop.LRP` (its composite is what tuning begins with), a module, or an explainer with
                    `get_tunables`, `set_kwargs` and `attribute`
    loader          batches of inputs, or of pairs (inputs, targets); without targets the predicted classes are
                    explained
    metric          "area_between_curves", "symmetric_relevance_gain", "relative_conservation_error", the name of one of
                    Quantus' metrics, one of them made ready, or a function of (model, inputs, relevance, targets)
    trials          how many are in the study in the end; one that goes on runs what is missing
    space           "groups": a rule for each third of the layers and for the entry; "presets"; or a `Groups` or
                    `Presets` of your own
    direction       "maximize" or "minimize"; None: as the metric says, and a function is maximised
    metric_options  keywords for the metric: patch=16, baseline="mean", ...
    study           a file that the study is kept in, after every trial. If it is there, the study goes on
    validation      batches that are not tuned on: the best and the first rules are scored on them in the end
    progress        a progress bar, where standard error is a terminal

    A trial whose explanation or metric fails (books that do not balance, relevance that is not finite, memory) counts
    as failed, with its reason; an interruption ends the study early, and what was found until then is returned. Where
    nothing beats what tuning began with, that is what is returned.
    """
    if trials < 1:
        raise InputError(f"trials must be at least 1, got {trials}")
    optuna()  # a missing extra is said before any work is done
    scoring = make_scoring(metric, direction, metric_options)
    subject = _subject(lrp)
    batches = _batches(loader, subject.model, "loader")
    held_back = None if validation is None else _batches(validation, subject.model, "validation")
    subject.prepare(space, batches)
    held_to = {}
    if study is not None:
        held_to = {
            "model": fingerprint(subject.model),
            "metric": scoring.described(),
            "space": subject.described(),
            "data": data_fingerprint(batches),
        }
    found = open_study(study, scoring.direction, seed, held_to)
    baseline = _score(subject.begin(), subject.model, batches, scoring, subject.start)
    interrupted = _run(found, subject, batches, scoring, trials, progress)
    tried = tuple(_trial(t) for t in found.trials if _counts(t))
    if all(t.value is None for t in tried):
        reasons = "; ".join(dict.fromkeys(t.failed for t in tried if t.failed))
        raise InputError(f"none of {len(tried)} trials gave an explanation: {reasons or 'interrupted'}")
    better = found.best_value > baseline if scoring.direction == "maximize" else found.best_value < baseline
    best = subject.choose(found.best_trial) if better else subject.start
    scores = None
    if held_back is not None:
        explain = subject.explain(best)
        scores = (
            _score(explain, subject.model, held_back, scoring, best),
            _score(subject.begin(), subject.model, held_back, scoring, subject.start),
        )
    return Tuned(
        model=subject.model,
        metric=scoring.name,
        direction=scoring.direction,
        composite=best if isinstance(best, Composite) else None,
        explainer=None if isinstance(best, Composite) else best,
        value=found.best_value if better else baseline,
        baseline=baseline,
        params=dict(found.best_params) if better else {},
        trials=tried,
        study=found,
        validation=scores,
        interrupted=interrupted,
    )


# -- what is tuned -----------------------------------------------------------------------------------------------------


class _Rules:
    """The rules of an `LRP`."""

    def __init__(self, lrp: LRP) -> None:
        self.model, self._lrp = lrp.model, lrp
        self.start: Any = None
        self._space: Space = Groups()

    def prepare(self, space: Any, batches: list[Batch]) -> None:
        if isinstance(space, str):
            known: dict[str, Space] = {"groups": Groups(), "presets": Presets()}
            if space not in known:
                raise InputError(f'space must be "groups", "presets" or a Space, got {space!r}')
            space = known[space]
        if not isinstance(space, Space):
            raise InputError(f"space must be a Groups or Presets, got {type(space).__name__}")
        plan = self._lrp.plan(batches[0][0])
        bounds = min(float(x.min()) for x, _ in batches), max(float(x.max()) for x, _ in batches)
        base = self._lrp.composite or Composite()
        self.start = base
        self._space = space.prepare(plan, bounds, base)

    def described(self) -> str:
        return self._space.described()

    def choose(self, trial: Any) -> Composite:
        return self._space.suggest(trial)

    def begin(self) -> Explain:
        return self.explain(self.start)

    def explain(self, choice: Any) -> Explain:
        lrp = LRP(self.model, choice)

        def explain(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            found = lrp.explain(x, target=target)
            return found.relevance, found.explained

        return explain


class _Explainer:
    """The parameters of an explainer that says what may be tuned."""

    def __init__(self, explainer: Any) -> None:
        self.model, self.start = explainer.model, explainer

    def prepare(self, space: Any, batches: list[Batch]) -> None:
        if not self.start.get_tunables():
            raise InputError(f"{type(self.start).__name__} has nothing that may be tuned")

    def described(self) -> str:
        return f"{type(self.start).__name__} {self.start.get_tunables()}"

    def choose(self, trial: Any) -> Any:
        chosen = {}
        for name, (kind, options) in self.start.get_tunables().items():
            suggest = {float: trial.suggest_float, int: trial.suggest_int, list: trial.suggest_categorical}
            if kind not in suggest:
                raise InputError(f"{type(self.start).__name__}.{name}: cannot tune a {kind.__name__}")
            chosen[name] = suggest[kind](name, **options)
        return self.start.set_kwargs(**chosen)

    def begin(self) -> Explain:
        return self.explain(self.start)

    def explain(self, choice: Any) -> Explain:
        def explain(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
            ones = x.new_ones(len(x)) if getattr(choice, "seed", None) == "one" else None
            return choice.attribute(x, target), ones

        return explain


def _subject(lrp: Any) -> Any:
    if isinstance(lrp, LRP):
        return _Rules(lrp)
    if isinstance(lrp, nn.Module):
        return _Rules(LRP(lrp))
    if all(hasattr(lrp, name) for name in ("get_tunables", "set_kwargs", "attribute", "model")):
        return _Explainer(lrp)
    raise InputError(f"tune takes an LRP, a module or an explainer with get_tunables, got {type(lrp).__name__}")


# -- running it --------------------------------------------------------------------------------------------------------


def _run(study: Any, subject: Any, batches: list[Batch], scoring: Scoring, trials: int, progress: bool) -> bool:
    """Run what is missing of the trials. True where it was interrupted."""
    package = optuna()
    missing = trials - sum(_counts(t) for t in study.trials)
    if missing <= 0:
        return False

    def objective(trial: Any) -> float:
        choice = subject.choose(trial)
        try:
            return _score(subject.explain(choice), subject.model, batches, scoring, choice)
        except Exception as error:  # one trial's failure must not cost the others
            kind = "" if isinstance(error, RelpropError) else f"{type(error).__name__}: "
            trial.set_user_attr("failed", kind + (str(error).splitlines() or [""])[0])
            raise package.TrialPruned() from error

    with _line(missing, progress) as step, quiet():
        try:
            study.optimize(objective, n_trials=missing, callbacks=[lambda s, t: step(s)])
        except KeyboardInterrupt:
            return True
    return False


def _score(explain: Explain, model: nn.Module, batches: list[Batch], scoring: Scoring, choice: Any) -> float:
    """The metric over all batches, each weighted by its samples."""
    total, count = 0.0, 0
    for x, target in batches:
        relevance, explained = explain(x, target)
        total += scoring(model, x, target, relevance, explained, choice) * len(x)
        count += len(x)
    value = total / count
    if value != value:
        raise InputError(f"{scoring.name} is not a number for these explanations")
    return value


def _batches(loader: Iterable[Any], model: nn.Module, what: str) -> list[Batch]:
    """The data, held for all trials; targets as predicted where there are none."""
    found: list[Batch] = []
    for entry in [loader] if isinstance(loader, Tensor) else loader:
        x, target = (entry[0], entry[1]) if isinstance(entry, (tuple, list)) and len(entry) == 2 else (entry, None)
        if not isinstance(x, Tensor):
            raise InputError(f"{what} must give tensors, or pairs of inputs and targets, got {type(x).__name__}")
        if target is None:
            with torch.no_grad():
                output = model(x)
            output = getattr(output, "logits", output)
            if not isinstance(output, Tensor) or output.ndim != 2:
                raise InputError(f"{what} gives no targets, and the model's output is not [samples, classes]")
            target = output.argmax(1)
        target = torch.as_tensor(target, device=x.device)
        if target.dtype.is_floating_point:
            raise InputError(f"{what} gives targets of {target.dtype}: they must be the indices of classes")
        target = target.expand(len(x)) if target.ndim == 0 else target
        if len(target) != len(x):
            raise InputError(f"{what} gives {len(x)} inputs with {len(target)} targets")
        found.append((x, target))
    if not found:
        raise InputError(f"{what} gives no batches")
    return found


def _counts(trial: Any) -> bool:
    """Whether a trial is done, or failed for a reason that is kept; one that was interrupted is run again."""
    return trial.state.name in ("COMPLETE", "PRUNED")


def _trial(trial: Any) -> Trial:
    value = trial.value if trial.state.name == "COMPLETE" else None
    return Trial(trial.number, value, dict(trial.params), trial.user_attrs.get("failed", ""))


@contextmanager
def _line(total: int, wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Say how far it is, with the best score so far."""
    if not wanted:
        yield lambda study: None
        return
    with Progress(total) as progress:
        progress.step("tuning")

        def done(study: Any) -> None:
            try:
                progress.step(f"tuning, best {study.best_value:.4g}")
            except ValueError:  # no trial has succeeded yet
                progress.step("tuning")

        yield done
