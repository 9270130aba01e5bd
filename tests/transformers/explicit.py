"""Transformers in explicit relevance form: the oracle, slow and obvious, without autograd or library code.

Every function returns its value and a function that takes the relevance of that value back to the relevance
of what it was made from. Rules (Achtibat et al. 2024, AttnLRP; Ali et al. 2022, CP-LRP):

====================  ========================================================================
linear                ``R_j = sum_k x_j w_kj / z_k R_k``; the bias keeps its share (gamma: see `Rules`)
sum                   each addend its signed share (ResLRP: see `Rules`)
root-mean-square norm relevance passes
layer norm            the standard deviation is a constant; centring and scaling are linear maps
elementwise function  relevance passes
product, matmul       half to each factor, in the factor by the share of each term
softmax (AttnLRP)     ``R_i = x_i (R_i - s_i sum_j R_j)``
attention (CP-LRP)    the probabilities are constants, the values take everything; so do gated units' values
====================  ========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Back = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rules:
    """AttnLRP, and what other rule sets change.

    softmax, gate  whether relevance enters them; not so in CP-LRP
    gamma          of the generalised gamma rule on linear maps: contributions of z's sign count more
    residual       of ResLRP's sums: the addends of the sum's sign count more
    """

    softmax: bool = True
    gate: bool = True
    gamma: float = 0.0
    residual: float = 0.0


def linear(x: Tensor, w: Tensor, b: Tensor | None, rules: Rules) -> tuple[Tensor, Back]:
    """``x [..., I], w [O, I] -> [..., O]``."""
    bias = torch.zeros(w.shape[0], dtype=w.dtype) if b is None else b
    z = x @ w.T + bias

    def back(r: Tensor) -> Tensor:
        parts = x.unsqueeze(-2) * w  # [..., O, I]
        sign = z.sign().unsqueeze(-1)
        parts = parts + rules.gamma * torch.where(parts * sign > 0, parts, 0.0)
        shift = bias + rules.gamma * torch.where(bias * z > 0, bias, 0.0)
        shares = parts / (parts.sum(-1) + shift).unsqueeze(-1)
        return (shares * r.unsqueeze(-1)).sum(-2)

    return z, back


def add(a: Tensor, b: Tensor, rules: Rules) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """A residual sum."""
    y = a + b
    parts = [t * (1 + rules.residual * (t * y > 0)) for t in (a, b)]
    whole = parts[0] + parts[1]
    return y, lambda r: (r * parts[0] / whole, r * parts[1] / whole)


def rms_norm(x: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Back]:
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w
    return y, lambda r: r


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Back]:
    size = x.shape[-1]
    centre = torch.eye(size, dtype=x.dtype) - 1 / size
    std = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    y = (x @ centre.T) / std * w + b

    def back(r: Tensor) -> Tensor:
        # y_k = sum_j (w_k centre_kj / std) x_j + b_k, with std a number
        matrix = w.unsqueeze(-1) * centre / std.unsqueeze(-1)  # [..., O, I]
        return (x.unsqueeze(-2) * matrix / y.unsqueeze(-1) * r.unsqueeze(-1)).sum(-2)

    return y, back


def rotate(x: Tensor, matrices: Tensor) -> tuple[Tensor, Back]:
    """A linear map of its own at each position: ``x [H, T, D], matrices [T, D, D]``."""
    y = torch.einsum("tij,htj->hti", matrices, x)

    def back(r: Tensor) -> Tensor:
        return x * torch.einsum("tij,hti->htj", matrices, r / y)

    return y, back


def rotary(tokens: int, size: int, base: float = 10000.0) -> Tensor:
    """Rotary position embedding as matrices ``[T, D, D]``; dimension d pairs with d + D/2."""
    half = size // 2
    matrices = torch.zeros(tokens, size, size, dtype=torch.float64)
    for t in range(tokens):
        for d in range(half):
            angle = torch.tensor(t / base ** (2 * d / size), dtype=torch.float64)
            cos, sin = angle.cos(), angle.sin()
            matrices[t, d, d] = matrices[t, d + half, d + half] = cos
            matrices[t, d, d + half] = -sin
            matrices[t, d + half, d] = sin
    return matrices


def attend(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, softmax: bool
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """Attention of ``[H, T, D]``; ``softmax``: does relevance enter the scores (AttnLRP) or not (CP-LRP)."""
    scale = q.shape[-1] ** -0.5
    terms = q.unsqueeze(2) * k.unsqueeze(1)  # [H, I, J, D]
    dots = terms.sum(-1)
    scores = dots * scale
    weights = torch.where(allowed, scores, -torch.inf).softmax(-1)
    parts = weights.unsqueeze(-1) * v.unsqueeze(1)  # [H, I, J, D]
    out = parts.sum(2)

    def back(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shares = parts * (r / out).unsqueeze(2)  # [H, I, J, D]
        if not softmax:
            return torch.zeros_like(q), torch.zeros_like(k), shares.sum(1)
        r_weights, r_v = shares.sum(-1) / 2, shares.sum(1) / 2
        r_scores = scores * (r_weights - weights * r_weights.sum(-1, keepdim=True))
        pairs = terms * (r_scores / dots).unsqueeze(-1) / 2
        return pairs.sum(2), pairs.sum(1), r_v

    return out, back


def heads(x: Tensor, count: int) -> Tensor:
    """``[T, H * D] -> [H, T, D]``."""
    return x.reshape(x.shape[0], count, -1).transpose(0, 1)


def unheads(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


ATTN = Rules()
CP = Rules(softmax=False, gate=False)
GAMMA = Rules(gamma=0.1)
RES = Rules(residual=1.0)


def llama_block(
    x: Tensor, p: dict[str, Tensor], count: int, groups: int, matrices: Tensor, eps: float, rules: Rules
) -> tuple[Tensor, Back]:
    """One pre-norm block with rotary grouped-query attention and SwiGLU."""
    tokens = x.shape[0]
    n1, back_n1 = rms_norm(x, p["norm1"], eps)
    q, back_q = linear(n1, p["q"], p.get("q_bias"), rules)
    k, back_k = linear(n1, p["k"], p.get("k_bias"), rules)
    v, back_v = linear(n1, p["v"], p.get("v_bias"), rules)
    q, k = heads(q, count), heads(k, groups)
    q, back_rq = rotate(q, matrices)
    k, back_rk = rotate(k, matrices)
    repeats = count // groups
    allowed = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    wide_k, wide_v = k.repeat_interleave(repeats, 0), heads(v, groups).repeat_interleave(repeats, 0)
    o, back_o = attend(q, wide_k, wide_v, allowed, rules.softmax)
    a, back_a = linear(unheads(o), p["o"], None, rules)
    h, back_h = add(x, a, rules)
    n2, back_n2 = rms_norm(h, p["norm2"], eps)
    gate, back_gate = linear(n2, p["gate"], None, rules)
    up, back_up = linear(n2, p["up"], None, rules)
    act = gate * torch.sigmoid(gate)
    down, back_down = linear(act * up, p["down"], None, rules)
    y, back_y = add(h, down, rules)

    def back(r: Tensor) -> Tensor:
        r_h, r_down = back_y(r)
        r_product = back_down(r_down)
        r_n2 = back_gate(r_product / 2) + back_up(r_product / 2) if rules.gate else back_up(r_product)
        r_h = r_h + back_n2(r_n2)
        r_x, r_a = back_h(r_h)
        r_q, r_k, r_v = back_o(heads(back_a(r_a), count))
        r_k, r_v = (t.reshape(groups, repeats, *t.shape[1:]).sum(1) for t in (r_k, r_v))
        r_n1 = back_v(unheads(r_v))
        if rules.softmax:
            r_n1 = r_n1 + back_q(unheads(back_rq(r_q))) + back_k(unheads(back_rk(r_k)))
        return r_x + back_n1(r_n1)

    return y, back


def bert_block(
    x: Tensor,
    p: dict[str, Tensor],
    count: int,
    eps: float,
    rules: Rules,
    function: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Back]:
    """One post-norm block with full attention and a one-function feed-forward part."""
    tokens = x.shape[0]
    q, back_q = linear(x, p["q"], p["q_bias"], rules)
    k, back_k = linear(x, p["k"], p["k_bias"], rules)
    v, back_v = linear(x, p["v"], p["v_bias"], rules)
    allowed = torch.ones(tokens, tokens, dtype=torch.bool)
    o, back_o = attend(heads(q, count), heads(k, count), heads(v, count), allowed, rules.softmax)
    a, back_a = linear(unheads(o), p["o"], p["o_bias"], rules)
    s1, back_s1 = add(x, a, rules)
    h, back_h = layer_norm(s1, p["norm1"], p["norm1_bias"], eps)
    inner, back_inner = linear(h, p["up"], p["up_bias"], rules)
    down, back_down = linear(function(inner), p["down"], p["down_bias"], rules)
    s2, back_s2 = add(h, down, rules)
    y, back_y = layer_norm(s2, p["norm2"], p["norm2_bias"], eps)

    def back(r: Tensor) -> Tensor:
        r_h, r_down = back_s2(back_y(r))
        r_h = r_h + back_inner(back_down(r_down))
        r_x, r_a = back_s1(back_h(r_h))
        r_q, r_k, r_v = back_o(heads(back_a(r_a), count))
        r_x = r_x + back_v(unheads(r_v))
        if rules.softmax:
            r_x = r_x + back_q(unheads(r_q)) + back_k(unheads(r_k))
        return r_x

    return y, back


def stack(x: Tensor, blocks: list[Callable[[Tensor], tuple[Tensor, Back]]]) -> tuple[Tensor, Back]:
    backs: list[Back] = []
    for block in blocks:
        x, back = block(x)
        backs.append(back)

    def through(r: Tensor) -> Tensor:
        for back in reversed(backs):
            r = back(r)
        return r

    return x, through
