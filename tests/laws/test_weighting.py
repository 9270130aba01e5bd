"""Attention with constant weights: what the values receive is what the fused kernel's own gradient gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from relprop.ops import attention
from tests.support.compare import assert_close

N, H, T, S, D = 2, 4, 5, 7, 3


def hiding(rows: int) -> Tensor:
    """A mask that hides some keys from every query, and all of them from the first ones."""
    mask = torch.rand(T, S) > 0.3
    mask[:, 0] = True
    mask[:rows] = False
    return mask


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean mask": {"attn_mask": lambda: hiding(0)},
    "all keys hidden": {"attn_mask": lambda: hiding(2)},
    "additive mask": {"attn_mask": lambda: torch.randn(N, 1, T, S, dtype=torch.float64)},
    "a mask for all queries": {"attn_mask": lambda: torch.randn(1, S, dtype=torch.float64)},
    "grouped": {"enable_gqa": True},
}


class Attend(nn.Module):
    def __init__(self, q: Tensor, k: Tensor, options: dict[str, Any]) -> None:
        super().__init__()
        self.q, self.k, self.options = q, k, options

    def forward(self, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.q, self.k, v, **self.options)


@pytest.mark.parametrize("block", [1, 40, 1 << 22])
@pytest.mark.parametrize("name", CASES)
def test_values_receive_the_transposed_weights(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_BLOCK", block)
    options = {k: v() if callable(v) else v for k, v in CASES[name].items()}
    heads = H // 2 if name == "grouped" else H
    q = torch.randn(N, H, T, D, dtype=torch.float64)
    k, v = (torch.randn(N, heads, S, D, dtype=torch.float64, requires_grad=i == 1) for i in range(2))
    out = F.scaled_dot_product_attention(q, k, v, **options)
    relevance = torch.randn_like(out) * (out != 0)
    (expected,) = torch.autograd.grad(out, v, relevance / out.detach().where(out != 0, torch.ones(())))
    found = rp.LRP(Attend(q, k, options), rp.CPLRP()).explain(v.detach(), target=relevance)
    assert torch.equal(found.output, out)
    assert_close(found.relevance, v.detach() * expected, rtol=1e-10)
    assert_close(found.relevance.sum(), relevance.sum(), rtol=1e-10)
