"""Attribution graphs: which units of a lower layer make a unit of an upper layer relevant, and so on down.

The edge from unit u of a layer to unit v of the next one below is the relevance of v under the condition of u: what of
the explained value passes u and then v. All edges that leave u add up to the relevance of u less what biases and
stabilisers between the layers absorb, where all that passes u also passes the next layer.
[Achtibat et al. 2023, section "attribution graphs"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from relprop.concepts.crp import CRP, By, TopN, by_unit
from relprop.errors import InputError
from relprop.explain.forward import Request
from relprop.extras import require
from relprop.units import Channels, as_units

Key = tuple[str, int]
_OPTIONS = ("seed", "exclude_parallel", "start_at", "stop_at", "wrt", "unknown")


@dataclass(frozen=True)
class AttributionGraph:
    """Units of layers, and what of their relevance came from where.

    nodes  (layer, unit, relevance of the unit), from the output down, summed over the samples
    edges  ((layer, unit), (lower layer, unit), relevance of the lower one under the condition of the upper one)
    """

    nodes: list[tuple[str, int, float]]
    edges: list[tuple[Key, Key, float]]

    def paths(self, count: int = 10) -> list[tuple[float, tuple[Key, ...]]]:
        """The paths that carry most (`relprop.render.strongest_paths`)."""
        from relprop import render

        found: Any = render.strongest_paths(self.edges, count)
        return found

    def picture(self, **options: Any) -> Any:
        """A matplotlib Figure, a column a layer. options: of `relprop.render.graph`."""
        from relprop import render

        return render.graph(self.nodes, self.edges, **options)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Draw it into a file: .png, .svg, .pdf."""
        from relprop.render.figure import check_path, save_figure

        return save_figure(self.picture(**options), check_path(path))

    def to_networkx(self) -> Any:
        """A networkx DiGraph with the attribute `relevance` at nodes and edges."""
        made = require("networkx", "concepts", "a networkx graph").DiGraph()
        made.add_nodes_from(((layer, unit), {"relevance": r}) for layer, unit, r in self.nodes)
        made.add_edges_from((upper, lower, {"relevance": r}) for upper, lower, r in self.edges)
        return made

    def __str__(self) -> str:
        lines = []
        for layer, unit, r in self.nodes:
            below = [f"{v} {amount:+.3g}" for (at, u), (_, v), amount in self.edges if (at, u) == (layer, unit)]
            lines.append(f"{layer} {unit}: {r:+.4g}" + (f" from {', '.join(below)}" if below else ""))
        return "\n".join(lines)


def attribution_graph(
    crp: CRP,
    *args: Any,
    layers: Sequence[str],
    width: Sequence[int | None] | int | None = 3,
    units: Mapping[str, Any] | None = None,
    by: By = "positive",
    target: Any = None,
    conditions: Mapping[str, Any] | None = None,
    **options: Any,
) -> AttributionGraph:
    """The strongest units of the first layer, of each those of the next layer that feed it most, and so on.

    crp         the conditions of one layer are propagated together, within its budget
    args        what the model takes, as for `LRP.explain`
    layers      places, from the output down
    width       how many units of the first layer, and of each unit how many of the next layer: one number for all
                layers or one each; None: all of them
    units       by layer, how it is divided: {"h.3.attn.c_proj:in": Heads(of=12)}. Channels where nothing is said
    by          "positive", "absolute" or "negative": which count as strongest (`TopN`)
    conditions  what relevance has to pass besides. {"layer4": 12}, with "layer4" as the first layer: the graph of
                channel 12
    options     of `CRP.explain`, and what the model takes by keyword

    Raises:
        InputError: for fewer than two layers, a layer named twice, more units than a layer has, layers in another order
            than that in which relevance passes them.
    """
    if not isinstance(crp, CRP):
        raise InputError(f"attribution_graph takes a CRP, got {type(crp).__name__}: CRP(lrp)")
    layers, widths = _checked(layers, width)
    divided = {layer: as_units((units or {}).get(layer, Channels())) for layer in layers}
    unknown = set(units or {}) - set(layers)
    if unknown:
        raise InputError(f"units are given for {', '.join(map(repr, unknown))}, which is none of the layers")
    base = dict(conditions or {})
    asked = {"target": target, **options}
    _check_order(crp, layers, args, {k: v for k, v in options.items() if k not in _OPTIONS})
    (whole,) = crp.explain(*args, conditions=base, layers=layers, **asked)
    scores = {layer: by_unit(whole, layer, divided[layer]).sum(0) for layer in layers}
    chosen = {layers[0]: _strongest(scores[layers[0]], widths[0], by, layers[0])}
    if not chosen[layers[0]]:
        raise InputError(f"no relevance passes {layers[0]!r}: there is nothing to go down from")
    edges: list[tuple[Key, Key, float]] = []
    for upper, lower, count in zip(layers, layers[1:], widths[1:], strict=False):
        each = [base | {upper: divided[upper].at(u)} for u in chosen[upper]]
        if not each:
            break  # nothing came so far down
        found = crp.explain(*args, conditions=each, layers=lower, **asked)
        met: dict[int, None] = {}
        for u, e in zip(chosen[upper], found, strict=True):
            passed = by_unit(e, lower, divided[lower]).sum(0)
            for v in _strongest(passed, count, by, lower):
                edges.append(((upper, u), (lower, v), float(passed[v])))
                met[v] = None
        chosen[lower] = list(met)
    nodes = [(layer, u, float(scores[layer][u])) for layer in layers for u in chosen.get(layer, [])]
    return AttributionGraph(nodes, edges)


def _check_order(crp: CRP, layers: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    captures = crp.lrp.recorded(Request(layers=tuple(layers)), args, kwargs).recorder.captures
    ran = [name for name in captures.found if name in layers]  # in the order of execution
    if ran[::-1] != layers:
        hint = (
            f"write layers={ran[::-1]}" if sorted(ran) == sorted(layers) else f"these ran: {', '.join(ran) or 'none'}"
        )
        raise InputError(f"layers go from the output down, one place each, got {', '.join(layers)}; {hint}")


def _strongest(relevance: Tensor, count: int | None, by: By, layer: str) -> list[int]:
    """Units in the order of their rank, without those that have no relevance."""
    wanted = len(TopN(len(relevance) if count is None else count, by=by).choose(relevance[None], layer)[0])
    order = TopN(len(relevance), by=by).choose(relevance[None])[0].tolist()
    return [u for u in order if float(relevance[u]) != 0][:wanted]


def _checked(layers: Sequence[str], width: Any) -> tuple[list[str], list[int | None]]:
    found = [layers] if isinstance(layers, str) else list(layers)
    if len(found) < 2 or len(set(found)) < len(found):
        raise InputError(f"a graph has at least two layers, each named once, from the output down: got {layers!r}")
    widths = list(width) if isinstance(width, (list, tuple)) else [width] * len(found)
    if len(widths) != len(found):
        raise InputError(f"width has {len(widths)} numbers for {len(found)} layers")
    return found, widths
