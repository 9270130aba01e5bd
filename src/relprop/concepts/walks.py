r"""GNN-LRP: relevance of walks through a graph.

A graph network of `L` interaction layers sends what it reads along walks `j_0 -> j_1 -> ... -> j_L` of nodes. With
relevance restricted to node `j_l` at every layer, each walk has relevance of its own, and all walks together have that
of the inputs. Written with the modified gradient `g_l` at the node features of layer `l` (the relevance there is
`h_l * g_l`), one layer of propagation is linear,

    g_l[i] = sum_j M_l[i, j] g_{l+1}[j],       M_l[i, j]: [D_l, D_{l+1}], zero where i is no neighbour of j

    R(j_0, ..., j_L) = x[j_0]^T M_0[j_0, j_1] ... M_{L-1}[j_{L-1}, j_L] g_L[j_L]

The blocks `M_l` are found by the engine, one backward for each feature of each node, once; then walks, sums over many
of them (a product of matrices instead of an enumeration) and the search for the strongest are small linear algebra.
[Schnake et al. 2021, "Higher-order explanations of graph neural networks via relevant walks", eq. 5; sums over
subgraphs: Xiong et al. 2022; search: Xiong et al. 2023]
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from relprop.concepts.within import Within
from relprop.errors import InputError
from relprop.explain import LRP, Audit, check_lrp

_MOST = 200_000  # walks that are enumerated
_BYTES = 4 * 2**30  # of the blocks together


class Walk(NamedTuple):
    """A walk from the input's node to the last layer's, and its relevance."""

    nodes: tuple[int, ...]
    relevance: float


@dataclass
class Walks:
    """The relevance of walks, as blocks that are multiplied on request.

    nodes      [n], the relevance of the nodes at the input, from an ordinary explanation
    layers     the places between which walks step, from the input on
    audit      of the ordinary explanation
    first      [n, n, D_1]: to relevance at input node i from g at node j of the first layer
    blocks     [n, D_l, n, D_{l+1}] for the layers above it
    top        [n, D_L]: g at the last layer
    """

    nodes: Tensor
    layers: tuple[str, ...]
    audit: Audit
    first: Tensor
    blocks: list[Tensor]
    top: Tensor

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self.top)

    @property
    def length(self) -> int:
        """How many steps a walk has; it visits one node more."""
        return len(self.blocks) + 1

    @property
    def total(self) -> float:
        """The relevance of all walks together."""
        return self.subgraph(range(self.size))

    @property
    def beside(self) -> float:
        """Relevance of the input that is in no walk: it went around a layer, over a skip connection."""
        return float(self.nodes.sum()) - self.total

    def relevance(self, walk: Sequence[int]) -> float:
        """Of one walk: nodes from the input's to the last layer's, each staying or stepping to a neighbour.

        Raises:
            InputError: for a walk of another length, or nodes that are not there.
        """
        nodes = [int(j) for j in walk]
        if len(nodes) != self.length + 1:
            raise InputError(f"a walk visits {self.length + 1} nodes (layers {', '.join(self.layers)}): got {nodes}")
        self._check(nodes)
        g = self.top[nodes[-1]]
        for block, i, j in zip(reversed(self.blocks), nodes[-2::-1], nodes[::-1], strict=False):
            g = block[i, :, j] @ g
        return float(self.first[nodes[0], nodes[1]] @ g)

    def subgraph(self, nodes: Iterable[int]) -> float:
        """Of all walks that never leave these nodes together; of all nodes, the whole.

        A product of matrices, not a sum over walks: linear in the number of layers.
        """
        kept = torch.tensor(sorted({int(j) for j in nodes}), dtype=torch.int64)
        self._check(kept.tolist())
        g = self.top[kept]
        for block in reversed(self.blocks):
            g = torch.einsum("iajb,jb->ia", block[kept][:, :, kept], g)
        return float(torch.einsum("ijb,jb->", self.first[kept][:, kept], g))

    def steps(self) -> Tensor:
        """Of all walks that take a step: [L, n, n], from node i of a layer to node j of the next one."""
        above = [self.top]
        for block in reversed(self.blocks):
            above.append(torch.einsum("iajb,jb->ia", block, above[-1]))
        above.reverse()
        below = self.first.sum(0)  # [n, D_1]: what g at a node of this layer comes to at the input
        found = [torch.einsum("ijb,jb->ij", self.first, above[0])]
        for block, g in zip(self.blocks, above[1:], strict=True):
            found.append(torch.einsum("ia,iajb,jb->ij", below, block, g))
            below = torch.einsum("ia,iajb->jb", below, block)
        return torch.stack(found)

    def every(self) -> Iterator[Walk]:
        """All walks along which relevance can pass, in no order.

        Raises:
            InputError: where there are more than 200 000: then take `top`, `subgraph` and `steps`.
        """
        open_steps = self._open()
        count = torch.ones(self.size, dtype=torch.float64)
        for passes in open_steps:
            count = passes.double().T @ count
        if float(count.sum()) > _MOST:
            raise InputError(
                f"there are {count.sum():,.0f} walks: ask for the strongest with top_walks(), or for sums "
                "over them with subgraph() and steps()"
            )
        stack: list[tuple[tuple[int, ...], Tensor]] = [((j,), self.top[j]) for j in range(self.size)]
        while stack:
            nodes, g = stack.pop()
            layer = self.length - len(nodes)
            for i in open_steps[layer][:, nodes[0]].nonzero().flatten().tolist():
                if layer:
                    stack.append(((i, *nodes), self.blocks[layer - 1][i, :, nodes[0]] @ g))
                else:
                    yield Walk((i, *nodes), float(self.first[i, nodes[0]] @ g))

    def top_walks(
        self, count: int = 10, *, method: Literal["exact", "beam"] = "exact", width: int = 200, most: int = 100_000
    ) -> list[Walk]:
        """The walks with most relevance of either sign, the strongest first.

        method  "exact"  best first: the walk to go on with is the one that could still become the strongest, by the
                         bound `|R| <= sum_k |g_k| B_k`, `B` the largest absolute completion of the walk, found for
                         all nodes and layers by a max-product pass. What comes out is what enumeration would give.
                "beam"   keeps the `width` most promising beginnings of each layer, by the same bound. Fast; may miss.
        most    beginnings that the exact search may look at

        Raises:
            InputError: where the exact search has looked at `most` beginnings: allow more, or take the beam.
        """
        if count < 1 or width < 1:
            raise InputError(f"count and width must be at least 1, got {count} and {width}")
        if method not in ("exact", "beam"):
            raise InputError(f'method must be "exact" or "beam", got {method!r}')
        bounds = self._bounds()
        if method == "beam":
            return self._beam(count, max(width, count), bounds)
        found: list[Walk] = []
        tie = itertools.count()
        start = self.top.abs().mul(bounds[-1]).sum(1)
        heap: list[Any] = [(-float(start[j]), next(tie), (j,), self.top[j]) for j in range(self.size)]
        heapq.heapify(heap)
        looked = 0
        while heap and len(found) < count:
            bound, _, nodes, g = heapq.heappop(heap)
            if bound == 0:
                break
            if g is None:
                found.append(self._walk(nodes))
                continue
            looked += 1
            if looked > most:
                raise InputError(
                    f"the exact search looked at {most:,} beginnings and found {len(found)} of {count} walks: allow "
                    'more with most=, or take method="beam"'
                )
            for promise, longer, onward in self._longer(nodes, g, bounds):
                heapq.heappush(heap, (-promise, next(tie), longer, onward))
        return found

    def _walk(self, nodes: tuple[int, ...]) -> Walk:
        return Walk(nodes, self.relevance(nodes))

    def _longer(self, nodes: tuple[int, ...], g: Tensor, bounds: list[Tensor]) -> Iterator[tuple[float, Any, Any]]:
        """A beginning with one node more, with how strong it can become; whole walks without a gradient."""
        layer = self.length - len(nodes)
        if layer:
            onward = self.blocks[layer - 1][:, :, nodes[0]] @ g  # [n, D]
            promise = onward.abs().mul(bounds[layer - 1]).sum(1)
        else:
            onward = None
            promise = (self.first[:, nodes[0]] @ g).abs()
        for i in promise.nonzero().flatten().tolist():
            yield float(promise[i]), (i, *nodes), None if onward is None else onward[i]

    def _bounds(self) -> list[Tensor]:
        """For every layer from the first: [n, D], the largest absolute completion to the input, entry by entry."""
        bounds = [self.first.abs().amax(0)]
        for block in self.blocks:
            paths = torch.einsum("ia,iajb->ijb", bounds[-1], block.abs())
            bounds.append(paths.amax(0))
        return bounds

    def _beam(self, count: int, width: int, bounds: list[Tensor]) -> list[Walk]:
        kept: list[Any] = [(0.0, (j,), self.top[j]) for j in range(self.size)]
        for _ in range(self.length):
            longer = [one for _, nodes, g in kept for one in self._longer(nodes, g, bounds)]
            kept = heapq.nlargest(width, longer, key=lambda one: one[0])
        return [self._walk(nodes) for _, nodes, _ in kept[:count]]

    def _open(self) -> list[Tensor]:
        """Between which nodes relevance can pass, by layer: [n, n] of bool."""
        return [self.first.abs().amax(-1) > 0, *(b.abs().amax((1, 3)) > 0 for b in self.blocks)]

    def _check(self, nodes: Sequence[int]) -> None:
        wrong = [j for j in nodes if not 0 <= j < self.size]
        if wrong:
            raise InputError(f"node {wrong[0]} is not there: the graph has {self.size} nodes, 0 to {self.size - 1}")

    def picture(self, edges: Any = None, count: int = 12, **options: Any) -> Any:
        """Draw the strongest walks on the graph.

        edges    [2, E] of the graph; None: where relevance can pass
        options  of `relprop.render.walks.graph`: labels, positions, title
        """
        from relprop.render.walks import graph

        if edges is None:
            edges = torch.stack(self._open()).any(0).nonzero().T
        shown = self.top_walks(count)
        return graph(self.size, edges, [w.nodes for w in shown], [w.relevance for w in shown], total=self.total,
                     **options)  # fmt: skip

    def save(self, path: str | Path, edges: Any = None, count: int = 12, **options: Any) -> Path:
        """Draw the strongest walks into a file: .png, .svg, .pdf."""
        from relprop.render.figure import check_path, save_figure

        return save_figure(self.picture(edges, count, **options), check_path(path))


def walk_relevance(
    lrp: LRP,
    x: Tensor,
    *constants: Any,
    layers: Sequence[str],
    target: Any = None,
    batch_size: int = 64,
    **options: Any,
) -> Walks:
    """Relevance of the walks that a graph network's output rests on.

    lrp         of any model whose places `layers` hold node features: GCN, GIN, SchNet-like, a transformer's tokens
    x           features of the nodes, [n, F], or [1, n, F] of a model that takes batches
    constants   what else the model takes: edges, an adjacency matrix. They are constants here: relevance goes to the
                node features alone
    layers      the places (modules, or labels of operations in the plan) where a walk passes a node, from the first
                interaction on; their tensors are [n, D], or [1, n, D]. Each must be all that the next one reads of it:
                what goes around (`Walks.beside`) is in no walk
    target      as for `LRP.explain`
    batch_size  for models that take batches: how many backwards at once
    options     keywords of the model, which are constants too

    Costs one backward for each feature of each node and layer. [Schnake et al. 2021, sec. 3]

    Raises:
        InputError: for no layers, or tensors there that do not hold as many nodes as `x`.
    """
    check_lrp(lrp, "walk_relevance")
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    if not layers:
        raise InputError("layers is empty: name the places where node features stand, one for each interaction")
    if not isinstance(x, Tensor) or x.ndim not in (2, 3) or (x.ndim == 3 and len(x) != 1) or not x.is_floating_point():
        seen = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"the features of nodes must be floating, [n, F] or [1, n, F], got {seen}")
    held = Within(lrp.model, lambda model, features: model(features, *constants, **options))
    inner = LRP(held, lrp.composite_for(x, *constants, **options))
    whole = inner.explain(x, target=target, layers=layers)
    size = x.shape[-2]
    tensors = [_features(whole.activations, name, size, x.ndim) for name in layers]
    _check_memory(tensors)
    blocks: list[Tensor] = []
    for below, name, values in zip((None, *layers), layers, tensors, strict=False):
        blocks.append(_block(inner, x, below, name, values, batch_size))
    return Walks(  # what follows are many small steps: not for an accelerator
        nodes=_nodes(whole.relevance).sum(-1).cpu(),
        layers=layers,
        audit=whole.audit,
        first=blocks[0].cpu(),
        blocks=[b.cpu() for b in blocks[1:]],
        top=_nodes(whole.gradients[layers[-1]]).cpu(),
    )


def _features(found: Any, name: str, size: int, axes: int) -> Tensor:
    values = found.get(name)
    if not isinstance(values, Tensor):
        what = "ran several times or returns several tensors" if name in found else "is no single place of this model"
        raise InputError(f"layers: {name!r} {what}; name the places one by one, by the labels of the plan")
    if values.ndim != axes or values.shape[-2] != size:
        raise InputError(
            f"layers: {name!r} holds {tuple(values.shape)}, not features of {size} nodes "
            f"({'[n, D]' if axes == 2 else '[1, n, D]'})"
        )
    return values


def _check_memory(tensors: Sequence[Tensor]) -> None:
    sizes = [t.shape[-2] * t.shape[-1] for t in tensors]
    needed = sum(a * b for a, b in zip([tensors[0].shape[-2], *sizes], sizes, strict=False)) * tensors[0].element_size()
    if needed > _BYTES:
        raise InputError(
            f"the blocks between {tensors[0].shape[-2]} nodes of up to {max(t.shape[-1] for t in tensors)} features "
            f"would take {needed / 2**30:.0f} GiB (at most {_BYTES / 2**30:.0f}): give a part of the graph, such as "
            "the nodes within reach of the one that is explained"
        )


def _nodes(values: Tensor) -> Tensor:
    return values[0] if values.ndim == 3 else values


def _block(lrp: LRP, x: Tensor, below: str | None, name: str, values: Tensor, batch_size: int) -> Tensor:
    """One layer's M, [n, D_l, n, D_{l+1}]; to the input, summed over its features: [n, n, D_1]."""
    size, width = values.shape[-2:]
    ends: dict[str, Any] = {} if below is None else {"stop_at": below, "layers": below}
    seeds = [(j, k) for j in range(size) for k in range(width)]
    columns: list[Tensor] = []
    for start in range(0, len(seeds), batch_size):
        some = seeds[start : start + batch_size]
        if x.ndim == 3:
            at = torch.tensor(some).T
            copies = x.expand(len(some), -1, -1)
            e = lrp.explain(copies, start_at=name, target=lambda h, at=at: h[range(len(h)), at[0], at[1]], **ends)
            columns += list(e.relevance.sum(-1) if below is None else e.gradients[below])
        else:
            one = [lambda h, j=j, k=k: h[j, k] for j, k in some]
            for e in lrp.explain(x, start_at=name, targets=one, **ends):
                columns.append(e.relevance.sum(-1) if below is None else e.gradients[below])
    stacked = torch.stack(columns, -1)
    return stacked.unflatten(-1, (size, width))
