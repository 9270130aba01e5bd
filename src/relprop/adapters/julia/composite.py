"""Composites of primitives: which rule each layer gets, the last primitive that names one wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from relprop.adapters.julia.layers import (
    CONV_LAYERS,
    DROPOUT_LAYERS,
    NORMALIZATION_LAYERS,
    RESHAPING_LAYERS,
    Index,
    Scale,
    children,
    layers,
)
from relprop.adapters.julia.rules import (
    AlphaBetaRule,
    AnyRule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    LayerNormRule,
    Named,
    PassRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
    rules_of,
)
from relprop.errors import InputError
from relprop.rules import Rule

Types = type | tuple[type, ...]
Pairs = tuple[tuple[Types, AnyRule], ...]


@dataclass(frozen=True)
class Place:
    """Where a layer stands: its index and itself, and the indices of the first and the last layer."""

    index: Index
    layer: nn.Module
    first: Index
    last: Index


class Primitive:
    """Base of the primitives: the rule for a layer, or None where it has nothing to say."""

    def rule(self, place: Place) -> AnyRule | None:
        raise NotImplementedError


@dataclass(frozen=True)
class GlobalMap(Primitive):
    """One rule for all layers."""

    given: AnyRule

    def rule(self, place: Place) -> AnyRule | None:
        return self.given


@dataclass(frozen=True)
class LayerMap(Primitive):
    """One rule for the layer at an index, an int or a tuple of ints, and all layers in it."""

    index: int | Index
    given: AnyRule

    def __post_init__(self) -> None:
        given = self.index if isinstance(self.index, (list, tuple)) else (self.index,)
        if not given or not all(isinstance(i, int) for i in given):
            raise InputError(f"LayerMap takes an index, as 3 or (1, 5), and a rule; got {self.index!r}")

    def rule(self, place: Place) -> AnyRule | None:
        wanted = (self.index,) if isinstance(self.index, int) else tuple(self.index)
        return self.given if place.index[: len(wanted)] == wanted else None


@dataclass(frozen=True)
class RangeMap(Primitive):
    """One rule for the layers whose first index is in a range."""

    range: range
    given: AnyRule

    def __post_init__(self) -> None:
        _check_range(self.range)

    def rule(self, place: Place) -> AnyRule | None:
        return self.given if place.index[0] in self.range else None


@dataclass(frozen=True)
class FirstLayerMap(Primitive):
    """One rule for the first layer."""

    given: AnyRule

    def rule(self, place: Place) -> AnyRule | None:
        return self.given if place.index == place.first else None


@dataclass(frozen=True)
class LastLayerMap(Primitive):
    """One rule for the last layer."""

    given: AnyRule

    def rule(self, place: Place) -> AnyRule | None:
        return self.given if place.index == place.last else None


class TypeMap(Primitive):
    """Rules by the class of a layer; the first class that fits counts.

    Written as a dict, or as pairs: `GlobalTypeMap({nn.Conv2d: ZPlusRule(), nn.Linear: EpsilonRule()})`.
    """

    def __init__(self, *pairs: Any) -> None:
        found: list[Any] = []
        for pair in pairs:
            found += list(pair.items()) if isinstance(pair, Mapping) else [pair]
        self.pairs: Pairs = tuple((types, rule) for types, rule in found)
        for types, rule in self.pairs:
            if not all(isinstance(t, type) for t in (types if isinstance(types, tuple) else (types,))):
                raise InputError(f"{type(self).__name__} takes classes of layers, as nn.Conv2d, got {types!r}")
            rules_of(rule)

    def rule(self, place: Place) -> AnyRule | None:
        if not self.covers(place):
            return None
        return next((rule for types, rule in self.pairs if isinstance(place.layer, types)), None)

    def covers(self, place: Place) -> bool:
        return True

    def __repr__(self) -> str:
        shown = ", ".join(f"{_name(types)} => {rule}" for types, rule in self.pairs)
        return f"{type(self).__name__}({shown})"


class GlobalTypeMap(TypeMap):
    """Rules by class for all layers."""


class RangeTypeMap(TypeMap):
    """Rules by class for the layers whose first index is in a range."""

    def __init__(self, range: range, *pairs: Any) -> None:
        super().__init__(*pairs)
        _check_range(range)
        self.range = range

    def covers(self, place: Place) -> bool:
        return place.index[0] in self.range


class FirstNTypeMap(RangeTypeMap):
    """Rules by class for the first n layers."""

    def __init__(self, n: int, *pairs: Any) -> None:
        super().__init__(range(n), *pairs)


class FirstLayerTypeMap(TypeMap):
    """Rules by class for the first layer."""

    def covers(self, place: Place) -> bool:
        return place.index == place.first


class LastLayerTypeMap(TypeMap):
    """Rules by class for the last layer."""

    def covers(self, place: Place) -> bool:
        return place.index == place.last


class Composite:
    """`Composite(primitives...)` or `Composite(default_rule, primitives...)`; later primitives overwrite earlier ones.

    Layers that none of them names get `ZeroRule()`.
    """

    def __init__(self, *parts: Any) -> None:
        if parts and isinstance(parts[0], (Named, Rule)):
            parts = (GlobalMap(parts[0]), *parts[1:])
        for part in parts:
            if not isinstance(part, Primitive):
                raise InputError(f"a composite is made of primitives such as GlobalTypeMap, got {part!r}")
        self.primitives: tuple[Primitive, ...] = parts

    def rule(self, place: Place) -> AnyRule:
        for primitive in reversed(self.primitives):
            found = primitive.rule(place)
            if found is not None:
                return found
        return ZeroRule()

    def __repr__(self) -> str:
        return "Composite(\n" + "".join(f"  {p!r},\n" for p in self.primitives) + ")"


def lrp_rules(model: nn.Module, composite: Composite) -> Any:
    """The rules of all layers in the structure of the model: lists in lists."""
    by_index = {index: rule for index, _, _, rule in assign(model, composite)}

    def build(module: nn.Module, index: Index) -> Any:
        inner = children(module)
        return by_index[index] if not inner else [build(c, (*index, i)) for i, (_, c) in enumerate(inner)]

    return build(model, ())


def assign(model: nn.Module, given: Composite | Sequence[Any]) -> list[tuple[Index, str, nn.Module, AnyRule]]:
    """Index, path, module and rule of every layer.

    given  a composite; or rules in the structure of the model (lists in lists), or one for each layer in order
    """
    found = list(layers(model))
    if isinstance(given, Composite):
        first, last = found[0][0], found[-1][0]
        places = [Place(i, m, first, last) for i, _, m in found]
        for primitive in given.primitives:
            if isinstance(primitive, LayerMap) and not any(primitive.rule(place) is not None for place in places):
                known = ", ".join(str(i[0] if len(i) == 1 else i) for i, _, _ in found[:6])
                more = ", ..." if len(found) > 6 else ""
                raise InputError(
                    f"no layer has the index {primitive.index}: there are {known}{more}; see show_layer_indices(model)"
                )
        return [(i, p, m, given.rule(place)) for (i, p, m), place in zip(found, places, strict=True)]
    listed = list(_flat(given))
    if len(listed) != len(found):
        raise InputError(
            f"{len(listed)} rules for {len(found)} layers: give one for each layer that holds no other, activations "
            f"included. Layers: {', '.join(f'{p or 0} {type(m).__name__}' for _, p, m in found[:12])}"
            f"{', ...' if len(found) > 12 else ''}"
        )
    if any(isinstance(entry, (list, tuple)) for entry in given):  # a flat list fits any model
        _same_structure(model, given)
    for rule in listed:
        rules_of(rule)
    return [(i, p, m, rule) for (i, p, m), rule in zip(found, listed, strict=True)]


def _flat(given: Any) -> Iterable[AnyRule]:
    for entry in given:
        if isinstance(entry, (list, tuple)):
            yield from _flat(entry)
        else:
            yield entry


def _same_structure(model: nn.Module, given: Sequence[Any]) -> None:
    """Rules in nested lists must nest as the model does."""
    inner = children(model)
    if len(inner) != len(given):
        raise InputError(f"{len(given)} entries for the {len(inner)} layers of a {type(model).__name__}")
    for (name, child), entry in zip(inner, given, strict=True):
        nested = isinstance(entry, (list, tuple))
        if nested != bool(children(child)):
            what = "one rule" if nested else "a list of rules"
            raise InputError(f"layer {name!r} ({type(child).__name__}) needs {what}")
        if nested:
            _same_structure(child, entry)


def _check_range(given: Any) -> None:
    if not isinstance(given, range):
        raise InputError(f"a range of layers is written range(0, 2), got {given!r}")


def _name(types: Types) -> str:
    return types.__name__ if isinstance(types, type) else " | ".join(t.__name__ for t in types)


def ChainTuple(*rules: Any) -> tuple[Any, ...]:
    """Rules for the layers of a Sequential, in their order: any list will do."""
    return rules


#: Rules for the layers of a `Parallel` or a `SkipConnection`.
ParallelTuple = SkipConnectionTuple = ChainTuple


# -- presets -----------------------------------------------------------------------------------------------------------


def _preset(conv: Named, epsilon: float, *first: Primitive) -> Composite:
    rest = {
        CONV_LAYERS: conv,
        nn.Linear: EpsilonRule(epsilon),
        Scale: EpsilonRule(epsilon),
        nn.LayerNorm: LayerNormRule(),
        DROPOUT_LAYERS: PassRule(),
        NORMALIZATION_LAYERS: PassRule(),
        RESHAPING_LAYERS: PassRule(),
        nn.Identity: PassRule(),
    }
    return Composite(GlobalTypeMap(rest), *first)


def EpsilonGammaBox(low: float | Tensor, high: float | Tensor, epsilon: float = 1e-6, gamma: float = 0.25) -> Composite:
    """z-box on a convolution that is the first layer, standard gamma on the others, epsilon on dense layers."""
    return _preset(GammaRule(gamma), epsilon, FirstLayerTypeMap({CONV_LAYERS: ZBoxRule(low, high)}))


def EpsilonPlus(epsilon: float = 1e-6) -> Composite:
    """z+ on convolutions, epsilon on dense layers."""
    return _preset(ZPlusRule(), epsilon)


def EpsilonAlpha2Beta1(epsilon: float = 1e-6) -> Composite:
    """alpha-beta on convolutions, epsilon on dense layers."""
    return _preset(AlphaBetaRule(2.0, 1.0), epsilon)


def EpsilonPlusFlat(epsilon: float = 1e-6) -> Composite:
    """EpsilonPlus with the flat rule on a convolution that is the first layer."""
    return _preset(ZPlusRule(), epsilon, FirstLayerTypeMap({CONV_LAYERS: FlatRule()}))


def EpsilonAlpha2Beta1Flat(epsilon: float = 1e-6) -> Composite:
    """EpsilonAlpha2Beta1 with the flat rule on a convolution that is the first layer."""
    return _preset(AlphaBetaRule(2.0, 1.0), epsilon, FirstLayerTypeMap({CONV_LAYERS: FlatRule()}))
