"""Llama models from GGUF files: header, blocks and vocabulary, read with numpy.

`transformers` reads such files too (`gguf_file=`), but parses the header three times in Python and looks every
tensor's name up among all architectures: half a minute for a small model where this takes a few seconds. A test
holds the two to the same weights.

[The format: ggml's gguf.md; the blocks: ggml-quants.c]
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relprop.errors import InputError

Array = npt.NDArray[Any]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_BLOCK = 32  # values in a block of the types below


@dataclass(frozen=True)
class Entry:
    """A tensor in the file: its shape as torch writes it, its type and where its bytes begin."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself, before any tensor is read."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Entry]
    start: int


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def take(self, form: str) -> Any:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def string(self) -> str:
        size = self.take("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind}")
        kind, count = self.take("IQ")
        if kind in _SCALARS:
            found = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, self.at)
            self.at += struct.calcsize(f"<{count}{_SCALARS[kind]}")
            return list(found)
        return [self.value(kind) for _ in range(count)]


def read_header(path: str | Path) -> Header:
    """The metadata and the table of tensors.

    Raises:
        InputError: where there is no such file, or it is no GGUF file, or a damaged one.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, _Cursor(data))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, struct.error, UnicodeDecodeError, MemoryError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is no readable GGUF file: {error}") from error


def _parse(path: Path, cursor: _Cursor) -> Header:
    if cursor.data[:4] != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    cursor.at = 4
    version, tensors, count = cursor.take("IQQ")
    if version not in _VERSIONS:
        raise ValueError(f"it is of version {version}; known are {', '.join(map(str, _VERSIONS))}")
    meta = {}
    for _ in range(count):
        key = cursor.string()
        meta[key] = cursor.value(cursor.take("I"))
    table = {}
    for _ in range(tensors):
        name = cursor.string()
        axes = cursor.take("I")
        shape = tuple(cursor.take("Q") for _ in range(axes))[::-1]  # the fastest axis comes first in the file
        kind, offset = cursor.take("IQ")
        table[name] = Entry(shape, kind, offset)
    alignment = int(meta.get("general.alignment", 32))
    return Header(path, meta, table, -(-cursor.at // alignment) * alignment)


# -- blocks to numbers -------------------------------------------------------------------------------------------------


def _half(blocks: Array, start: int) -> Array:
    return blocks[:, start : start + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(blocks: Array) -> Array:
    """Two values a byte: the low halves are the block's first 16 values, the high ones its last."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=1).astype(np.float32)


def _q4_0(blocks: Array) -> Array:
    return (_nibbles(blocks[:, 2:]) - 8) * _half(blocks, 0)


def _q4_1(blocks: Array) -> Array:
    return _nibbles(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2)


def _q8_0(blocks: Array) -> Array:
    return blocks[:, 2:].copy().view(np.int8).astype(np.float32) * _half(blocks, 0)


_PLAIN: dict[int, Any] = {0: np.float32, 1: np.float16}
_BLOCKS: dict[int, tuple[int, Callable[[Array], Array]]] = {2: (18, _q4_0), 3: (20, _q4_1), 8: (34, _q8_0)}


def read_tensors(header: Header) -> Iterator[tuple[str, Tensor]]:
    """The tensors in float32, in the file's order.

    Raises:
        InputError: for a type of block that is not known here, or a file that ends too early.
    """
    data = np.memmap(header.path, mode="r", dtype=np.uint8)
    for name, entry in header.tensors.items():
        begin, count = header.start + entry.offset, prod(entry.shape)
        if entry.kind in _PLAIN:
            dtype = np.dtype(_PLAIN[entry.kind])
            raw = data[begin : begin + count * dtype.itemsize]
            values = np.array(raw).view(dtype).astype(np.float32)
        elif entry.kind in _BLOCKS:
            size, decode = _BLOCKS[entry.kind]
            raw = data[begin : begin + count // _BLOCK * size]
            values = decode(np.array(raw[: len(raw) // size * size]).reshape(-1, size))
        else:
            raise InputError(
                f"{header.path} holds {name} in blocks of type {entry.kind}; known are F32, F16, Q4_0, Q4_1 and Q8_0. "
                "Load it with transformers (gguf_file=) and give the model"
            )
        if values.size != count:
            raise InputError(f"{header.path} is cut off: {name} should hold {count} values, there are {values.size}")
        yield name, torch.from_numpy(np.ascontiguousarray(values.reshape(entry.shape)))


# -- llama -------------------------------------------------------------------------------------------------------------

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def llama_settings(header: Header) -> dict[str, Any]:
    """What `LlamaConfig` takes.

    Raises:
        InputError: for another architecture.
    """
    architecture = header.meta.get("general.architecture")
    if architecture != "llama":
        raise InputError(
            f"{header.path} holds a model of architecture {architecture!r}; read here is 'llama'. Load it with "
            "transformers (gguf_file=) and give the model"
        )
    try:
        heads = int(header.meta["llama.attention.head_count"])
        return {
            "vocab_size": header.tensors["token_embd.weight"].shape[0],
            "hidden_size": int(header.meta["llama.embedding_length"]),
            "intermediate_size": int(header.meta["llama.feed_forward_length"]),
            "num_hidden_layers": int(header.meta["llama.block_count"]),
            "num_attention_heads": heads,
            "num_key_value_heads": int(header.meta.get("llama.attention.head_count_kv", heads)),
            "max_position_embeddings": int(header.meta["llama.context_length"]),
            "rms_norm_eps": float(header.meta["llama.attention.layer_norm_rms_epsilon"]),
            "rope_theta": float(header.meta.get("llama.rope.freq_base", 10000.0)),
            "tie_word_embeddings": "output.weight" not in header.tensors,
            "bos_token_id": header.meta.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": header.meta.get("tokenizer.ggml.eos_token_id"),
            "pad_token_id": header.meta.get("tokenizer.ggml.padding_token_id"),
        }
    except KeyError as error:
        raise InputError(f"{header.path} lacks {error.args[0]}") from error


def llama_weight(name: str, value: Tensor, settings: dict[str, Any]) -> tuple[str, Tensor]:
    """A tensor under the name and in the order that transformers wants.

    GGUF keeps the two halves of each rotated pair of queries and keys side by side; transformers keeps all first
    halves before all second ones.
    """
    parts = name.split(".")
    layer = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
    stem, kind = parts[-2:]
    if stem not in _NAMES:
        raise InputError(f"tensor {name!r} is none of a llama model")
    if stem in ("attn_q", "attn_k"):
        heads = settings["num_attention_heads" if stem == "attn_q" else "num_key_value_heads"]
        rows = value.shape[0]
        value = value.reshape(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(value.shape).contiguous()
    return f"{layer}{_NAMES[stem]}.{kind}", value
