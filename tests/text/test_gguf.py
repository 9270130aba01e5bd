"""Llama models from GGUF files, against files written here byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the model class comes from transformers")

from relprop.errors import InputError
from relprop.text import load
from relprop.text.gguf import read_header, read_tensors
from tests.text import tiny

F32, F16, Q4_0, Q4_1, Q8_0 = 0, 1, 2, 3, 8


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def field(value: Any) -> bytes:
    """A value with its type, as the format writes it."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    kind, items = (
        (8, [string(v) for v in value]) if isinstance(value[0], str) else (5, [struct.pack("<i", v) for v in value])
    )
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)


def write_file(path: Path, meta: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta))
    head += b"".join(string(key) + field(value) for key, value in meta.items())
    offset, body = 0, b""
    for name, (kind, shape, raw) in tensors.items():
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, offset)
        raw += b"\0" * (-len(raw) % 32)
        body += raw
        offset += len(raw)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


def quantised(kind: int, values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The blocks that stand for some values, and the values that the blocks stand for; one block at a time."""
    raw, back = b"", []
    for block in values.reshape(-1, 32).astype(np.float64):
        if kind == Q8_0:
            d = np.float16(np.abs(block).max() / 127 or 1)
            q = np.round(block / float(d)).astype(np.int8)
            raw += d.tobytes() + q.tobytes()
            back.append([np.float32(int(i)) * np.float32(d) for i in q])
            continue
        low = np.float16(block.min()) if kind == Q4_1 else np.float16(0)
        d = np.float16((block.max() - float(low)) / 15 if kind == Q4_1 else np.abs(block).max() / 7)
        shift = 0 if kind == Q4_1 else 8
        q = np.clip(np.round((block - float(low)) / float(d)) + shift, 0, 15).astype(np.uint8)
        raw += d.tobytes() + (low.tobytes() if kind == Q4_1 else b"")
        raw += bytes(int(q[i]) | int(q[i + 16]) << 4 for i in range(16))
        back.append([np.float32(int(i) - shift) * np.float32(d) + np.float32(low) for i in q])
    return raw, np.array(back, dtype=np.float32).reshape(values.shape)


@pytest.mark.parametrize("kind", [F32, F16, Q4_0, Q4_1, Q8_0])
def test_blocks(kind: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    if kind in (F32, F16):
        stored = values.astype(np.float32 if kind == F32 else np.float16)
        raw, wanted = stored.tobytes(), stored.astype(np.float32)
    else:
        raw, wanted = quantised(kind, values)
        assert np.abs(wanted - values).max() < 0.6, "the blocks do not stand for the values"
    path = write_file(tmp_path / "a.gguf", {"general.architecture": "llama"}, {"x": (kind, values.shape, raw)})
    (name, found), *others = read_tensors(read_header(path))
    assert name == "x" and not others and found.shape == values.shape
    np.testing.assert_array_equal(found.numpy(), wanted)


NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def model_file(path: Path, model: Any, tokenizer: Any, **changes: Any) -> Path:
    """A model as GGUF keeps it: the halves of rotated pairs side by side."""
    config = model.config
    tensors = {}
    for key, value in model.state_dict().items():
        if key in NAMES:
            name = NAMES[key]
        else:
            _, _, layer, part = key.removesuffix(".weight").split(".", 3)
            name = f"blk.{layer}.{PARTS[part]}.weight"
        if part_heads := {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(
            name.split(".")[-2]
        ):
            rows = [value.chunk(part_heads)[h] for h in range(part_heads)]
            value = torch.cat([torch.stack(r.chunk(2), 1).flatten(0, 1) for r in rows])
        tensors[name] = (F32, tuple(value.shape), value.numpy().tobytes())
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    meta = {
        "general.architecture": "llama",
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3 if w.startswith("<|") else 1 for w in words],
        "tokenizer.ggml.merges": [" ".join(m) for m in merges],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        **changes,
    }
    return write_file(path, {k: v for k, v in meta.items() if v is not None}, tensors)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    loaded = load(str(model_file(tmp_path / "a.gguf", model, tokenizer)))
    assert loaded.kind == "causal" and not loaded.model.training
    text = "The capital of Spain<|end|> isn't 2024 日"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert loaded.tokenizer(text)["input_ids"] == ids[0].tolist()
    torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    for (name, wanted), found in zip(model.named_parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(found, wanted), name


def test_transformers_reads_the_same_weights(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="transformers reads such files with gguf and accelerate")
    pytest.importorskip("accelerate", reason="transformers reads such files with gguf and accelerate")
    from transformers import AutoModelForCausalLM

    path = model_file(tmp_path / "a.gguf", tiny.llama(), tiny.byte_level())
    assert gguf.GGUFReader(path).tensors
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf").state_dict()
    ours = load(str(path)).model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma3"}, "a model of architecture 'gemma3'; read here is 'llama'"),
        ({"llama.block_count": None}, "lacks llama.block_count"),
        ({"tokenizer.ggml.model": "llama"}, "a vocabulary of kind 'llama'; read here is 'gpt2'"),
        ({"llama.block_count": 3}, "do not make a llama model"),
    ],
)
def test_other_models(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load(str(model_file(tmp_path / "a.gguf", tiny.llama(), tiny.byte_level(), **changes)))


def test_damaged_files(tmp_path: Path) -> None:
    whole = model_file(tmp_path / "whole.gguf", tiny.llama(), tiny.byte_level()).read_bytes()
    path = tmp_path / "a.gguf"
    for content, message in [
        (b"PK" + whole[2:], "it does not begin with GGUF"),
        (whole[:4] + struct.pack("<I", 9) + whole[8:], "it is of version 9"),
        (whole[:200], "no readable GGUF file"),
        (whole[:-400], "is cut off"),
        (whole[:32] + b"\xff" * 8 + whole[40:], "no readable GGUF file"),
        (b"", "no readable GGUF file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load(str(path))
    with pytest.raises(InputError, match="in blocks of type 14"):
        made = write_file(path, {"general.architecture": "llama"}, {"x": (14, (32,), b"\0" * 32)})
        list(read_tensors(read_header(made)))
