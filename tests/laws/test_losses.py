"""Losses inside a model, by hand.

A loss is the sum of `f(x - c)` over the entries, or their mean, so with relevance R at the loss an entry has
`f_i / sum(f) R`. The function f passes it to the difference as it is, and of that x takes `x / (x - c)` and c the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close

C = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
W = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
Loss = Callable[..., Tensor]


def huber(d: Tensor, delta: float) -> Tensor:
    return torch.where(d.abs() <= delta, d**2 / 2, delta * (d.abs() - delta / 2))


#: The loss, its settings, and f.
LOSSES: dict[str, tuple[Loss, dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "l1": (F.l1_loss, {}, torch.abs),
    "mse": (F.mse_loss, {}, torch.square),
    "mse, weighted": (F.mse_loss, {"weight": W}, lambda d: W * d**2),
    "smooth l1": (F.smooth_l1_loss, {}, lambda d: huber(d, 1.0)),
    "smooth l1, beta": (F.smooth_l1_loss, {"beta": 0.3}, lambda d: huber(d, 0.3) / 0.3),
    "smooth l1, no beta": (F.smooth_l1_loss, {"beta": 0.0}, torch.abs),
    "huber": (F.huber_loss, {}, lambda d: huber(d, 1.0)),
    "huber, delta": (F.huber_loss, {"delta": 0.4}, lambda d: huber(d, 0.4)),
    "huber, weighted": (F.huber_loss, {"weight": W}, lambda d: W * huber(d, 1.0)),
    "module": (lambda x, c, reduction: nn.SmoothL1Loss(reduction=reduction)(x, c), {}, lambda d: huber(d, 1.0)),
}


class Rating(nn.Module):
    """How far a layer's output is from a constant."""

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(2.0 * x).reshape(-1)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", LOSSES)
def test_against_a_constant(name: str, reduction: str, swapped: bool) -> None:
    loss, settings, f = LOSSES[name]
    x = torch.randn(3, 4, dtype=torch.float64)

    def call(h: Tensor) -> Tensor:
        return loss(*((C, h) if swapped else (h, C)), reduction=reduction, **settings)

    values = f(2.0 * x - C)
    relevance = torch.randn(12 if reduction == "none" else 1, dtype=torch.float64)
    each = relevance.view(3, 4) if reduction == "none" else values / values.sum() * relevance
    wanted = each * 2.0 * x / (2.0 * x - C)
    for composite in (rp.Zero(), rp.AttnLRP()):
        e = rp.LRP(Rating(call), composite).explain(x, target=relevance)
        assert_close(e.output, call(2.0 * x).reshape(-1), 1e-14)
        assert_close(e.relevance, wanted, 1e-10)
        assert abs(e.audit.constants - float(relevance.sum() - wanted.sum())) < 1e-10 * float(wanted.abs().sum())
        assert abs(e.audit.unexplained) < 1e-10


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "module"])
def test_of_two_outputs(name: str) -> None:
    loss, settings, f = LOSSES[name]
    x, relevance = torch.randn(3, 4, dtype=torch.float64), torch.randn(1, dtype=torch.float64)
    e = rp.LRP(Rating(lambda h: loss(h, h.roll(1, 1), **settings)), rp.Zero()).explain(x, target=relevance)
    d = x - x.roll(1, 1)
    values = f(2.0 * d)
    each = values / values.sum() * relevance / d
    assert_close(e.relevance, x * (each - each.roll(-1, 1)), 1e-10)
    assert abs(e.audit.unexplained) < 1e-10


def test_the_older_words_for_a_reduction() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    for old, new in ({"size_average": False}, "sum"), ({"reduce": False}, "none"), ({"reduce": True}, "mean"):
        with pytest.warns(UserWarning, match="size_average and reduce"):
            found = rp.LRP(Rating(lambda h, old=old: F.l1_loss(h, C, **old)), rp.Zero()).explain(x, target=0)
        wanted = rp.LRP(Rating(lambda h, new=new: F.l1_loss(h, C, reduction=new)), rp.Zero()).explain(x, target=0)
        assert torch.equal(found.relevance, wanted.relevance)


@pytest.mark.parametrize("name", ["l1", "mse", "smooth l1", "huber"])
def test_differentiable(name: str) -> None:
    loss, settings, _ = LOSSES[name]
    x = torch.randn(3, 4, dtype=torch.float64)
    lrp = rp.LRP(Rating(lambda h: loss(h, C, **settings)), rp.Zero())
    plain, graph = (lrp.explain(x, target=0, create_graph=c).relevance for c in (False, True))
    assert_close(graph.detach(), plain, 1e-12)
