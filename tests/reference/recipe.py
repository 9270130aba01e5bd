"""How the models behind stored references are rebuilt: by name, whatever a package's initialisation does."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).parent


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter from a generator seeded by its name, and put the model in eval mode.

    Matrices get the scale of their fan-in, embeddings 0.5 and vectors 0.1; the weights of norms lie around
    one. State-space parameters (``A_log``, ``D``, ``dt_bias``) keep the structure that they were given.
    Numbers are drawn in float64 and rounded to the parameter's type.
    """
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            leaf = name.rsplit(".", 1)[-1]
            if leaf in ("A_log", "D", "dt_bias"):
                continue
            if parameter.ndim >= 2:
                embeds = any(word in name for word in ("embed", "wte", "wpe", "token", "shared"))
                noise *= 0.5 if embeds else parameter[0].numel() ** -0.5
            elif leaf.endswith("weight"):
                noise = 1 + 0.1 * noise
            else:
                noise *= 0.1
            parameter.copy_(noise.to(parameter.dtype))
    return model.eval()


def settings(name: str) -> dict[str, Any]:
    """The stored settings of one reference file, ``NAME.json`` beside ``NAME.npz``."""
    loaded: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return loaded


def build(entry: dict[str, Any], dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> nn.Module:
    """The transformers model of one entry: ``config_class``, ``config``, ``model_class`` and ``seed``."""
    import transformers

    config = getattr(transformers, entry["config_class"])(**entry["config"])
    config._attn_implementation = attention
    model = getattr(transformers, entry["model_class"])(config)
    return fill(model, entry["seed"]).to(dtype)
