"""Captum's `LRP` and `LayerLRP`, carried out by relprop.

The same constructor, `attribute`, target forms and convergence delta, so they work inside Captum's `NoiseTunnel`,
its metrics and its visualisation. Any model runs, as it is; rules come from a composite, and from `module.rule`
attributes where the model has them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relprop.adapters.modules import path_of, pattern
from relprop.composite import Composite, Row, as_composite
from relprop.errors import InputError, RuleError
from relprop.explain import LRP as Engine
from relprop.explain import Explanation
from relprop.extras import require
from relprop.numerics import Epsilons
from relprop.ops.maps import LinearMap
from relprop.presets import UniformEpsilon
from relprop.record.places import INPUT
from relprop.rules import EpsilonPool, Pass, Signed
from relprop.rules.steps import StepRule
from relprop.selectors import Kind, Name

_attr = require("captum.attr", "captum", "relprop.captum")
_rules = require("captum.attr._utils.lrp_rules", "captum", "relprop.captum")
_log = require("captum.log", "captum", "relprop.captum")
_GradientAttribution: Any = _attr.GradientAttribution
_LayerAttribution: Any = _attr.LayerAttribution

#: Captum's epsilon where none is given.
EPSILON = 1e-9


@dataclass(frozen=True)
class Manipulated(StepRule):
    """A Captum rule: the map's parameters as the rule's own `_manipulate_weights` leaves them, on a copy.

    This is how Captum's gamma and alpha-1-beta-0 rules are defined, and how its users define theirs.
    """

    rule: Any = field(default=None, compare=False)
    module: nn.Module | None = field(default=None, compare=False, repr=False)
    epsilon: Epsilons = EPSILON

    def modify_layer(self, op: LinearMap) -> tuple[Tensor, Tensor | None]:
        shim: Any = copy.copy(self.module)
        shim._parameters = {
            "weight": nn.Parameter(op.weight.detach().clone(), requires_grad=False),
            "bias": None if op.bias is None else nn.Parameter(op.bias.detach().clone(), requires_grad=False),
        }
        copy.copy(self.rule)._manipulate_weights(shim, (), None)
        return shim.weight.data, None if shim.bias is None else shim.bias.data

    def __str__(self) -> str:
        return f"captum {type(self.rule).__name__}"


def rows_of(model: nn.Module) -> list[Row]:
    """The rows that a model's `module.rule` attributes stand for."""
    rows: list[Row] = []
    for path, module in model.named_modules():
        rule = getattr(module, "rule", None)
        if rule is None or isinstance(rule, (Tensor, nn.Module)):
            continue
        if not isinstance(rule, _rules.PropagationRule):
            raise RuleError(
                f"{path or 'the model'}.rule is {rule!r}: it must be one of Captum's propagation rules; "
                "rules of relprop are given by a composite"
            )
        rows += _rows(path, module, rule)
    return rows


def _rows(path: str, module: nn.Module, rule: Any) -> list[Row]:
    name, epsilon = Name(pattern(path)), float(rule.STABILITY_FACTOR)
    if isinstance(rule, _rules.IdentityRule):
        return [(name, Pass())]
    base = _rules.PropagationRule
    for step in ("_create_backward_hook_input", "_create_backward_hook_output", "forward_hook"):
        if getattr(type(rule), step) is not getattr(base, step):
            raise RuleError(
                f"{path}.rule: {type(rule).__name__} overrides {step}, which works on Captum's own hooks. "
                "Write the rule as a relprop.StepRule and give it by a composite"
            )
    linear = Manipulated(epsilon=epsilon, rule=rule, module=module)
    return [
        (name, linear),
        (name & Kind("scale"), linear),
        (name, EpsilonPool(epsilon)),
        (name, Signed(epsilon)),
    ]


class WithRules(Composite):
    """A composite after the rows of a model's `module.rule` attributes."""

    def __init__(self, rows: Sequence[Row], then: Composite) -> None:
        super().__init__([*rows, *then.rows], name=then.name if not rows else f"{then.name} after module.rule")
        self.reading = then.reading


class LRP(_GradientAttribution):
    """`captum.attr.LRP` for any model, as it is.

    model      an `nn.Module`
    composite  a preset, a `Composite`, a rule or rows, as `relprop.LRP` takes it; None: epsilon on every linear map
               with Captum's 1e-9. Rules in `module.rule` come before it, and stay on the modules
    """

    def __init__(self, model: nn.Module, composite: Any = None) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"LRP needs the model itself, a torch.nn.Module, got {type(model).__name__}")
        _GradientAttribution.__init__(self, model)
        self.model = model
        self._composite = UniformEpsilon(EPSILON) if composite is None else as_composite(composite)
        rows_of(model)  # a rule of another kind is refused now

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def has_convergence_delta(self) -> bool:
        return True

    @_log.log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
    ) -> Any:
        """Relevance of the inputs: a tensor for a tensor, a tuple for a tuple, and the delta of each sample if asked.

        inputs   a tensor or a tuple of them, samples first. Token ids get the sum over their embedding
        target   None for one value a sample; an int, a tuple of ints, a tensor or list of ints, a list of tuples; and
                 every form that `relprop.LRP.explain` has
        additional_forward_args  further arguments of the model, which get no attribution
        verbose  print the rule of every operation
        """
        call = Call(inputs, additional_forward_args, target)
        found = self._explain(call, (), verbose)
        relevance = call.attributions(found)
        if not return_convergence_delta:
            return relevance
        return relevance, self.compute_convergence_delta(relevance, found.explained)

    def compute_convergence_delta(self, attributions: Tensor | tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The explained output minus the sum of attributions, for each sample."""
        tensors = attributions if isinstance(attributions, tuple) else (attributions,)
        return output.flatten() - torch.stack([t.reshape(t.shape[0], -1).sum(1) for t in tensors]).sum(0)

    def attribute_future(self) -> None:
        raise NotImplementedError("attribute_future is not implemented for LRP")

    def _explain(self, call: Call, layers: Sequence[str], verbose: bool) -> Explanation:
        engine = Engine(self.model, WithRules(rows_of(self.model), self._composite))
        found = engine.explain(*call.args, target=call.engine_target(self.model), wrt=call.positions, layers=layers)
        if call.target is None and found.output.ndim > 1 and found.output[0].numel() != 1:
            raise InputError(
                f"target is needed: the output has shape {tuple(found.output.shape)}, more than one value a sample"
            )
        if verbose:
            print(found.plan)
        return found


class LayerLRP(LRP, _LayerAttribution):
    """`captum.attr.LayerLRP`: relevance at the output, or the input, of one layer or of several.

    layer  a module or its path, or a list of them; None: every module that holds no other, of those that run
    """

    def __init__(self, model: nn.Module, layer: Any, composite: Any = None) -> None:
        LRP.__init__(self, model, composite)
        self.layer = layer
        self._all = layer is None
        if layer is None:
            layer = [m for m in model.modules() if not list(m.children())]
        self.device_ids = getattr(model, "device_ids", None)
        several = isinstance(layer, (list, tuple))
        self._paths = [path_of(model, entry) for entry in (layer if several else [layer])]
        self._several = several

    @_log.log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: bool = False,
    ) -> Any:
        """Relevance at the layer, in the structure of what goes in or out of it; a list for a list of layers.

        A layer that runs several times in a forward gives a tuple, one entry a run.
        """
        call = Call(inputs, additional_forward_args, target)
        end = INPUT if attribute_to_layer_input else ""
        asked = ["*"] if self._all else [pattern(path) for path in self._paths]
        found = self._explain(call, [place + end for place in asked], verbose)
        paths = [path for path in self._paths if not self._all or path + end in found.layers]
        relevance = [_at(found, path + end) for path in paths]
        result = relevance if self._several else relevance[0]
        if not return_convergence_delta:
            return result
        deltas = [self.compute_convergence_delta(r, found.explained) for r in relevance]
        return result, deltas if self._several else deltas[0]


def _at(found: Explanation, name: str) -> Any:
    """Relevance at a place; a tuple where it was passed several times."""
    relevance = found.layers[name]
    return tuple(relevance) if isinstance(relevance, list) else relevance


class Call:
    """One call in Captum's form: what is explained, what else the model takes, and which output."""

    def __init__(self, inputs: Any, additional: Any, target: Any) -> None:
        self.tuple = isinstance(inputs, tuple)
        self.inputs: tuple[Tensor, ...] = inputs if self.tuple else (inputs,)
        for i, x in enumerate(self.inputs):
            if not isinstance(x, Tensor):
                raise InputError(f"inputs must be a tensor or a tuple of tensors, entry {i} is {type(x).__name__}")
        extra = additional if isinstance(additional, tuple) else () if additional is None else (additional,)
        self.args = (*self.inputs, *extra)
        self.positions = [str(i) for i in range(len(self.inputs))]
        self.target = target

    def attributions(self, found: Explanation) -> Any:
        """Relevance in the form of the inputs; for token ids summed over the width of the embedding."""
        relevance = found.relevance if isinstance(found.relevance, tuple) else (found.relevance,)
        shaped = tuple(
            r.sum(-1) if r.ndim == x.ndim + 1 and not x.is_floating_point() else r
            for r, x in zip(relevance, self.inputs, strict=True)
        )
        return shaped if self.tuple else shaped[0]

    def engine_target(self, model: nn.Module) -> Any:
        """Captum's forms of a target as relprop's; numpy's numbers and arrays too."""
        target = self.target
        if isinstance(target, np.generic | np.ndarray):
            target = torch.as_tensor(np.asarray(target))
        if isinstance(target, Tensor) and target.numel() == 1:
            return int(target)
        if isinstance(target, list) and target and isinstance(target[0], tuple):
            with torch.no_grad():
                output = model(*self.args)
            if len(target) != len(output):
                raise InputError(f"a list of targets needs one a sample: {len(target)} targets, {len(output)} samples")
            mask = torch.zeros(output.shape, dtype=torch.bool, device=output.device)
            for i, index in enumerate(target):
                mask[(i, *index)] = True
            return mask
        return target
