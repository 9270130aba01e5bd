"""Attention: `scaled_dot_product_attention` through its own kernel, and `multi_head_attention_forward` by parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import ModelStateError
from relprop.numerics import HALF, MANY, dot, occupied, vjp
from relprop.ops.base import Call, Expansion, Fact, Kept, Op
from relprop.ops.packed import packed_linear
from relprop.ops.table import op


class Attention(Op):
    """`y = softmax(q k^T scale + mask) v` by torch's fused kernel, forward and backward.

    roles    which of "q", "k", "v", "mask" each operand is
    """

    family = "attention"
    kind = "attention"

    def __init__(self, inputs: dict[str, Any], options: dict[str, Any], roles: tuple[str, ...]) -> None:
        self.inputs, self.options, self.roles = inputs, options, roles

    def kernel(self, changed: dict[str, Tensor]) -> Tensor:
        """Run the fused kernel with some inputs replaced; they are not kept."""
        inputs, self.inputs = {**self.inputs, **changed}, {}
        return F.scaled_dot_product_attention(
            inputs["q"], inputs["k"], inputs["v"], attn_mask=inputs["mask"], **self.options
        )

    def weighting(self) -> tuple[Weighting, list[Tensor]]:
        """What is left where the attention weights are constants, and its operands beside the values."""
        return Weighting(self.options), [t for r in ("q", "k", "mask") if (t := self.inputs[r]) is not None]

    def entrance(self, taken: Mapping[str, Tensor], shares: Mapping[str, float], few: bool) -> Entrance:
        """What the operands that get a share pass on their way in. few: whether few queries may be looked for."""
        mask = None if "mask" in taken else self.inputs["mask"]
        looks = few and {"q", "k", "v"} <= set(taken) and not ("mask" in self.roles and "mask" not in taken)
        looks = looks and taken["q"].is_cpu and taken["q"].shape[-2] >= MANY
        return Entrance(tuple(taken), shares, {"mask": mask, **self.options} if looks else None)


#: How many attention weights are formed at a time.
_BLOCK = 1 << 22


class Weighting(Op):
    """`y = P v` with constant attention weights `P`: the values receive `P^T g`.

    `P` is formed anew, a block of queries at a time: two products, where the backward of the fused kernel takes five.
    """

    family = "fixed"
    kind = "attention"

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def pull(
        self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor], gs: Sequence[Tensor], books: Any
    ) -> tuple[Tensor | None, ...]:
        v, q, k, *mask = operands
        q, k = (t.to(gs[0].dtype) for t in (q, k))  # as the kernel took them, under autocast too
        groups = q.shape[-3] // k.shape[-3] if self.options["enable_gqa"] else 1
        few = occupied(gs[0], -2)
        parts = []
        for at in self._blocks(q, k) if few is None else [few]:
            weights = attention_weights(q, k, mask[0] if mask else None, at, self.options)
            parts.append(weights.mT @ _some(gs[0], at))
        total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        if groups > 1:
            total = total.unflatten(-3, (-1, groups)).sum(-3)
        return (total.sum_to_size(v.shape), *(None for _ in operands[1:]))

    def _blocks(self, q: Tensor, k: Tensor) -> Iterator[slice]:
        length, source = q.shape[-2], k.shape[-2]
        rows = max(1, _BLOCK * length // max(q[..., 0].numel() * source, 1))
        return (slice(start, start + rows) for start in range(0, length, rows))


def attention_weights(
    q: Tensor, k: Tensor, mask: Tensor | None, at: slice | Tensor, options: Mapping[str, Any]
) -> Tensor:
    """The attention weights of the queries `at`; zero where every key is masked."""
    scale = options["scale"]
    scores = _some(q, at) @ _repeated(k, q, options).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if options["is_causal"]:
        order = torch.arange(max(q.shape[-2], k.shape[-2]), device=q.device)
        scores = scores.masked_fill(order[: k.shape[-2]] > order[: q.shape[-2], None][at], -torch.inf)
    if mask is not None:
        part = mask if mask.ndim < 2 or mask.shape[-2] == 1 else _some(mask, at)
        scores = scores.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else scores + part
    wide = torch.float32 if q.dtype in HALF else None
    if mask is None or not torch.is_grad_enabled():
        weights = torch.softmax(scores, -1, dtype=wide).to(q.dtype)
        return weights if mask is None else weights.nan_to_num(0.0)
    alone = (scores == -torch.inf).all(-1, keepdim=True)  # what is NaN in between has no derivative
    return torch.softmax(scores.masked_fill(alone, 0.0), -1, dtype=wide).to(q.dtype).masked_fill(alone, 0.0)


def _some(t: Tensor, at: slice | Tensor) -> Tensor:
    return t[..., at, :] if isinstance(at, slice) else t.index_select(-2, at)


def _repeated(t: Tensor, q: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Keys or values, once for each of the heads of queries that share them."""
    grouped = options["enable_gqa"] and t.shape[-3] != q.shape[-3]
    return t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) if grouped else t


class Entrance(Op):
    """The operands of a fused kernel on their way in: what its gradient brings back is multiplied by their shares.

    What an operand of the softmax gets was not taken from the others: it is excess of less than nothing. Queries and
    keys get the same amount in all, so that one of them accounts for both.

    Where relevance came to a few queries alone, as it does in the last layer where one token's output is explained,
    the kernel is left out, and the gradients are those of these queries.

    roles, shares   of the operands, which of them they are and which part of its gradient each gets
    options         where few queries are looked for, how the kernel is called: its mask, if that does not enter, too
    """

    family = "fixed"
    kind = "attention"
    within = True

    def __init__(self, roles: tuple[str, ...], shares: Mapping[str, float], options: Mapping[str, Any] | None) -> None:
        self.roles, self.options = roles, options
        self.shares = tuple(shares[r] for r in roles)
        pair = shares.get("q") == shares.get("k") and {"q", "k"} <= set(roles)
        times = {"v": 0.0, "q": 2.0, "k": 0.0} if pair else {"v": 0.0}
        #: How often each operand's relevance is written down.
        self.times = tuple(times.get(r, 1.0) for r in roles)
        self.masks = tuple(r == "mask" for r in roles)

    @property
    def looks(self) -> bool:
        """Whether few queries are looked for."""
        return self.options is not None

    def keep(self, rule: Any, operands: Sequence[Tensor], outputs: Sequence[Tensor]) -> Kept:
        # where few are looked for all are needed; the kernel keeps them anyway
        needed = tuple(x if times or self.looks else None for x, times in zip(operands, self.times, strict=True))
        return needed, (None,) * len(outputs)

    def few(self, g: Tensor) -> Tensor | None:
        """What the kernel's backward is given of the gradient at its output: nothing, where `pull` is."""
        queries = occupied(g, -2)
        self.brought = None if queries is None else (queries, g.index_select(-2, queries))
        return g if queries is None else None

    def _of_few(self, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
        (queries, g), self.brought = self.brought, None
        options = self.options
        assert options is not None

        def attended(*entering: Tensor) -> Tensor:
            given = dict(zip(self.roles, entering, strict=True))
            q, k, v = (given[r].to(g.dtype) for r in ("q", "k", "v"))  # as the kernel took them, under autocast too
            weights = attention_weights(q, k, given.get("mask", options["mask"]), queries, options)
            return weights @ _repeated(v, q, options)

        return vjp(attended, operands, g)

    def pull(
        self,
        rule: Any,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor | None],
        books: Any,
    ) -> tuple[Tensor | None, ...]:
        if self.brought is not None:
            gs = self._of_few(operands)
        for x, g, share, times, mask in zip(operands, gs, self.shares, self.times, self.masks, strict=True):
            if times and g is not None:
                books.add("excess", _masked_product(x, g) if mask else dot(x, g), -share * times)
        return tuple(map(self._part, gs, self.shares, self.masks))

    def _part(self, g: Tensor | None, share: float, mask: bool) -> Tensor | None:
        """What the kernel's backward made of queries, keys and values is nobody else's."""
        if g is None or share == 1:
            return g
        return g * share if mask or torch.is_grad_enabled() else g.mul_(share)


def _masked_product(value: Tensor, gradient: Tensor) -> Tensor:
    return dot(torch.where(value.isinf(), 0.0, value), gradient)


@op("scaled_dot_product_attention")
def sdpa(call: Call) -> Op:
    q, k, v, mask, p, causal, scale, gqa = call.bind(
        "query key value attn_mask dropout_p is_causal scale enable_gqa",
        attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False,
    )  # fmt: skip
    if p > 0:
        raise ModelStateError(
            f"attention with dropout p = {p} (module {call.path or '(model)'!r}): the explanation would be random. "
            "Call model.eval() first."
        )
    inputs = {"q": q, "k": k, "v": v, "mask": mask}
    roles = tuple(role for role, value in inputs.items() if call.depends(value))
    options = {"is_causal": causal, "scale": scale, "enable_gqa": gqa}
    made = Attention(inputs, options, roles)
    made.operands, made.run = tuple(inputs[r] for r in roles), call.run
    made.fact = Fact()
    return made


@op("multi_head_attention_forward")
def multi_head(call: Call) -> Expansion:
    """The parts of `nn.MultiheadAttention`, called one by one so that each is seen."""
    names = (
        "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn "
        "dropout_p out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask "
        "use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k static_v average_attn_weights "
        "is_causal"
    )
    values = call.bind(
        names, training=True, key_padding_mask=None, need_weights=True, attn_mask=None,
        use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None, v_proj_weight=None, static_k=None,
        static_v=None, average_attn_weights=True, is_causal=False,
    )  # fmt: skip
    a = dict(zip(names.split(), values, strict=True))
    if a["training"] and a["dropout_p"] > 0:
        raise ModelStateError(
            f"attention with dropout p = {a['dropout_p']} in training mode: the explanation would be random. "
            "Call model.eval() first."
        )
    return Expansion(lambda: _multi_head(a))


def _multi_head(a: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Shapes: query [T, N, E], key and value [S, N, ...] (or without N)."""
    query, key, value, heads = a["query"], a["key"], a["value"], a["num_heads"]
    single = query.ndim == 2
    if single:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        if a["key_padding_mask"] is not None:
            a = {**a, "key_padding_mask": a["key_padding_mask"].unsqueeze(0)}
    length, batch, width = query.shape
    q, k, v = _projected(a, query, key, value)
    mask, padding = a["attn_mask"], a["key_padding_mask"]
    if a["bias_k"] is not None:
        k = torch.cat([k, a["bias_k"].repeat(1, batch, 1)])
        v = torch.cat([v, a["bias_v"].repeat(1, batch, 1)])
        mask, padding = _one_more(mask), _one_more(padding)
    head = width // heads
    whole = a["static_k"] is None and a["static_v"] is None and not a["add_zero_attn"]
    if whole and not a["need_weights"] and mask is None and padding is None:
        q, k, v = (t.view(t.shape[0], batch, heads, head).permute(1, 2, 0, 3) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, None, 0.0, bool(a["is_causal"]))
        return _put_out(a, out, single), None
    q = q.view(length, batch * heads, head).transpose(0, 1)
    k = a["static_k"] if a["static_k"] is not None else k.view(k.shape[0], batch * heads, head).transpose(0, 1)
    v = a["static_v"] if a["static_v"] is not None else v.view(v.shape[0], batch * heads, head).transpose(0, 1)
    if a["add_zero_attn"]:
        zero = torch.zeros(batch * heads, 1, head, dtype=k.dtype, device=k.device)
        k, v = torch.cat([k, zero], 1), torch.cat([v, zero], 1)
        mask, padding = _one_more(mask), _one_more(padding)
    source = k.shape[1]
    mask = _joined_mask(mask, padding, batch, heads, length, source, q.dtype)
    if not a["need_weights"]:
        causal = bool(a["is_causal"]) and padding is None and mask is None
        shape = (batch, heads)
        if mask is not None:
            mask = mask.view(batch, heads, -1, source) if mask.shape[0] == batch * heads else mask.unsqueeze(0)
        out = F.scaled_dot_product_attention(
            q.view(*shape, length, head),
            k.view(*shape, source, head),
            v.view(*shape, source, head),
            mask,
            0.0,
            causal,
        )
        return _put_out(a, out, single), None
    scores = torch.bmm(q * head**-0.5, k.transpose(-2, -1))
    if mask is not None:
        scores = scores + mask.to(scores.dtype)  # autocast gives scores a type of their own
    weights = torch.softmax(scores, -1)
    out = torch.bmm(weights, v).transpose(0, 1).contiguous().view(length * batch, width)
    out = F.linear(out, a["out_proj_weight"], a["out_proj_bias"]).view(length, batch, width)
    weights = weights.view(batch, heads, length, source)
    if a["average_attn_weights"]:
        weights = weights.mean(1)
    if single:
        return out.squeeze(1), weights.squeeze(0)
    return out, weights


def _put_out(a: dict[str, Any], heads: Tensor, single: bool) -> Tensor:
    """From the heads' results, [N, heads, T, E / heads], to the layer's."""
    batch, _, length, _ = heads.shape
    out = heads.permute(2, 0, 1, 3).contiguous().view(batch * length, -1)
    out = F.linear(out, a["out_proj_weight"], a["out_proj_bias"])
    return out if single else out.view(length, batch, -1)


def _projected(a: dict[str, Any], query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    bias = a["in_proj_bias"]
    if a["use_separate_proj_weight"]:
        weights = (a["q_proj_weight"], a["k_proj_weight"], a["v_proj_weight"])
    else:
        if query is key and key is value:
            return packed_linear(query, a["in_proj_weight"], bias, 3)  # type: ignore[return-value]
        weights = a["in_proj_weight"].chunk(3)
    parts = (None, None, None) if bias is None else bias.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, parts, strict=True))
    return q, k, v


def _one_more(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else F.pad(mask, (0, 1))


def _joined_mask(
    mask: Tensor | None,
    padding: Tensor | None,
    batch: int,
    heads: int,
    length: int,
    source: int,
    dtype: torch.dtype,
) -> Tensor | None:
    """Attention mask and key padding as one additive mask [N * heads or 1, T, S]."""
    if mask is not None:
        mask = _additive(mask, dtype)
        if mask.ndim == 2:
            mask = mask.unsqueeze(0)
    if padding is not None:
        spread = _additive(padding, dtype).view(batch, 1, 1, source).expand(-1, heads, -1, -1)
        spread = spread.reshape(batch * heads, 1, source)
        mask = spread.expand(-1, length, -1) if mask is None else mask + spread
    return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
    return mask
