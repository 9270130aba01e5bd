"""`Explainer`: from rows of a table to what each column contributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import relprop.presets as presets
from relprop.adapters.modules import pattern
from relprop.composite import Composite, Row, as_composite
from relprop.errors import InputError, nearest
from relprop.explain import LRP, Explanation
from relprop.progress import track
from relprop.rules import AlphaBeta, Epsilon, Flat, Gamma, LinearRule, Rule, WSquare, Zero, ZPlus
from relprop.selectors import LINEAR_MAPS, Name
from relprop.tabular.convert import Converted, from_sklearn
from relprop.tabular.frame import Table, batch, single
from relprop.tabular.result import Comparison, Result, Results

#: Rules by the names that tables of methods use.
RULES: dict[str, Rule] = {
    "zero": Zero(),
    "epsilon": Epsilon(),
    "gamma": Gamma(),
    "z_plus": ZPlus(),
    "alpha_beta": AlphaBeta(),
    "w_square": WSquare(),
    "flat": Flat(),
}


class ByLayer(Composite):
    """Rules that were given to layers, and epsilon for all others in the last row."""


class Explainer:
    """Explanations of one model for rows of a table, or for any arrays.

    model          an `nn.Module`, or a fitted estimator or Pipeline of scikit-learn (see `from_sklearn`)
    feature_names  one name a feature; frames are held to them. Default: those the estimator was fitted with
    class_names    one name an output; two for a model with one logit, whose sign tells the class
    preset         a preset, a composite, a rule or rows, as `relprop.LRP` takes them; the name of one ("EpsilonPlus",
                   "z_plus"); or a dict from a layer to a rule: from its index in `layers()`, or its path.
                   None: one that suits the model
    task           "classification", "regression", or None: classification if there are class names or several outputs
    batch_size     how many instances go through the model at once
    """

    def __init__(
        self,
        model: Any,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        preset: Any = None,
        *,
        task: str | None = None,
        batch_size: int = 512,
    ) -> None:
        if task not in (None, "classification", "regression"):
            raise InputError(f'task must be "classification" or "regression", got {task!r}')
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if not isinstance(model, nn.Module):
            model = from_sklearn(model)
        if isinstance(model, Converted):
            feature_names = model.features if feature_names is None else feature_names
            class_names = model.classes if class_names is None else class_names
            task = task or model.task
        self.model: nn.Module = model
        self.feature_names = _names(feature_names, "feature_names")
        self.class_names = _names(class_names, "class_names")
        self.task = task
        self.batch_size = batch_size
        self._converted = model if isinstance(model, Converted) else None
        self._core: nn.Module = model.core if isinstance(model, Converted) else model
        self.composite = self._composite(preset)
        self._lrp = LRP(self._core, self.composite)

    def __repr__(self) -> str:
        return f"Explainer of {self._lrp!r}"

    # -- rules ---------------------------------------------------------------------------------------------------

    def layers(self) -> list[str]:
        """The paths of the modules that hold no other: what rules by index, and relevance by layer, refer to."""
        return [path for path, m in self._core.named_modules() if path and not list(m.children())]

    def _composite(self, preset: Any) -> Composite | None:
        if preset is None:
            return None
        if isinstance(preset, str):
            return named(preset)
        if isinstance(preset, Mapping):
            rows = [self._row(layer, rule) for layer, rule in preset.items()]
            return ByLayer([*rows, (LINEAR_MAPS, Epsilon())], name="rules by layer")
        return as_composite(preset)

    def _row(self, layer: int | str, rule: Any) -> Row:
        paths = self.layers()
        if isinstance(layer, str):
            if layer not in paths:
                raise InputError(f"no layer is named {layer!r}{nearest(layer, paths, listed=3)}")
            path = layer
        elif isinstance(layer, (int, np.integer)) and 0 <= layer < len(paths):
            path = paths[layer]
        else:
            raise InputError(f"no layer has the index {layer!r}: the model has layers 0 to {len(paths) - 1}")
        if isinstance(rule, str):
            if rule not in RULES:
                raise InputError(f"unknown rule {rule!r}; there are {', '.join(RULES)}")
            rule = RULES[rule]
        if not isinstance(rule, Rule):
            raise InputError(f"layer {layer!r}: {rule!r} is no rule")
        return Name(pattern(path)), rule

    def set_composite_rule(self, layer_rules: Mapping[int | str, Any]) -> Explainer:
        """Give rules to layers by their index or path; all other linear maps get epsilon. Returns the explainer."""
        self.composite = self._composite(layer_rules)
        self._lrp = LRP(self._core, self.composite)
        return self

    # -- explaining ----------------------------------------------------------------------------------------------

    def predict(self, data: Any) -> np.ndarray[Any, Any]:
        """The model's raw outputs, [N, outputs]."""
        x = self._tensor(self._batch(data))
        return torch.cat([self._outputs(self._run(part)) for part in x.split(self.batch_size)]).cpu().numpy()

    def explain(self, instance: Any, target: Any = None) -> Result:
        """Explain one instance: an array without a batch dimension, a pandas Series, a dict, or a frame of one row.

        target  index or name of an output; None: the predicted class, or the only output
        """
        return self._explain(self._single(instance), target)[0]

    def explain_batch(self, data: Any, target: Any = None, labels: Sequence[Any] | None = None) -> Results:
        """Explain many instances in one batched pass: an array with them in its first dimension, a frame, or dicts.

        target  as for `explain`, or one for each instance
        labels  what to call the instances; of a frame, its index
        """
        table = self._batch(data)
        if labels is not None:
            if len(labels) != len(table.values):
                raise InputError(f"labels has {len(labels)} entries for {len(table.values)} instances")
            table = table._replace(labels=list(labels))
        return self._explain(table, target)

    def explain_with_layer_relevances(
        self, instance: Any, target: Any = None, layers: Sequence[str] | None = None
    ) -> Result:
        """As `explain`, with relevance at the outputs of layers in `Result.layers`; None: of all that have some."""
        return self._explain(self._single(instance), target, layers)[0]

    def compare_rules(
        self, instance: Any, target: Any = None, rules: Sequence[Any] = ("epsilon", "gamma", "alpha_beta", "z_plus")
    ) -> Comparison:
        """Explain one instance under several rules or presets, given by name or as they are."""
        table = self._single(instance)
        found = Comparison()
        for rule in rules:
            composite = self._composite(rule)
            result = self._explain(table, target, other=(LRP(self._core, composite), composite))[0]
            found[rule if isinstance(rule, str) else result.rules] = result
        return found

    def _explain(
        self,
        table: Table,
        target: Any,
        layers: Sequence[str] | None = (),
        other: tuple[LRP, Composite | None] | None = None,
    ) -> Results:
        lrp, composite = other or (self._lrp, self.composite)
        results: list[Result] = []
        given = _spread(target, len(table.values))
        x = self._tensor(table)
        starts = range(0, len(x), self.batch_size)
        for start in track(starts, len(starts), "explaining") if len(starts) > 1 else starts:
            part = slice(start, start + self.batch_size)
            found, more = self._explain_part(lrp, x[part], table.values[part], given[part], layers)
            _check_used(found, composite)
            results += more
        labels = table.labels or [None] * len(results)
        return Results([replace(r, label=label) for r, label in zip(results, labels, strict=True)])

    def _explain_part(
        self, lrp: LRP, x: Tensor, values: Any, asked: Sequence[Any], layers: Sequence[str] | None
    ) -> tuple[Explanation, list[Result]]:
        raw = self._run(x)
        output = self._outputs(raw)
        targets = self._targets(output, asked)
        one_logit = self._one_logit(output)
        units = torch.zeros_like(targets) if one_logit else targets
        signs = torch.where(one_logit & (targets == 0), -1.0, 1.0).to(output.dtype)
        mask = torch.zeros_like(output, dtype=torch.bool).scatter(1, units[:, None], True)
        found = lrp.explain(x, target=mask.reshape(raw.shape), layers=_patterns(layers))
        if bool((signs < 0).any()):
            _check_mirrored(found)
        relevance = _signed(self._of_columns(found.relevance), signs)
        wanted, strict = (self.layers(), False) if layers is None else (layers, True)
        at = {path: _signed(r, signs) for path in wanted if (r := _only(found, path, strict)) is not None}
        names = self._output_names(output)
        return found, [
            Result(
                feature_names=self.feature_names,
                values=values[i],
                relevance=relevance[i],
                target=int(targets[i]),
                target_name=names[int(targets[i])],
                output=float(found.explained[i] * signs[i]),
                rules=found.plan.composite,
                layers={path: r[i] for path, r in at.items()},
            )
            for i in range(len(x))
        ]

    # -- outputs and targets -------------------------------------------------------------------------------------

    def _run(self, x: Tensor) -> Tensor:
        """The model's output as it is."""
        try:
            with torch.no_grad():
                return self._core(x)
        except Exception as error:
            raise InputError(
                f"the model cannot take instances of shape {tuple(x.shape[1:])}: {type(error).__name__}: {error}"
            ) from error

    def _outputs(self, output: Tensor) -> Tensor:
        """The model's output as [N, outputs]."""
        if not isinstance(output, Tensor) or output.ndim > 2:
            seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"the model's output is {seen}: a table's model gives one value, or one row, an instance. "
                "explain() takes an instance without a batch dimension"
            )
        return output.reshape(-1, 1) if output.ndim < 2 else output

    def _one_logit(self, output: Tensor) -> bool:
        return output.shape[1] == 1 and self.task != "regression" and self.class_names is not None

    def _output_names(self, output: Tensor) -> list[str]:
        count = 2 if self._one_logit(output) else output.shape[1]
        if self.class_names is not None:
            if len(self.class_names) != count:
                raise InputError(f"class_names has {len(self.class_names)} entries, the model {count} classes")
            return list(self.class_names)
        word = "output" if self.task == "regression" or count == 1 else "class"
        return [word] if count == 1 else [f"{word} {i}" for i in range(count)]

    def _targets(self, output: Tensor, asked: Sequence[Any]) -> Tensor:
        """The index of the explained class or output of every instance."""
        names = self._output_names(output)
        if self._one_logit(output):
            predicted = (output[:, 0] > 0).long()
        elif self.task == "regression" and output.shape[1] > 1 and any(t is None for t in asked):
            raise InputError(f"the model predicts {output.shape[1]} values: say which to explain, target=0 or a name")
        else:
            predicted = output.argmax(1)
        chosen = [p if t is None else _find(t, names) for t, p in zip(asked, predicted.tolist(), strict=True)]
        return torch.tensor(chosen, dtype=torch.long, device=output.device)

    # -- tensors -------------------------------------------------------------------------------------------------

    def _batch(self, data: Any) -> Table:
        return batch(data, self.feature_names, encoded=self._converted is not None)

    def _single(self, instance: Any) -> Table:
        return single(instance, self.feature_names, encoded=self._converted is not None)

    def _tensor(self, table: Table) -> Tensor:
        """In the model's precision, on its device, after the estimator's steps that go column by column."""
        known = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        dtype = torch.get_default_dtype() if known is None else known.dtype
        if self._converted is not None and len(table.values):
            x = self._converted.prepare(table.rows)
        else:
            x = torch.tensor(np.ascontiguousarray(table.values.astype(np.float64)))
        return x.to(dtype=dtype, device=None if known is None else known.device)

    def _of_columns(self, relevance: Tensor) -> Tensor:
        return relevance if self._converted is None else self._converted.of_columns(relevance)


def named(name: str) -> Composite:
    """A preset or rule by its name.

    Raises:
        InputError: with the nearest names.
    """
    if name in RULES:
        return Composite(RULES[name], name=name)
    known = {k: v for k, v in vars(presets).items() if isinstance(v, type) and issubclass(v, presets.Preset)}
    if name in known:
        return known[name]()
    raise InputError(f"no rule or preset is named {name!r}{nearest(name, [*RULES, *known], listed=len(RULES))}")


def _names(names: Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str):
        raise InputError(f"{what} must be a list of names, got the text {names!r}")
    found = tuple(str(n) for n in names)
    if len(set(found)) != len(found):
        twice = next(n for n in found if found.count(n) > 1)
        raise InputError(f"{what} holds {twice!r} twice")
    return found


def _spread(target: Any, count: int) -> list[Any]:
    """One target for every instance."""
    if target is None or isinstance(target, (str, int, np.integer)):
        return [target] * count
    try:
        found = list(target)
    except TypeError:
        raise InputError(f"target must be an index, a name, or one of them an instance, got {target!r}") from None
    if len(found) != count:
        raise InputError(f"target has {len(found)} entries for {count} instances")
    return found


def _find(target: Any, names: Sequence[str]) -> int:
    if isinstance(target, str):
        if target not in names:
            raise InputError(f"no class is named {target!r}{nearest(target, names, listed=5)}")
        return list(names).index(target)
    if isinstance(target, bool) or not isinstance(target, (int, np.integer, Tensor)):
        raise InputError(f"target must be an index or a name, got {target!r}")
    index = int(target)
    if not 0 <= index < len(names):
        raise InputError(f"target {index} is out of range: the model has outputs 0 to {len(names) - 1}")
    return index


def _check_used(found: Explanation, composite: Composite | None) -> None:
    """A rule that was given to a layer must have found something there to serve."""
    if not isinstance(composite, ByLayer):
        return
    used = {decision.row for _, decision in found.plan}
    for i, (selector, rule) in enumerate(composite.rows[:-1]):
        if i not in used:
            raise InputError(f"{rule} was given to {selector!r}, where nothing ran that it serves")


def _check_mirrored(found: Explanation) -> None:
    """Class 0 of one logit is its negative: the map's mirror image, if the last linear map's rule has one."""
    last = [d.rule for s, d in found.plan if s.family == "linear" and s.kind != "scale"]
    rule = last[-1] if last else None
    mirrored = rule is None or isinstance(rule, Epsilon) or (isinstance(rule, Gamma) and rule.variant == "generalised")
    if isinstance(rule, LinearRule) and not mirrored and not isinstance(rule, (Flat, WSquare)):
        raise InputError(
            f"class 0 of a model with one logit is explained by the logit's negative, and {rule} on the last linear "
            "map treats the two signs differently: explain class 1, give that map epsilon, or a model with two outputs"
        )


def _signed(relevance: Any, signs: Tensor) -> np.ndarray[Any, Any]:
    return (relevance * signs.reshape(-1, *(1,) * (relevance.ndim - 1))).cpu().numpy()


def _patterns(layers: Sequence[str] | None) -> list[str]:
    return ["*"] if layers is None else [pattern(path) for path in layers]


def _only(found: Explanation, path: str, strict: bool) -> Tensor | None:
    """Relevance at a layer's output; the sum over its runs where it ran several times in one shape."""
    relevance = found.layers.get(path)
    if isinstance(relevance, list) and all(isinstance(r, Tensor) and r.shape == relevance[0].shape for r in relevance):
        relevance = torch.stack(relevance).sum(0)
    if isinstance(relevance, Tensor):
        return relevance
    if strict:
        raise InputError(f"no single relevance at layer {path!r}: it did not run, or gave several tensors")
    return None
