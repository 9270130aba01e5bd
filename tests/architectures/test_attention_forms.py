"""Attention in all its forms against the same with `detach`, in float64, with random relevance.

AttnLRP: softmax native, each matmul gives half to either operand that depends on an input. CP-LRP: the
weights are constants and the values take everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw, whole
from tests.architectures.detached import Detached, reference
from tests.reference.recipe import fill
from tests.support.compare import assert_close

PRESETS: dict[str, Callable[[], Any]] = {"attnlrp": rp.AttnLRP, "cplrp": rp.CPLRP}
WIDTH, HEADS = 8, 2


def half(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A product's value; half of its relevance to each factor where both depend on an input."""
    return y / 2 + y.detach() / 2 if a.requires_grad and b.requires_grad else y


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cp: bool) -> tuple[Tensor, Tensor]:
    scores = half(q @ k.mT, q, k) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    if cp:
        weights = weights.detach()
    return half(weights @ v, weights, v), weights


class Kernel(nn.Module):
    """F.scaled_dot_product_attention as a model calls it, or the same by hand."""

    def __init__(self, cp: bool | None, **settings: Any) -> None:
        super().__init__()
        self.cp, self.settings = cp, settings

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.cp is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.settings)
        if self.settings.get("is_causal"):
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        if self.settings.get("enable_gqa"):
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        return attend(q, k, v, mask, self.settings.get("scale", 1 / math.sqrt(q.shape[-1])), self.cp)[0]


def _boolean() -> Tensor:
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1, 3:] = mask[4, :2] = False
    return mask


KERNELS: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "plain": ({}, (draw(2, 2, 5, 4), draw(2, 2, 6, 4, seed=2), draw(2, 2, 6, 3, seed=3))),
    "causal": ({"is_causal": True}, (draw(2, 2, 5, 4), draw(2, 2, 5, 4, seed=2), draw(2, 2, 5, 4, seed=3))),
    "grouped": ({"enable_gqa": True}, (draw(2, 4, 5, 4), draw(2, 2, 6, 4, seed=2), draw(2, 2, 6, 4, seed=3))),
    "scale": ({"scale": 0.3}, (draw(2, 2, 5, 4), draw(2, 2, 6, 4, seed=2), draw(2, 2, 6, 4, seed=3))),
    "boolean mask": ({}, (draw(2, 2, 5, 4), draw(2, 2, 6, 4, seed=2), draw(2, 2, 6, 4, seed=3), _boolean())),
    "mask that depends": (
        {},
        (draw(2, 2, 5, 4), draw(2, 2, 6, 4, seed=2), draw(2, 2, 6, 4, seed=3), draw(5, 6, seed=4)),
    ),
    "three dimensions": ({}, (draw(2, 5, 4), draw(2, 6, 4, seed=2), draw(2, 6, 4, seed=3))),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", KERNELS)
def test_fused_kernel(name: str, preset: str) -> None:
    settings, args = KERNELS[name]
    model, oracle = Kernel(None, **settings).eval(), Kernel(preset == "cplrp", **settings)
    r = draw(*model(*args).shape, seed=9)
    value, expected = reference(oracle, args, whole, r)
    explanation = rp.LRP(model, PRESETS[preset]()).explain(*args, target=r)
    assert_close(explanation.output, value, rtol=1e-10, label="forward")
    for found, wanted, label in zip(explanation.relevance, expected, "qkvm"):
        assert_close(found, wanted, rtol=1e-9, label=label)


class Beside(nn.Module):
    """An attention whose values are constants, with a way around it."""

    around = True

    def __init__(self, of_input: str, module: bool, weights: bool = False) -> None:
        super().__init__()
        self.of_input, self.weights = of_input, weights
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) if module else None
        self.memory, self.head = nn.Parameter(torch.empty(2, 4, WIDTH)), nn.Linear(WIDTH, 3)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (x if name in self.of_input else self.memory for name in "qkv")
        if self.attention is None:
            return F.scaled_dot_product_attention(q, k, v)
        return self.attention(q, k, v, need_weights=self.weights)[0]

    def forward(self, x: Tensor) -> Tensor:
        h = self.attend(x).mean(1)
        return self.head(h + x.mean(1) if self.around else h)


@pytest.mark.parametrize("create_graph", [False, True], ids=["plain", "differentiable"])
@pytest.mark.parametrize("kernel", ["function", "module", "module with weights"])
@pytest.mark.parametrize("of_input", ["qk", "q", "k", ""])
def test_constant_values(of_input: str, kernel: str, create_graph: bool) -> None:
    """Under CP-LRP nothing passes an attention whose values are constants: its result is a constant addend."""
    model = Beside(of_input, kernel != "function", kernel.endswith("weights")).double().eval()
    fill(model)
    x = draw(2, 4, WIDTH).requires_grad_()
    lrp = rp.LRP(model, rp.CPLRP())
    e = lrp.explain(x, target=1, create_graph=create_graph)
    assert_close(e.relevance.detach(), (x / 4 * model.head.weight[1]).detach())
    assert_close(
        torch.tensor(e.audit.constants, dtype=torch.float64),
        (model.attend(x).mean(1) @ model.head.weight[1]).sum().detach(),
    )
    if create_graph:  # relevance is linear in the input
        (slope,) = torch.autograd.grad(e.relevance.sum(), x)
        assert_close(slope, (model.head.weight[1] / 4).expand_as(x).detach())
    model.around = False
    with pytest.raises(rp.NoPathError, match="constants alone"):
        lrp.explain(x, target=1, create_graph=create_graph)


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_constant_operand(which: str) -> None:
    """A constant operand's share goes to the others: a learned query makes the scores linear in the keys."""

    class Partly(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.constant = nn.Parameter(draw(1, 2, 5, 4, seed=8))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            tensors = [a, b]
            tensors.insert("qkv".index(which), self.constant.detach())
            return self.inner(*tensors)

    args = (draw(1, 2, 5, 4), draw(1, 2, 5, 4, seed=2))
    model, oracle = Partly(Kernel(None)).eval(), Partly(Kernel(False))
    r = draw(1, 2, 5, 4, seed=9)
    _, expected = reference(oracle, args, whole, r)
    found = rp.LRP(model, rp.AttnLRP()).explain(*args, target=r).relevance
    for first, second in zip(found, expected, strict=True):
        assert_close(first, second, rtol=1e-9)


def multihead(
    m: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cp: bool
) -> tuple[Tensor, Tensor]:
    """``nn.MultiheadAttention`` by hand: ``[N, T, C]`` in and out, a bool or float mask ``[.., Tq, Tk]``."""
    if m._qkv_same_embed_dim:
        wq, wk, wv = m.in_proj_weight.chunk(3)
    else:
        wq, wk, wv = m.q_proj_weight, m.k_proj_weight, m.v_proj_weight
    bq, bk, bv = (None,) * 3 if m.in_proj_bias is None else m.in_proj_bias.chunk(3)
    q, k, v = F.linear(q, wq, bq), F.linear(k, wk, bk), F.linear(v, wv, bv)
    added = 0
    if m.bias_k is not None:
        k, v = (torch.cat((t, b.expand(len(t), 1, -1)), 1) for t, b in ((k, m.bias_k), (v, m.bias_v)))
        added += 1
    if m.add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        added += 1
    if mask is not None and added:
        mask = F.pad(mask, (0, added), value=mask.dtype == torch.bool)
    q, k, v = (t.unflatten(-1, (m.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    out, weights = attend(q, k, v, mask, q.shape[-1] ** -0.5, cp)
    out = F.linear(out.transpose(1, 2).flatten(2), m.out_proj.weight, m.out_proj.bias)
    return out, weights.mean(1)


class Attention(nn.Module):
    """One call of nn.MultiheadAttention; ``cp`` None for the module itself."""

    def __init__(self, cp: bool | None, settings: dict[str, Any], call: dict[str, Any], kind: str) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, **settings)
        self.cp, self.call, self.kind = cp, call, kind

    def forward(self, *args: Tensor) -> Tensor:
        x = args if len(args) == 3 else (args[0], args[-1], args[-1])
        if self.cp is None:
            out, weights = self.inner(*x, **self.call)
            return weights if self.kind == "weights" else out
        mask = self.call.get("attn_mask")
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask
        padding = self.call.get("key_padding_mask")
        if padding is not None:
            seen = ~padding[:, None, None, :]
            mask = seen if mask is None else mask & seen
        first = self.kind == "batch second"
        x = [t.unsqueeze(0) if t.ndim == 2 else t.transpose(0, 1) if first else t for t in x]
        out, weights = multihead(self.inner, *x, mask, self.cp)
        out = out.squeeze(0) if args[0].ndim == 2 else out.transpose(0, 1) if first else out
        return weights if self.kind == "weights" else out


_PADDED = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
_SELF = (draw(2, 5, WIDTH),)
_CROSS = (draw(2, 5, WIDTH), draw(2, 6, WIDTH, seed=2))
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Tensor, ...]]] = {
    "self": ({}, {"need_weights": False}, _SELF),
    "self with weights": ({}, {}, _SELF),
    "cross": ({}, {}, _CROSS),
    "three inputs": ({}, {"need_weights": False}, (*_CROSS, draw(2, 6, WIDTH, seed=3))),
    "own widths": (
        {"kdim": 5, "vdim": 7},
        {},
        (draw(2, 5, WIDTH), draw(2, 6, 5, seed=2), draw(2, 6, 7, seed=3)),
    ),
    "key padding": ({}, {"key_padding_mask": _PADDED}, _CROSS),
    "boolean mask": ({}, {"attn_mask": ~_boolean(), "need_weights": False}, _CROSS),
    "float mask": ({}, {"attn_mask": draw(5, 6, seed=4)}, _CROSS),
    "both masks": ({}, {"attn_mask": ~_boolean(), "key_padding_mask": _PADDED}, _CROSS),
    "without bias": ({"bias": False}, {"need_weights": False}, _SELF),
    "added key and value": ({"add_bias_kv": True}, {}, _CROSS),
    "added zero": ({"add_zero_attn": True}, {}, _CROSS),
    "batch second": ({"batch_first": False}, {}, tuple(t.transpose(0, 1) for t in _CROSS)),
    "no batch": ({}, {"need_weights": False}, (draw(5, WIDTH),)),
    "weights": ({}, {}, _CROSS),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FORMS)
def test_multihead_module(name: str, preset: str) -> None:
    settings, call, args = FORMS[name]
    settings = {"batch_first": True, **settings}
    model, oracle = (Attention(cp, settings, call, name).double() for cp in (None, preset == "cplrp"))
    fill(model)
    oracle.load_state_dict(model.state_dict())
    r = draw(*model(*args).shape, seed=9)
    if name == "weights" and preset == "cplrp":  # which gives the weights nothing: no path is left
        with pytest.raises(rp.RelpropError, match="nothing of the input reaches"):
            rp.LRP(model, PRESETS[preset]()).explain(*args, target=r)
        return
    value, expected = reference(oracle, args, whole, r)
    explanation = rp.LRP(model, PRESETS[preset]()).explain(*args, target=r)
    assert_close(explanation.output, value, rtol=1e-10, label="forward")
    found = explanation.relevance if len(args) > 1 else (explanation.relevance,)
    for first, second in zip(found, expected, strict=True):
        assert_close(first, second, rtol=1e-9)


def transformer(m: nn.Transformer, source: Tensor, target: Tensor, cp: bool, gelu: bool, pre: bool) -> Tensor:
    """``nn.Transformer`` by hand, with a causal decoder."""
    norm = Detached.layer_norm
    activation = Detached.gelu if gelu else F.relu

    def forward(layer: Any, x: Tensor) -> Tensor:
        return layer.linear2(activation(layer.linear1(x)))

    def mix(layer: Any, x: Tensor, steps: list[tuple[Any, Callable[[Tensor], Tensor]]]) -> Tensor:
        for n, step in steps:
            x = x + step(norm(x, n)) if pre else norm(x + step(x), n)
        return x

    x = source
    for layer in m.encoder.layers:
        steps = [
            (layer.norm1, lambda t, a=layer.self_attn: multihead(a, t, t, t, None, cp)[0]),
            (layer.norm2, lambda t, lay=layer: forward(lay, t)),
        ]
        x = mix(layer, x, steps)
    memory = norm(x, m.encoder.norm)
    x = target
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    for layer in m.decoder.layers:
        steps = [
            (layer.norm1, lambda t, a=layer.self_attn: multihead(a, t, t, t, causal, cp)[0]),
            (layer.norm2, lambda t, a=layer.multihead_attn: multihead(a, t, memory, memory, None, cp)[0]),
            (layer.norm3, lambda t, lay=layer: forward(lay, t)),
        ]
        x = mix(layer, x, steps)
    return norm(x, m.decoder.norm)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("pre", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("gelu", [False, True], ids=["relu", "gelu"])
def test_encoder_and_decoder(gelu: bool, pre: bool, preset: str) -> None:
    """nn.Transformer with cross-attention: source and target each get their relevance."""

    class Translate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Transformer(
                WIDTH,
                HEADS,
                2,
                2,
                12,
                activation="gelu" if gelu else "relu",
                batch_first=True,
                norm_first=pre,
            )

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
            return self.inner(source, target, tgt_mask=mask, tgt_is_causal=True)

    model = fill(Translate().double())
    args = (draw(2, 5, WIDTH), draw(2, 4, WIDTH, seed=2))
    r = draw(2, 4, WIDTH, seed=9)
    value, expected = reference(
        lambda s, t: transformer(model.inner, s, t, preset == "cplrp", gelu, pre), args, whole, r
    )
    explanation = rp.LRP(model, PRESETS[preset]()).explain(*args, target=r)
    assert_close(explanation.output, value, rtol=1e-10, label="forward")
    for first, second in zip(explanation.relevance, expected, strict=True):
        assert_close(first, second, rtol=1e-9)
