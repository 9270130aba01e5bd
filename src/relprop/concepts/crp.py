r"""Concept relevance propagation: what chosen units inside a model have to do with its output.

A condition theta names places and the units of each that relevance has to pass. At a place l with the units theta_l

    R_{i <- j}(x | theta) = z_ij / z_j  sum_{c in theta_l} delta_jc  R_j(x | theta)

so the maps of all units of a layer through which everything passes add up to the unconditional one. Units may be
channels, neurons, attention heads, tokens, directions or masks (`relprop.units`), at any place of the model.
[Achtibat et al. 2023, "From attribution maps to human-understandable explanations through CRP", eq. 4-6]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from relprop.concepts.together import together
from relprop.errors import InputError
from relprop.explain import LRP, Explanation, check_lrp
from relprop.explain.forward import Request
from relprop.progress import track
from relprop.units import Channels, Rows, Units, as_units

By = Literal["positive", "absolute", "negative"]
Condition = dict[str, Units]
TARGET = "y"
BUDGET = 1 << 30


@dataclass(frozen=True)
class TopN:
    """The `n` most relevant units of a place, one condition each: those of every sample, ranked for itself.

    units  how the place is divided
    by     "positive": most relevance; "negative": least; "absolute": most of either sign. Ties go to the lower index
    """

    n: int
    units: Units = field(default_factory=Channels)
    by: By = "positive"

    def __post_init__(self) -> None:
        if type(self.n) is not int or self.n < 1:
            raise InputError(f"TopN: n must be a positive integer, got {self.n!r}")
        if self.by not in ("positive", "absolute", "negative"):
            raise InputError(f'TopN: by must be "positive", "absolute" or "negative", got {self.by!r}')

    def choose(self, relevance: Tensor, where: str = "here") -> Tensor:
        """The units in the order of their rank, [samples, n], by their relevance [samples, units]."""
        count = relevance.shape[1]
        if self.n > count:
            raise InputError(f"TopN({self.n}) at {where!r}: there are only {count} units")
        key = {"positive": relevance, "absolute": relevance.abs(), "negative": -relevance}[self.by]
        return key.argsort(dim=1, descending=True, stable=True)[:, : self.n]


@dataclass(frozen=True, init=False)
class Indexed:
    """These units of a place, one condition each (where a list of them is one condition on all of them).

    Indexed(3, 7)                   channels 3 and 7
    Indexed(0, 1, units=Heads(of=12))
    """

    index: tuple[Any, ...]
    units: Units

    def __init__(self, *index: Any, units: Units | None = None) -> None:
        found = tuple(index[0]) if len(index) == 1 and isinstance(index[0], (list, range)) else index
        if not found:
            raise InputError("Indexed() names no units: give their indices")
        object.__setattr__(self, "index", found)
        object.__setattr__(self, "units", Channels() if units is None else units)

    def each(self) -> list[Units]:
        return [self.units.at(i) for i in self.index]


@dataclass
class Conditional(Sequence[Explanation]):
    """Explanations, one for each condition.

    conditions  what relevance had to pass in each, as a mapping from places to units
    """

    conditions: list[Condition]
    explanations: list[Explanation]

    def __len__(self) -> int:
        return len(self.explanations)

    def __getitem__(self, i: Any) -> Any:
        return Conditional(self.conditions[i], self.explanations[i]) if isinstance(i, slice) else self.explanations[i]

    @property
    def relevance(self) -> Tensor:
        """[conditions, samples, ...], for models with one input."""
        found = [e.relevance for e in self.explanations]
        if not all(isinstance(r, Tensor) for r in found):
            raise InputError("the model has several inputs: read .relevance of each explanation")
        return torch.stack(found)

    @property
    def titles(self) -> list[str]:
        """What each condition asked for, in a line."""
        return [" · ".join(f"{place}: {_short(units)}" for place, units in c.items()) or "all"
                for c in self.conditions]  # fmt: skip

    def picture(self, photo: Any = None, sample: int = 0, **options: Any) -> Any:
        """The maps of one sample beside each other: a matplotlib Figure. options: of `relprop.render.grid`."""
        from relprop import render

        options = {"titles": self.titles, **options}
        return render.grid([r[sample] for r in self.relevance], photo=photo, **options)


class CRP:
    """Concept relevance propagation with the rules of an `LRP`.

    budget   bytes that the forward of a batch of conditions may keep for its backward, 1 GiB if nothing is said. The
             samples are repeated as often as this allows, so that several conditions go through in one backward.
             0: one at a time. A model whose samples cannot be repeated is propagated one condition at a time as well
    """

    def __init__(self, lrp: LRP, *, budget: int = BUDGET) -> None:
        check_lrp(lrp, "CRP")
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
            raise InputError(f"budget must be a number of bytes, got {budget!r}")
        self.lrp, self.budget = lrp, budget

    def __repr__(self) -> str:
        return f"CRP({self.lrp!r})"

    def explain(
        self,
        *args: Any,
        conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        target: Any = None,
        seed: Any = "value",
        layers: Sequence[str] | str = (),
        exclude_parallel: bool = True,
        start_at: str | None = None,
        stop_at: Sequence[str] | str = (),
        wrt: Any = None,
        unknown: Literal["error", "gradient"] = "error",
        **kwargs: Any,
    ) -> Conditional:
        """One explanation for each condition.

        args, kwargs  what the model takes
        conditions    mappings from places to units that relevance has to pass, or one of them:
                      {"layer4": 12}                         channel 12
                      {"layer4": [12, 30], "layer2": 5}      channel 12 or 30, and then channel 5
                      {"layer4": TopN(5)}                    five conditions: the most relevant channels of each sample,
                                                             under whatever else the condition says
                      {"h.3.attn": Indexed(0, 2, units=Heads(of=12))}   two conditions
                      {"layer4": 12, "y": 281}               with a target of its own; a list: these outputs together
        others        as for `LRP.explain`

        Explanations that were propagated together share their books: the audit is that of the batch, and says so.

        Raises:
            InputError: for places, units or masks that do not fit, or more units than there are.
        """
        if unknown not in ("error", "gradient"):
            raise InputError(f'unknown must be "error" or "gradient", got {unknown!r}')
        request = Request(
            targets=(target,), seed=seed, layers=_texts(layers), exclude_parallel=exclude_parallel, start=start_at,
            stop=_texts(stop_at), wrt=wrt, lenient=unknown == "gradient",
        )  # fmt: skip
        given = [conditions] if isinstance(conditions, Mapping) else list(conditions)
        if not given or not all(isinstance(c, Mapping) for c in given):
            raise InputError(
                f"conditions must be a mapping from places to units, or a list of them, got {conditions!r}"
            )
        asked = [found for c in given for found in self._expand(c, request, args, kwargs)]
        each = self._each(asked, request, args, kwargs)
        explained = dict(track(each, len(asked), "explaining") if len(asked) > 1 else each)
        return Conditional([c for c, _ in asked], [explained[i] for i in range(len(asked))])

    def _each(
        self, asked: Sequence[tuple[Condition, Any]], request: Request, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[int, Explanation]]:
        """Explanations with the positions of their conditions, as they are made."""
        for group in _groups(asked):
            shared = replace(request, targets=(asked[group[0]][1],))
            each = together(self.lrp, [asked[i][0] for i in group], shared, args, kwargs, self.budget)
            yield from zip(group, each, strict=True)

    def relevance(
        self,
        *args: Any,
        layer: str,
        units: Any = None,
        target: Any = None,
        conditions: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Tensor:
        """The relevance of every concept of a layer: [samples, units].

        layer       a place that names one tensor; of a module that runs several times, the runs are added up
        units       how it is divided, channels if nothing is said
        conditions  what relevance has to pass before
        options     of `LRP.explain`, and what the model takes by keyword
        """
        e = self.lrp.explain(*args, target=target, layers=layer, conditions=conditions, **options)
        return by_unit(e, layer, Channels() if units is None else as_units(units))

    def _expand(
        self, condition: Mapping[str, Any], request: Request, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[Condition, Any]]:
        """The conditions that one stands for, each with its target."""
        condition, target = dict(condition), request.targets[0]
        if TARGET in condition and TARGET not in dict(self.lrp.model.named_modules()):
            if target is not None:
                raise InputError(f"give the target once: as target= or as {TARGET!r} in the conditions")
            target = condition.pop(TARGET)
            if isinstance(target, (list, range)):  # these outputs, as a list of units is these units
                target = target[0] if len(target) == 1 else (list(target),)
        tops = {place: units for place, units in condition.items() if isinstance(units, TopN)}
        if len(tops) > 1:
            raise InputError(f"a condition may hold one TopN, got them at {', '.join(map(repr, tops))}: choose the "
                             "units of one place, and then those of the next under each")  # fmt: skip
        several = {k: v.each() for k, v in condition.items() if isinstance(v, Indexed)}
        fixed = {k: as_units(v) for k, v in condition.items() if not isinstance(v, (TopN, Indexed))}
        for picked in itertools.product(*several.values()):
            chosen = fixed | dict(zip(several, picked, strict=True))
            for place, top in tops.items():
                base = replace(request, targets=(target,), layers=(place,), conditions=(chosen,))
                for units in self._top(place, top, base, args, kwargs):
                    yield _ordered(condition, chosen | {place: units}), target
            if not tops:
                yield _ordered(condition, chosen), target

    def _top(self, place: str, top: TopN, request: Request, args: tuple[Any, ...], kwargs: Any) -> Iterator[Units]:
        (e,) = self.lrp.explain_each(request, args, kwargs)
        ranks = top.choose(by_unit(e, place, top.units), place).T.tolist()
        for samples in ranks:
            each = tuple(top.units.at(i) for i in samples)
            yield each[0] if len(set(samples)) == 1 else Rows(each)


def by_unit(e: Explanation, place: str, units: Units) -> Tensor:
    """The relevance of every unit of a place that an explanation shows: [samples, units]."""
    names = [n for n in e.layers if n == place]
    if not names:
        raise InputError(f"{place!r} stands for {', '.join(map(repr, e.layers)) or 'no place'}: name one place")
    read = (e.layers[place], e.activations[place], e.gradients[place])
    runs = list(zip(*read, strict=True)) if isinstance(read[0], list) else [read]
    samples = len(e.explained) if e.explained.ndim else 1
    total: Any = 0
    for r, values, g in runs:
        if not isinstance(r, Tensor):
            raise InputError(f"{place!r} hands on {len(r)} tensors: name an operation or a module below it")
        try:
            found = units.read(r, values, g)
        except InputError as error:
            raise InputError(f"at {place!r}: {error}") from None
        if samples == 1:
            found = found.sum(0, keepdim=True)
        elif len(found) != samples:
            raise InputError(f"the tensor at {place!r}, {tuple(r.shape)}, is not divided by its {samples} samples: "
                             "give one sample at a time")  # fmt: skip
        total = total + found
    return total


def _ordered(asked: Mapping[str, Any], chosen: Mapping[str, Units]) -> Condition:
    return {place: chosen[place] for place in asked}


def _groups(asked: Sequence[tuple[Condition, Any]]) -> list[list[int]]:
    """The positions of conditions that are explained together: those on the same places under the same target, and of
    each target those that stand alone."""
    groups: list[list[int]] = []
    for i, (condition, target) in enumerate(asked):
        fitting = (g for g in groups if _same(asked[g[0]][1], target) and list(asked[g[0]][0]) == list(condition))
        group = next(fitting, None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    merged: list[list[int]] = []
    for group in groups:
        alone = (g for g in merged if len(group) == 1 and _same(asked[g[0]][1], asked[group[0]][1]))
        others = next((g for g in alone if len({tuple(asked[i][0]) for i in g}) == len(g)), None)
        if others is None:
            merged.append(group)
        else:
            others += group
    return merged


def _same(target: Any, other: Any) -> bool:
    return target is other or (isinstance(target, int) and isinstance(other, int) and target == other)


def _short(units: Units) -> str:
    return ", ".join(map(str, units.index)) if units.index else str(units)


def _texts(given: Sequence[str] | str) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
