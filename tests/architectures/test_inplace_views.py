"""Writes into views: what a rule hung on the view's node must not be lost with it.

`torch.einsum` returns a view of a fresh tensor, and models write into slices; torch then replaces the view's node.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw
from tests.architectures.detached import Detached, reference
from tests.reference.recipe import fill
from tests.support.compare import assert_close

MASK = torch.zeros(5, dtype=torch.float64)
MASK[3:] = -torch.inf
BIAS = draw(5, seed=7)


def half(y: Tensor) -> Tensor:
    return y / 2 + y.detach() / 2


def scores(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("...qhd,...khd->...hqk", q, k)


def attend(weights: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("...hqk,...khd->...qhd", weights, k)


def masked(q: Tensor, k: Tensor) -> Tensor:
    z = scores(q, k)
    z += MASK
    return attend(z.softmax(-1), k)


def masked_oracle(q: Tensor, k: Tensor) -> Tensor:
    return half(attend((half(scores(q, k)) + MASK).softmax(-1), k))


def shifted(q: Tensor, k: Tensor) -> Tensor:
    z = scores(q, k)
    z.add_(BIAS).mul_(0.5)
    z[..., 0] += 1.0
    nn.functional.leaky_relu_(z[..., 1], 0.2)
    z[..., 2:4] *= 3.0
    return z.flatten(1)


def shifted_oracle(q: Tensor, k: Tensor) -> Tensor:
    z = (half(scores(q, k)) + BIAS) * 0.5
    parts = [z[..., :1] + 1.0, nn.functional.leaky_relu(z[..., 1:2], 0.2), z[..., 2:4] * 3.0, z[..., 4:]]
    return torch.cat(parts, -1).flatten(1)


def read_through_the_base(q: Tensor, k: Tensor) -> Tensor:
    y = q.flatten(2) * 2.0
    view = y[:, 1]
    view += BIAS[: view.shape[-1], None].mT.squeeze(0)[: view.shape[-1]]
    y[:, 2] = k.flatten(2)[:, 0]
    y[:, 0, 1:3] = torch.tensor([0.5, -0.25], dtype=y.dtype)
    return y.sum(2)


def read_through_the_base_oracle(q: Tensor, k: Tensor) -> Tensor:
    y = q.flatten(2) * 2.0
    bias = BIAS[: y.shape[-1], None].mT.squeeze(0)[: y.shape[-1]]
    first = torch.cat((y[:, 0, :1], torch.tensor([[0.5, -0.25]], dtype=y.dtype).expand(len(y), 2), y[:, 0, 3:]), 1)
    return torch.stack((first, y[:, 1] + bias, k.flatten(2)[:, 0]), 1).sum(2)


def gated(q: Tensor, k: Tensor) -> Tensor:
    z = scores(q, k)
    z *= torch.sigmoid(scores(q, k.flip(1)))
    return z.flatten(1)


def gated_oracle(q: Tensor, k: Tensor) -> Tensor:
    return half(half(scores(q, k)) * Detached.sigmoid(half(scores(q, k.flip(1))))).flatten(1)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "masked scores": (masked, masked_oracle),
    "shifted scores": (shifted, shifted_oracle),
    "read through the base": (read_through_the_base, read_through_the_base_oracle),
    "gated scores": (gated, gated_oracle),
}


@pytest.mark.parametrize("seeded", [False, True], ids=["value", "random relevance"])
@pytest.mark.parametrize("name", CASES)
def test_write_into_a_view(name: str, seeded: bool) -> None:
    function, oracle = CASES[name]

    class Model(nn.Module):
        def forward(self, q: Tensor, k: Tensor) -> Tensor:
            return function(q, k)

    width = 1 if name == "read through the base" else 2
    args = (draw(2, 3, width, 5), draw(2, 5, width, 5, seed=2))
    model = Model()
    y = model(*args)
    r = draw(*y.shape, seed=9) if seeded else None
    value, expected = reference(oracle, args, lambda t: t, r)
    explanation = rp.LRP(model, rp.Zero()).explain(*args, target=lambda t: t, seed="value" if r is None else r)
    assert_close(explanation.output, y, rtol=1e-12)
    assert_close(explanation.output, value, rtol=1e-12)
    for found, wanted in zip(explanation.relevance, expected, strict=True):
        assert_close(found, wanted, rtol=1e-9)
    assert abs(explanation.audit.unexplained) < 1e-9 * explanation.audit.scale


def test_a_function_at_zero() -> None:
    """exp(0) = 1 is a constant: no relevance, and none that explodes, goes to an input that is zero."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(self.linear(x)).sum(-1)

    model = Model().double()
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 3.0]]))
    x = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)  # the first unit is exactly zero
    explanation = rp.LRP(model, rp.Zero()).explain(x, target=lambda y: y)
    z = torch.tensor([1.0, -2.0, 1.5], dtype=torch.float64)
    expected = z / z.sum() * torch.exp(z.sum())
    assert_close(explanation.relevance[0], expected, rtol=1e-12)
    assert abs(explanation.audit.constants - 1.0) < 1e-12
    assert abs(explanation.audit.unexplained) < 1e-12


@pytest.mark.parametrize("seeded", [False, True], ids=["value", "random relevance"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("projected", [False, True], ids=["alone", "after a convolution"])
def test_batch_norm_read_transposed(projected: bool, batch: int, seeded: bool) -> None:
    """The gradient that comes back is laid out in another order; torch 2.13 misreads it where the batch is one."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1) if projected else nn.Identity()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            v = self.norm(self.conv(x)).flatten(2).mT  # [N, T, C]
            return x.flatten(2) @ v

    model = fill(Model().double())
    model.norm.running_var.copy_(draw(4, seed=3).abs() + 0.5)

    def oracle(x: Tensor) -> Tensor:
        z = model.conv(x)
        scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
        shift = model.norm.bias - model.norm.running_mean * scale
        v = (z * scale[:, None, None] + shift[:, None, None]).flatten(2).mT
        return half(x.flatten(2) @ v)

    x = draw(batch, 4, 3, 3)
    r = draw(batch, 4, 4, seed=9) if seeded else None
    _, (expected,) = reference(oracle, (x,), lambda y: y, r)
    found = rp.LRP(model, rp.Zero()).explain(x, target=lambda y: y, seed="value" if r is None else r).relevance
    assert_close(found, expected, rtol=1e-10)
