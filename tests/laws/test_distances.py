"""Distances and lengths: of degree one in all that they are between, so a constant end absorbs its own share.

With relevance R at `y = f(x, c)` of degree one, x takes x dy/dx R/y and c takes c dy/dc R/y, which is all of R.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.support.compare import assert_close
from tests.support.networks import Of

ENDS = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
NORMS = [0.5, 1.0, 2.0, 3.0, float("inf")]


def lengths(x: Tensor, ends: Tensor, p: float) -> Tensor:
    """From every row to every row, written out."""
    difference = (x.unsqueeze(-2) - ends.unsqueeze(-3)).abs()
    return difference.amax(-1) if p == float("inf") else (difference**p).sum(-1) ** (1 / p)


Distance = Callable[[Tensor, Tensor, float], Tensor]
CASES: dict[str, tuple[Distance, Distance]] = {
    "cdist": (torch.cdist, lengths),
    "cdist by keywords": (lambda x, c, p: torch.cdist(x1=x, x2=c, p=p), lengths),
    "cdist from a constant": (lambda x, c, p: torch.cdist(c, x, p), lambda x, c, p: lengths(c, x, p)),
    "cdist of batches": (lambda x, c, p: torch.cdist(x[:, None], c, p), lambda x, c, p: lengths(x[:, None], c, p)),
    "cdist to itself": (
        lambda x, c, p: torch.cdist(x, x.roll(1, 1) + x, p),
        lambda x, c, p: lengths(x, x.roll(1, 1) + x, p),
    ),
    "pdist": (
        lambda x, c, p: functional.pdist(x, p),
        lambda x, c, p: torch.stack(
            [lengths(x[i : i + 1], x[i + 1 :], p)[0, j] for i in range(4) for j in range(4 - i)]
        ),
    ),
    "dist": (lambda x, c, p: torch.dist(x[:3], c, p), lambda x, c, p: lengths(x[:3].reshape(1, -1), c.view(1, -1), p)),
}


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", CASES)
def test_distances(name: str, p: float) -> None:
    call, written_out = CASES[name]
    x, c = torch.randn(5, 4, dtype=torch.float64), ENDS.clone()
    y = call(x, c, p)
    relevance = torch.randn_like(y)
    leaves = x.clone().requires_grad_(), c.clone().requires_grad_()
    made = written_out(*leaves, p).view_as(y)
    assert_close(y, made.detach(), 1e-12, "the two are one function")
    to_x, to_c = torch.autograd.grad(made, leaves, relevance / y, allow_unused=True)
    constants = torch.zeros((), dtype=torch.float64) if to_c is None else (c * to_c).sum()

    e = rp.LRP(Of(lambda x: call(x, c, p)), rp.Zero()).explain(x, target=relevance)
    assert to_x is not None
    assert_close(e.relevance, x * to_x, 1e-10)
    assert abs(e.audit.constants - float(constants)) < 1e-10
    assert abs(e.audit.unexplained) < 1e-10


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_prototypes_as_by_hand(p: float) -> None:
    """Through a layer, beside the difference and its norm called one by one."""
    torch.manual_seed(3)
    layer, ends = nn.Linear(4, 4).double(), nn.Parameter(ENDS.clone())

    class Prototypes(nn.Module):
        def __init__(self, whole: bool) -> None:
            super().__init__()
            self.layer, self.ends, self.whole = layer, ends, whole

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)
            return torch.cdist(h, self.ends, p) if self.whole else torch.norm(h[:, None] - self.ends, p, -1)

    x, relevance = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    for composite in (rp.Epsilon(1e-3), rp.EpsilonPlus(), rp.AttnLRP()):
        found, wanted = (rp.LRP(Prototypes(w), composite).explain(x, target=relevance) for w in (True, False))
        assert_close(found.relevance, wanted.relevance, 1e-10)
        assert abs(found.audit.constants - wanted.audit.constants) < 1e-10


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_renorm(dim: int, p: float, create_graph: bool) -> None:
    """A factor that is held constant for every part: relevance goes on as it came."""
    x, relevance = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    longest = float(torch.linalg.vector_norm(x, p, 1 - dim % 2).median())  # some parts are longer, some are not

    class Short(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.renorm(p, dim, longest)

    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = x.clone()
            h.renorm_(p=p, dim=dim, maxnorm=longest)
            return h

    for model in (Short(), InPlace()):
        e = rp.LRP(model, rp.Zero()).explain(x, target=relevance, create_graph=create_graph)
        assert_close(e.output.detach(), x.renorm(p, dim, longest), 1e-14)
        assert_close(e.relevance.detach(), relevance, 1e-12)
        assert abs(e.audit.unexplained) < 1e-12
        assert e.audit.cuts == ()


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_pairwise_distance(p: float, create_graph: bool) -> None:
    """Of degree one in the two rows and the small number that torch adds to their difference."""
    x, relevance = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    leaves = x.clone().requires_grad_(), ENDS.clone().requires_grad_()
    y = ((leaves[0] - leaves[1] + 1e-2).abs() ** p).sum(-1) ** (1 / p)
    to_x = torch.autograd.grad(y, leaves[0], relevance / y.detach())[0]
    model = Of(lambda x: functional.pairwise_distance(x, ENDS, p, eps=1e-2))
    e = rp.LRP(model, rp.Zero()).explain(x, target=relevance, create_graph=create_graph)
    assert_close(e.output.detach(), y.detach(), 1e-12)
    assert_close(e.relevance.detach(), x * to_x, 1e-10)
    assert e.audit.constants == pytest.approx(float(relevance.sum() - (x * to_x).sum()), abs=1e-10)


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("first", [True, False])
def test_cosine_of_a_constant(first: bool, create_graph: bool) -> None:
    """The lengths are constants, so every entry of x takes what it adds to the sum; no call of the model is cut."""
    x, relevance = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    model = Of(lambda x: functional.cosine_similarity(*((x, ENDS) if first else (ENDS, x))))
    e = rp.LRP(model, rp.Zero()).explain(x, target=relevance, create_graph=create_graph)
    assert_close(e.relevance.detach(), x * ENDS / (x * ENDS).sum(-1, keepdim=True) * relevance[:, None], 1e-10)
    assert e.audit.cuts == ()


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
def test_cosine_of_two(create_graph: bool) -> None:
    """Half of what a pair of entries adds to the sum goes to either."""
    layer, x = torch.randn(4, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    relevance = torch.randn(3, dtype=torch.float64)
    model = Of(lambda x: functional.cosine_similarity(x, x @ layer))
    e = rp.LRP(model, rp.Zero()).explain(x, target=relevance, create_graph=create_graph)
    z = x @ layer
    each = x * z / (x * z).sum(-1, keepdim=True) * relevance[:, None] / 2
    assert_close(e.relevance.detach(), each + x * ((each / z) @ layer.T), 1e-10)
    assert e.audit.cuts == ()
