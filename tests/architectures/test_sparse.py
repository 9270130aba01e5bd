"""Graph networks that are given their edges as a sparse matrix: it is a constant, and what it adds up runs as LRP-0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw
from tests.support.compare import assert_close

EDGES = torch.where(draw(6, 6, seed=5) > 0, draw(6, 6, seed=6), 0.0)
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sparse.mm": torch.sparse.mm,
    "spmm": torch.spmm,
    "mm": torch.mm,
    "@": lambda a, h: a @ h,
    "matmul": lambda a, h: a.matmul(h),
    "from the right": lambda a, h: (h.T @ a.transpose(0, 1)).T,
    "addmm": lambda a, h: torch.addmm(draw(*h.shape, seed=8), a, h),
    "mv": lambda a, h: torch.stack([torch.mv(a, column) for column in h.unbind(1)], 1),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {"coo": Tensor.to_sparse, "csr": Tensor.to_sparse_csr}


class Graph(nn.Module):
    """Two layers of graph convolution; edges are an argument or, dense, a buffer."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], dense: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.product = product
        self.register_buffer("edges", EDGES if dense else None)
        self.double()

    def forward(self, x: Tensor, edges: Any = None) -> Tensor:
        edges = self.edges if edges is None else edges
        h = self.product(edges, self.first(x).relu())
        return self.product(edges, self.second(h))


COMPOSITES: dict[str, Any] = {
    "LRP-0": rp.Zero(),
    "AttnLRP": rp.AttnLRP(),
    "epsilon": rp.Composite([(rp.Type(nn.Linear), rp.Epsilon(0.1))]),
    "gamma": rp.Composite([(rp.Type(nn.Linear), rp.Gamma(0.25))]),
    "flat": rp.Composite([(rp.Entry(rp.Type(nn.Linear)), rp.Flat())]),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_as_with_a_dense_buffer(name: str, layout: str, composite: str) -> None:
    product, x, relevance = PRODUCTS[name], draw(6, 4), draw(6, 3, seed=2)
    edges = LAYOUTS[layout](EDGES)
    e = rp.LRP(Graph(product), COMPOSITES[composite]).explain(x, edges, target=relevance)
    wanted = rp.LRP(Graph(product, dense=True), COMPOSITES[composite]).explain(x, target=relevance)
    assert_close(e.output, wanted.output, 1e-12)
    assert_close(e.relevance, wanted.relevance, 1e-10)
    assert e.audit.unexplained_share < 1e-10
    assert "input 1 is sparse: it is a constant" in e.plan.notes
    assert [s.kind for s, _ in e.plan].count("linear") == 2


def test_a_rule_for_every_linear_map_leaves_edges_alone() -> None:
    x = draw(6, 4)
    every, layers = (
        rp.LRP(Graph(torch.spmm), [(selector, rp.ZPlus())]).explain(x, EDGES.to_sparse(), target=1).relevance
        for selector in (rp.Kind("linear"), rp.Type(nn.Linear))
    )
    assert torch.equal(every, layers)


@pytest.mark.parametrize("rule", [rp.Epsilon(0.1), rp.ZPlus(), rp.Gamma(0.25), rp.Flat()], ids=str)
def test_a_layer_of_sparse_weights(rule: rp.Rule) -> None:
    class Layer(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.register_buffer("weight", EDGES.to_sparse() if sparse else EDGES)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight)

    x, relevance = draw(2, 6), draw(2, 6, seed=2)
    found, wanted = (rp.LRP(Layer(s), rule).explain(x, target=relevance).relevance for s in (True, False))
    assert_close(found, wanted, 1e-12)


def test_what_is_sparse_cannot_be_asked_for() -> None:
    lrp, x, edges = rp.LRP(Graph(torch.spmm), rp.Zero()), draw(6, 4), EDGES.to_sparse()
    with pytest.raises(rp.InputError, match=r"no explained input is named '1'; there are: 0"):
        lrp.explain(x, edges, target=1, wrt=1)
    with pytest.raises(rp.InputError, match="input 0 holds 1 entries that are NaN"):
        lrp.explain(torch.where(x == x.max(), torch.nan, x), edges, target=1)

    class Only(nn.Module):
        def forward(self, edges: Tensor) -> Tensor:
            return torch.sparse.mm(edges, draw(6, 4))

    with pytest.raises(rp.NoPathError, match="the inputs are sparse, and so constants"):
        rp.LRP(Only(), rp.Zero()).explain(edges, target=1)
