"""MambaLRP on the stock classes against a state-space model written with constants where its rules say so.

Jafari et al. 2024 (arXiv 2406.07592): the discretised state matrix, the input and output matrices and the
step size are constants, so that the scan is linear in the signal; SiLU passes relevance; the output gate
takes half; the root mean square is a constant. What is left is gradient times input.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.support.compare import assert_close
from tests.transformers.zoo_models import make

pytest.importorskip("transformers", reason="the stock classes come from transformers")


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x).detach()


def half(y: Tensor) -> Tensor:
    return y / 2 + y.detach() / 2


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt().detach() * weight


def convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Causal depthwise convolution of ``[N, T, C]``."""
    return conv(x.mT)[..., : x.shape[1]].mT


def scan(x: Tensor, decay: Tensor, into: Tensor, out: Tensor) -> Tensor:
    """``h_t = decay_t h_{t-1} + into_t x_t, y_t = sum out_t h_t``; x ``[N, T, C]``, else ``[N, T, C, S]``."""
    decay, into, out = decay.detach(), into.detach(), out.detach()
    h = torch.zeros_like(into[:, 0])
    found = []
    for t in range(x.shape[1]):
        h = decay[:, t] * h + into[:, t] * x[:, t, :, None]
        found.append((h * out[:, t]).sum(-1))
    return torch.stack(found, 1)


def mamba(m: Any, u: Tensor) -> Tensor:
    x, gate = m.in_proj(u).chunk(2, -1)
    x = silu(convolved(x, m.conv1d))
    step, b, c = m.x_proj(x).split([m.time_step_rank, m.ssm_state_size, m.ssm_state_size], -1)
    step = F.softplus(m.dt_proj(step))  # [N, T, C]
    decay = torch.exp(-torch.exp(m.A_log) * step[..., None])
    into = step[..., None] * b[:, :, None, :]
    y = scan(x, decay, into, c[:, :, None, :].expand_as(into)) + x * m.D
    return m.out_proj(half(y * silu(gate)))


def mamba2(m: Any, u: Tensor) -> Tensor:
    gate, mixed, step = m.in_proj(u).split([m.intermediate_size, m.conv_dim, m.num_heads], -1)
    states = m.n_groups * m.ssm_state_size
    x, b, c = silu(convolved(mixed, m.conv1d)).split([m.intermediate_size, states, states], -1)
    step = F.softplus(step + m.dt_bias)  # [N, T, H]
    decay = torch.exp(-torch.exp(m.A_log) * step)

    def spread(t: Tensor) -> Tensor:
        """A number a head, for every channel."""
        return t.repeat_interleave(m.head_dim, -1)[..., None]

    def grouped(t: Tensor) -> Tensor:
        """A state vector a group, for every channel."""
        return t.unflatten(-1, (m.n_groups, -1)).repeat_interleave(m.intermediate_size // m.n_groups, 2)

    into = spread(step) * grouped(b)
    y = scan(x, spread(decay).expand_as(into), into, grouped(c)) + x * spread(m.D)[..., 0]
    y = half(y * silu(gate))
    size = getattr(m.norm, "group_size", None)
    if size is None:
        pytest.skip("transformers 5.20 rounds to float32 in this norm, whatever the model does: 5.23 does not")
    y = rms(y.unflatten(-1, (-1, size)), torch.ones(()), m.norm.variance_epsilon).flatten(-2) * m.norm.weight
    return m.out_proj(y)


MIXERS = {"mamba": mamba, "mamba2": mamba2}


def oracle(name: str, model: Any, embeds: Tensor) -> Tensor:
    """Logits ``[N, T, V]``."""
    x = embeds
    for layer in model.backbone.layers:
        eps = layer.norm.variance_epsilon
        x = x + MIXERS[name](layer.mixer, rms(x, layer.norm.weight, eps))
    norm = model.backbone.norm_f
    return model.lm_head(rms(x, norm.weight, norm.variance_epsilon))


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("name", MIXERS)
def test_stock_class(name: str, cached: bool) -> None:
    model = make(name).model.double()
    embeds = torch.randn(2, 7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    r = torch.randn(2, 7, 61, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given = embeds.clone().requires_grad_()
    logits = oracle(name, model, given)
    (gradient,) = torch.autograd.grad(logits, given, r / logits.detach())

    explanation = rp.LRP(model, rp.MambaLRP()).explain(
        inputs_embeds=embeds, use_cache=cached, target=lambda output: output.logits, seed=r.float()
    )

    assert_close(explanation.output.logits.double(), logits.detach(), rtol=1e-5, label="forward")
    found = explanation.relevance
    found = found["inputs_embeds"] if isinstance(found, dict) else found
    assert_close(found.double(), embeds * gradient, rtol=1e-4, label="relevance")  # norms run in float32
