"""AttnLRP and CP-LRP against the explicit relevance form, float64, relevance independent of the output.

The networks are written in every way that users write them: fused attention and norms, the same by hand, and
the stock classes of transformers. One oracle serves them all.
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
from tests.reference.recipe import fill
from tests.support.compare import assert_close
from tests.transformers import explicit
from tests.transformers.explicit import ATTN, CP, GAMMA, RES, Rules

EPS = 1e-5
TOKENS, SIZE, INNER, HEADS, GROUPS, OUT = 6, 16, 20, 4, 2, 5

PRESETS: list[tuple[Callable[[], Any], Rules]] = [
    (rp.AttnLRP, ATTN),
    (rp.CPLRP, CP),
    (lambda: rp.AttnLRP(linear_gamma=GAMMA.gamma), GAMMA),
    (lambda: rp.ResLRP(gamma=RES.residual), RES),
]
PRESET_IDS = ["attnlrp", "cplrp", "gamma", "reslrp"]


class RMSNorm(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE))
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "fused":
            return F.rms_norm(x, (SIZE,), self.weight, EPS)
        if self.form == "rsqrt":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS))
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * self.weight


def softmax(x: Tensor, form: str) -> Tensor:
    if form == "fused":
        return x.softmax(-1)
    if form == "rsqrt":  # shifted
        e = torch.exp(x - x.max(-1, keepdim=True).values)
        return e / e.sum(-1, keepdim=True)
    e = x.exp()
    return e / e.sum(-1, keepdim=True)


def silu(x: Tensor, form: str) -> Tensor:
    if form == "fused":
        return F.silu(x)
    return x * torch.sigmoid(x) if form == "rsqrt" else x / (1 + torch.exp(-x))


class LlamaBlock(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        width = SIZE // HEADS
        self.norm1, self.norm2 = RMSNorm(form), RMSNorm(form)
        self.q = nn.Linear(SIZE, SIZE, bias=False)
        self.k = nn.Linear(SIZE, GROUPS * width, bias=False)
        self.v = nn.Linear(SIZE, GROUPS * width, bias=False)
        self.o = nn.Linear(SIZE, SIZE, bias=False)
        self.gate = nn.Linear(SIZE, INNER, bias=False)
        self.up = nn.Linear(SIZE, INNER, bias=False)
        self.down = nn.Linear(INNER, SIZE, bias=False)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (m(x).unflatten(-1, (-1, SIZE // HEADS)).transpose(1, 2) for m in (self.q, self.k, self.v))

        def turn(t: Tensor) -> Tensor:
            first, second = t.chunk(2, -1)
            return t * cos + torch.cat((-second, first), -1) * sin

        q, k = turn(q), turn(k)
        if self.form == "fused":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            k, v = (t.repeat_interleave(HEADS // GROUPS, 1) for t in (k, v))
            mask = torch.full((tokens, tokens), -torch.inf, dtype=x.dtype).triu(1)
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask
            out = torch.matmul(softmax(scores, self.form), v)
        return self.o(out.transpose(1, 2).reshape(batch, tokens, SIZE))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x), cos, sin)
        n = self.norm2(x)
        return x + self.down(silu(self.gate(n), self.form) * self.up(n))


class Llama(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(LlamaBlock(form) for _ in range(2))
        self.norm = RMSNorm(form)
        self.head = nn.Linear(SIZE, OUT, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        width = SIZE // HEADS
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10000 ** (
            torch.arange(0, width, 2, dtype=x.dtype) / width
        )
        cos, sin = (torch.cat((t, t), -1) for t in (angles.cos(), angles.sin()))
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def llama_oracle(model: Llama, x: Tensor, r: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Output and input relevance of one sample, ``x [T, C], r [T, OUT]``."""
    matrices = explicit.rotary(x.shape[0], SIZE // HEADS)
    blocks: list[Any] = []
    for block in model.blocks:
        p = {name.removesuffix(".weight"): t.detach() for name, t in block.named_parameters()}
        blocks.append(lambda t, p=p: explicit.llama_block(t, p, HEADS, GROUPS, matrices, EPS, rules))
    blocks.append(lambda t: explicit.rms_norm(t, model.norm.weight.detach(), EPS))
    blocks.append(lambda t: explicit.linear(t, model.head.weight.detach(), None, rules))
    y, back = explicit.stack(x, blocks)
    return y, back(r)


def gelu(x: Tensor, form: str) -> Tensor:
    if form == "fused":
        return F.gelu(x)
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, form: str) -> Tensor:
    if form == "fused":
        return F.layer_norm(x, (x.shape[-1],), weight, bias, EPS)
    centred = x - x.mean(-1, keepdim=True)
    if form == "rsqrt":
        return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + EPS) * weight + bias
    return centred / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + EPS) * weight + bias


class BertBlock(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(SIZE, eps=EPS), nn.LayerNorm(SIZE, eps=EPS)
        self.up, self.down = nn.Linear(SIZE, INNER), nn.Linear(INNER, SIZE)

    def norm(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return layer_norm(x, norm.weight, norm.bias, self.form)

    def attend(self, x: Tensor) -> Tensor:
        if self.form != "sqrt":  # with and without returned weights: two ways through nn.MultiheadAttention
            return self.attention(x, x, x, need_weights=self.form == "rsqrt")[0]
        qkv = F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in qkv.chunk(3, -1))
        weights = softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, self.form)
        out = torch.einsum("bhij,bhjd->bhid", weights, v)
        return self.attention.out_proj(out.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.norm1, x + self.attend(x))
        return self.norm(self.norm2, x + self.down(gelu(self.up(x), self.form)))

    def numbers(self) -> dict[str, Tensor]:
        """Parameters by the oracle's names."""
        p: dict[str, Tensor] = {}
        for name, w, b in zip(
            "qkv", self.attention.in_proj_weight.chunk(3), self.attention.in_proj_bias.chunk(3), strict=True
        ):
            p |= {name: w, f"{name}_bias": b}
        for name, m in {"o": self.attention.out_proj, **dict(self.named_children())}.items():
            if name != "attention":
                p |= {name: m.weight, f"{name}_bias": m.bias}
        return {name: t.detach() for name, t in p.items()}


class Bert(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.blocks = nn.Sequential(BertBlock(form), BertBlock(form))
        self.pool, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.pool(self.blocks(x)[:, 0])))


def bert_oracle(model: Bert, x: Tensor, r: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Output and input relevance of one sample, ``x [T, C], r [OUT]``."""

    def function(t: Tensor) -> Tensor:
        return 0.5 * t * (1 + torch.erf(t / math.sqrt(2)))

    blocks: list[Any] = [
        lambda t, p=p: explicit.bert_block(t, p, HEADS, EPS, rules, function)
        for p in [block.numbers() for block in model.blocks]  # type: ignore[operator]
    ]
    h, back = explicit.stack(x, blocks)
    pooled, back_pool = explicit.linear(h[0], model.pool.weight.detach(), model.pool.bias.detach(), rules)
    y, back_head = explicit.linear(pooled.tanh(), model.head.weight.detach(), model.head.bias.detach(), rules)
    r_h = torch.zeros_like(h)
    r_h[0] = back_pool(back_head(r))
    return y, back(r_h)


NETS: dict[str, tuple[Callable[[str], nn.Module], Callable[..., tuple[Tensor, Tensor]], tuple[int, ...]]] = {
    "llama": (Llama, llama_oracle, (TOKENS, OUT)),
    "bert": (Bert, bert_oracle, (OUT,)),
}


def relevance_of(explanation: Any) -> Tensor:
    found = explanation.relevance
    while isinstance(found, dict | tuple | list):
        found = next(iter(found.values())) if isinstance(found, dict) else found[0]
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("preset, rules", PRESETS, ids=PRESET_IDS)
@pytest.mark.parametrize("form", ["fused", "rsqrt", "sqrt"])
@pytest.mark.parametrize("net", NETS)
def test_written_out_network(net: str, form: str, preset: Callable[[], Any], rules: Rules) -> None:
    make, oracle, shape = NETS[net]
    model = fill(make(form).double(), seed=3)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, TOKENS, SIZE, dtype=torch.float64, generator=generator)
    r = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    expected = [oracle(model, x[i], r[i], rules) for i in range(2)]

    explanation = rp.LRP(model, preset()).explain(x, target=r)

    assert_close(explanation.output, torch.stack([y for y, _ in expected]), rtol=1e-12, label="forward")
    assert_close(explanation.relevance, torch.stack([rel for _, rel in expected]), rtol=1e-9, label="relevance")


@pytest.mark.parametrize("net", NETS)
def test_the_oracle_conserves_without_biases(net: str) -> None:
    """Of the oracle itself: CP-LRP loses nothing where no bias takes a share."""
    make, oracle, shape = NETS[net]
    model = fill(make("fused").double(), seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(TOKENS, SIZE, dtype=torch.float64, generator=generator)
    r = torch.randn(*shape, dtype=torch.float64, generator=generator)
    _, relevance = oracle(model, x, r, CP)
    assert abs(relevance.sum() - r.sum()) < 1e-8 * r.abs().sum()


def _stock_llama(attention: str) -> tuple[nn.Module, Any]:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=OUT, hidden_size=SIZE, intermediate_size=INNER, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, max_position_embeddings=32, rms_norm_eps=EPS,
    )  # fmt: skip
    config._attn_implementation = attention
    stock = fill(transformers.LlamaForCausalLM(config).double(), seed=3)
    ours = Llama("fused").double()
    names = {
        "input_layernorm": "norm1", "post_attention_layernorm": "norm2", "self_attn.": "", "mlp.": "",
        "model.layers": "blocks", "model.norm": "norm", "lm_head": "head", "_proj": "",
    }  # fmt: skip
    state = {}
    for name, value in stock.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    state.pop("model.embed_tokens.weight")
    ours.load_state_dict(state)
    return stock, ours


@pytest.mark.parametrize("preset, rules", PRESETS, ids=PRESET_IDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_stock_llama(attention: str, preset: Callable[[], Any], rules: Rules) -> None:
    """The stock class computes its norms and rotations in float32: hence the tolerance."""
    stock, ours = _stock_llama(attention)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, TOKENS, SIZE, dtype=torch.float64, generator=generator)
    r = torch.randn(1, TOKENS, OUT, dtype=torch.float64, generator=generator)
    y, expected = llama_oracle(ours, x[0], r[0], rules)  # type: ignore[arg-type]

    explanation = rp.LRP(stock, preset()).explain(inputs_embeds=x, target=lambda o: o.logits, seed=r)

    assert_close(explanation.output.logits[0], y, rtol=1e-6, label="forward")
    assert_close(relevance_of(explanation)[0], expected, rtol=1e-5, label="relevance")


@pytest.mark.parametrize("preset, rules", PRESETS, ids=PRESET_IDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_stock_bert_encoder(attention: str, preset: Callable[[], Any], rules: Rules) -> None:
    """Three encoder layers of the stock BERT, float64 throughout."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=OUT, hidden_size=SIZE, intermediate_size=INNER, num_hidden_layers=3,
        num_attention_heads=HEADS, layer_norm_eps=EPS,
    )  # fmt: skip
    config._attn_implementation = attention
    encoder = fill(transformers.BertModel(config).double(), seed=3).encoder
    names = {
        "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
        "o": "attention.output.dense", "norm1": "attention.output.LayerNorm", "up": "intermediate.dense",
        "down": "output.dense", "norm2": "output.LayerNorm",
    }  # fmt: skip
    blocks: list[Any] = []
    for layer in encoder.layer:
        p: dict[str, Tensor] = {}
        for short, long in names.items():
            module = layer.get_submodule(long)
            p |= {short: module.weight.detach(), f"{short}_bias": module.bias.detach()}
        blocks.append(lambda t, p=p: explicit.bert_block(t, p, HEADS, EPS, rules, lambda u: F.gelu(u)))
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, TOKENS, SIZE, dtype=torch.float64, generator=generator)
    r = torch.randn(1, TOKENS, SIZE, dtype=torch.float64, generator=generator)
    y, back = explicit.stack(x[0], blocks)

    explanation = rp.LRP(encoder, preset()).explain(x, target=lambda output: output.last_hidden_state, seed=r)

    assert_close(explanation.output.last_hidden_state[0], y, rtol=1e-12, label="forward")
    assert_close(relevance_of(explanation)[0], back(r[0]), rtol=1e-9, label="relevance")


@pytest.mark.parametrize("preset, rules", PRESETS, ids=PRESET_IDS)
def test_relevance_between_blocks(preset: Callable[[], Any], rules: Rules) -> None:
    """`layers=` reads what stands at a block's output: the oracle of the blocks above it."""
    model = fill(Llama("fused").double(), seed=3)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, TOKENS, SIZE, dtype=torch.float64, generator=generator)
    r = torch.randn(1, TOKENS, OUT, dtype=torch.float64, generator=generator)
    above = Llama("fused").double()
    above.load_state_dict(model.state_dict())
    above.blocks = above.blocks[1:]
    with torch.no_grad():
        angles = torch.arange(TOKENS, dtype=x.dtype)[:, None] / 10000 ** (torch.arange(0, 4, 2, dtype=x.dtype) / 4)
        cos, sin = (torch.cat((t, t), -1) for t in (angles.cos(), angles.sin()))
        middle = model.blocks[0](x, cos, sin)
    _, expected = llama_oracle(above, middle[0], r[0], rules)

    explanation = rp.LRP(model, preset()).explain(x, target=r, layers=["blocks.?"])

    assert set(explanation.layers) == {"blocks.0", "blocks.1"}
    assert_close(explanation.layers["blocks.0"][0], expected, rtol=1e-9)
