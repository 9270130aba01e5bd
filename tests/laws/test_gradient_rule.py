"""Torch's own gradient as a rule: where a call is of no degree, what it gains or loses is the books' excess."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.support.compare import assert_close

CALLS: dict[str, tuple[str, Any]] = {
    "gelu": ("activation", functional.gelu),
    "gelu in place": ("activation", lambda x: functional.silu(x, inplace=True)),
    "hand-written": ("activation", lambda x: x * torch.sigmoid(x)),
    "layer norm": ("norm", lambda x: functional.layer_norm(x, (4,))),
    "softmax": ("softmax", lambda x: torch.softmax(x, 1)),
    "product": ("product", lambda x: x[:, :2] * x[:, 2:]),
    "relu": ("activation", torch.relu),
    "max pool": ("pool", lambda x: functional.max_pool1d(x[:, None], 2)[:, 0]),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_by_its_own_gradient(name: str) -> None:
    kind, call = CALLS[name]
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = call(self.first(x))
            return (y * torch.tensor([1.0, -0.5, 2.0, 0.3][: y.shape[1]], dtype=y.dtype)).sum(1)

    model, x = Net().double(), torch.randn(2, 3, dtype=torch.float64)
    composite = rp.Composite([(rp.Kind(kind), rp.Gradient()), (rp.Kind("linear"), rp.Zero())])
    e = rp.LRP(model, composite).explain(x)
    leaf = x.clone().requires_grad_()
    model(leaf).sum().backward()
    assert_close(e.relevance, x * leaf.grad, 1e-10)
    assert e.audit.balanced
    conserves = name in ("relu", "max pool")
    assert (abs(e.audit.excess) < 1e-12) == conserves
