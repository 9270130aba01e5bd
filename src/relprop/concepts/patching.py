r"""Attribution patching: what would become of a metric if a part of the model took its values from another input.

Activation patching runs the model once for every part. To first order the effect of all of them is known from one
forward on each input and one backward:

    effect_i  ~  (a'_i - a_i) g_i         a, a' the values on the two inputs, g the gradient of the metric at a

With the native gradient this is attribution patching. It fails where layers of the model are far from linear (norms,
gates, softmax). RelP takes for g the modified gradient of layer-wise relevance propagation, whose rules look at the
whole value and not at its derivative. [Rezaei Jafari et al. 2025, "RelP: Faithful and efficient circuit discovery via
relevance patching", eq. 5]

The sign: positive where putting the other input's values in raises the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop.composite import Composite
from relprop.errors import InputError, nearest
from relprop.explain import LRP, check_lrp
from relprop.explain.arguments import refuse_misfit
from relprop.explain.forward import Request
from relprop.explain.seed import main_output
from relprop.progress import track
from relprop.record import place
from relprop.record.places import INPUT
from relprop.rules import Gradient
from relprop.selectors import All, Kind
from relprop.units import Channels, Mask, as_units

Given = Any


class RelP(Composite):
    """The rules of RelP: statistics of norms constant, activations by the identity rule, half to each factor of a gate,
    LRP-0 for linear maps, and attention by its own gradient, so that no books balance.

    [Rezaei Jafari et al. 2025, table 1]
    """

    reading: Literal["gradient"] = "gradient"

    def __init__(self) -> None:
        super().__init__([(Kind("attention", "softmax", "matmul"), Gradient())], name="RelP")


def relp(model: nn.Module) -> LRP:
    """With this, `attribution_patching` is RelP."""
    return LRP(model, RelP())


class NativeGradient(Composite):
    """The model's own gradient, everywhere: no relevance, and no books to balance."""

    reading: Literal["gradient"] = "gradient"

    def __init__(self) -> None:
        super().__init__([(All(), Gradient())], name="native gradient")


def native_gradient(model: nn.Module) -> LRP:
    """With this, `attribution_patching` is what that name stands for in the literature."""
    return LRP(model, NativeGradient())


@dataclass
class PatchEffects:
    """The estimated effect of every value at the places asked for.

    effects         by place, [samples, ...] as the values are: (a' - a) g
    metric, other   the metric on the input and on the other one, [samples]
    shift, gradients   by place: a' - a, and g
    """

    effects: dict[str, Tensor]
    metric: Tensor
    other: Tensor
    shift: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def by(self, units: Any = None) -> dict[str, Tensor]:
        """The effect of every unit, by place: [samples, units]. units: how places are divided, channels by default."""
        divided = Channels() if units is None else as_units(units)
        return {name: divided.relevance(self.shift[name], self.gradients[name]) for name in self.effects}

    def table(self, units: Any = None) -> tuple[list[str], Tensor]:
        """The places' names, and [places, units]: effects summed over the samples."""
        rows = {name: effect.sum(0) for name, effect in self.by(units).items()}
        widths = {len(row) for row in rows.values()}
        if len(widths) > 1:
            raise InputError(f"the places have different numbers of units ({sorted(widths)}): read .by(units) instead")
        return list(rows), torch.stack(list(rows.values()))

    def strongest(self, count: int = 10, units: Any = None) -> list[tuple[str, int, float]]:
        """(place, unit, effect summed over the samples), those with most effect of either sign first."""
        found = [(name, i, float(v)) for name, e in self.by(units).items() for i, v in enumerate(e.sum(0))]
        if not 1 <= count <= len(found):
            raise InputError(f"count must be between 1 and the {len(found)} units there are, got {count}")
        return sorted(found, key=lambda row: -abs(row[2]))[:count]

    def picture(self, units: Any = None, *, across: Sequence[str] | None = None, **options: Any) -> Any:
        """A heat map, a line a place and a column a unit: a matplotlib Figure. options: of `relprop.render.matrix`."""
        from relprop import render

        names, table = self.table(units)
        options = {"title": "effect of patching", "total": False, **options}
        figure = render.matrix(table, names, across, **options)
        for bar in figure.axes[1:]:
            bar.set_ylabel("effect", fontsize=7)
        return figure

    def save(self, path: str | Path, units: Any = None, **options: Any) -> Path:
        """Draw it into a file: .png, .svg, .pdf."""
        from relprop.render.figure import check_path, save_figure

        return save_figure(self.picture(units, **options), check_path(path))


def attribution_patching(
    lrp: LRP, given: Given, other: Given, places: Sequence[str] | str, *, metric: Any = None, **options: Any
) -> PatchEffects:
    """Estimate the effect of patching every value at the places, by two forwards and one backward.

    lrp      its rules make the gradient: `relp(model)`, `native_gradient(model)`, or any `LRP`. Rules that conserve
             share relevance where effects do not: AttnLRP gives the values half of what attention hands on
    given    the input on which the metric is looked at: a tensor, a tuple of arguments, or a dict of keywords
    other    the input whose values are put in, of the same shape
    places   as for `LRP.explain(layers=)`; each must name tensors that pass once
    metric   as `target` of `LRP.explain`: of a language model mostly a difference of two logits,
             lambda out: out.logits[:, -1, 5] - out.logits[:, -1, 7]
    options  of `LRP.explain`

    Raises:
        InputError: for inputs whose values at a place differ in shape, or a place that several tensors pass.
    """
    check_lrp(lrp, "attribution patching", "relp(model), native_gradient(model) or LRP(...)")
    args, kwargs = _call(given)
    names = (places,) if isinstance(places, str) else tuple(places)
    if not names:
        raise InputError("no places are named: give those whose values are to be patched")
    e = lrp.explain(*args, target=metric, layers=names, **kwargs, **options)
    others, output = _values(lrp, other, names, metric)
    effects, shift, gradients = {}, {}, {}
    for name, values in e.activations.items():
        if not isinstance(values, Tensor):
            raise InputError(f"several tensors pass {name!r}: name operations of it, or modules below it")
        if name not in others or others[name].shape != values.shape:
            seen = tuple(others[name].shape) if name in others else "nothing"
            raise InputError(
                f"at {name!r} the input gives {tuple(values.shape)} and the other one {seen}: both must have the same "
                "shape, token by token"
            )
        shift[name], gradients[name] = others[name] - values, e.gradients[name]
        effects[name] = shift[name] * gradients[name]
    return PatchEffects(effects, e.explained, output, shift, gradients)


def activation_patching(
    model: nn.Module | LRP,
    given: Given,
    other: Given,
    places: Sequence[str] | str,
    *,
    metric: Any = None,
    units: Any = None,
) -> dict[str, Tensor]:
    """The true effect of patching each unit, by place: [samples, units]. One forward for every unit.

    model   it, or an `LRP` of it
    places  modules ("layer4"), or what they are given ("layer4:in"); patterns allowed
    units   how a place is divided: channels by default; with indices, those units alone
    metric  as for `attribution_patching`

    The same sign: the metric with the unit's values of the other input, less the metric without.
    """
    if isinstance(model, LRP):
        model = model.model
    if not isinstance(model, nn.Module):
        raise InputError(f"activation patching takes a torch.nn.Module, got {type(model).__name__}")
    divided = Channels() if units is None else as_units(units)
    wanted = [p for text in ([places] if isinstance(places, str) else places) for p in _modules(model, text)]
    with torch.no_grad():
        before = _metric(_run(model, given), metric)
        mine, theirs = _kept(model, given, wanted), _kept(model, other, wanted)
        chosen = {}
        for name in wanted:
            if name not in mine or mine[name].shape != theirs[name].shape:
                raise InputError(f"at {name!r} the two inputs do not give values of one shape, or nothing passed it")
            chosen[name] = divided.index or tuple(range(divided.count(mine[name])))
        every = [(name, i) for name, index in chosen.items() for i in index]
        effects: dict[str, list[Tensor]] = {name: [] for name in wanted}
        for name, i in track(every, len(every), "patching"):
            unit = divided if isinstance(divided, Mask) else divided.at(i)
            patched = mine[name] + unit.part(theirs[name] - mine[name])
            effects[name].append(_metric(_run(model, given, {name: patched}), metric) - before)
    return {name: torch.stack(each, 1) for name, each in effects.items()}


# -- how it is done ----------------------------------------------------------------------------------------------------


def _call(given: Given) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(given, Mapping):
        return (), dict(given)
    return (given, {}) if isinstance(given, tuple) else ((given,), {})


def _values(lrp: LRP, given: Given, places: tuple[str, ...], metric: Any) -> tuple[dict[str, Tensor], Tensor]:
    """The values at places, and the metric, by a forward alone."""
    args, kwargs = _call(given)
    request = Request(targets=(metric,), seed="value", layers=places, lenient=True)
    forward = lrp.recorded(request, args, kwargs)
    captures = forward.recorder.captures
    found = {name: runs[0][0][-1].detach() for name, runs in captures.found.items() if runs and runs[0] and runs[0][0]}
    (seed,) = forward.seeds
    return found, _summed(seed.tensor.detach() * seed.g)


def _summed(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1) if values.ndim > 1 else values


def _metric(output: Any, metric: Any) -> Tensor:
    if callable(metric) and not isinstance(metric, Tensor):
        found = metric(output)
        if not isinstance(found, Tensor):
            raise InputError(f"the metric's function returned {type(found).__name__}; it must return a tensor")
        return _summed(found)
    tensor = main_output(output)
    if isinstance(metric, int) and not isinstance(metric, bool):
        return _summed(tensor[..., metric])
    if isinstance(metric, tuple):
        return _summed(tensor[(slice(None), *metric)])
    raise InputError(
        f"activation patching takes a metric as an index, a tuple or a function of the output, got metric={metric!r}"
    )


def _modules(model: nn.Module, text: str) -> list[str]:
    """The places that a text names: modules, or their inputs."""
    found = place(model, text, "places", parameters=False)
    if found.kind not in ("output", "input"):
        paths = [name for name, _ in model.named_modules()]
        raise InputError(
            f"{text!r} is no module: only what modules return or are given can be exchanged{nearest(text, paths)}"
        )
    end = INPUT if found.kind == "input" else ""
    return [name + end for name, _ in model.named_modules() if found.fits(found.kind, name)]


def _run(model: nn.Module, given: Given, patches: Mapping[str, Tensor] | None = None) -> Any:
    with ExitStack() as hooks:
        for name, patched in (patches or {}).items():
            _hook(hooks, model, name, partial(_instead, patched))
        return _output(model, given)


def _output(model: nn.Module, given: Given) -> Any:
    args, kwargs = _call(given)
    try:
        return model(*args, **kwargs)
    except Exception as error:
        refuse_misfit(error, model, "activation_patching", (), args, kwargs)
        raise


def _instead(patched: Tensor, values: Tensor) -> Tensor:
    return patched


def _kept(model: nn.Module, given: Given, places: Sequence[str]) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}

    def keep(name: str, values: Tensor) -> None:
        if name in kept:
            raise InputError(f"{name!r} runs several times: patching needs places that are passed once")
        kept[name] = values.clone()

    with ExitStack() as hooks:
        for name in places:
            _hook(hooks, model, name, partial(keep, name))
        _output(model, given)
    return kept


def _hook(hooks: ExitStack, model: nn.Module, name: str, change: Callable[[Tensor], Tensor | None]) -> None:
    """Let `change` see, and replace, the first tensor that passes a place."""
    module = model.get_submodule(name.removesuffix(INPUT))

    def on_output(_: nn.Module, args: Any, output: Any) -> Any:
        return _replaced(output, change)

    def on_input(_: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return _replaced(args, change), kwargs
        key = next((k for k, v in kwargs.items() if isinstance(v, Tensor)), None)
        return (args, kwargs | {key: _replaced(kwargs[key], change)}) if key else None

    if name.endswith(INPUT):
        handle: Any = module.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(on_output)
    hooks.callback(handle.remove)


def _replaced(value: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
    if isinstance(value, Tensor):
        new = change(value)
        return value if new is None else new
    if isinstance(value, tuple):
        at = next((i for i, v in enumerate(value) if isinstance(v, Tensor)), None)
        return value if at is None else (*value[:at], _replaced(value[at], change), *value[at + 1 :])
    raise InputError(f"a {type(value).__name__} passes here: patching replaces tensors, and the first one of a tuple")
