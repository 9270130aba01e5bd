"""Write ``lxt.npz`` and ``lxt.json``: relevances of LXT's efficient AttnLRP and CP-LRP on tiny random models.

    python tests/reference/make_lxt.py PATH_TO_AN_LXT_CHECKOUT

LXT (Achtibat et al. 2024, https://github.com/rachtibat/LRP-eXplains-Transformers) replaces methods of the
model classes for the whole process, so every model and rule set runs in a process of its own. Stored are, for
each, the embedding times its gradient where the explained logit has gradient one: the relevance per token
and dimension, which sums to about the logit. LXT's own BERT file needs transformers 4; BERT is patched here
with the same building blocks that LXT uses for the other families.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe import HERE, build

COMMON = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED = dict(COMMON, num_key_value_heads=2)
NO_SPECIAL = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}

IDS = [[17, 5, 42, 42, 9, 31, 56, 23, 12]]

MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "config_class": "LlamaConfig",
        "model_class": "LlamaForCausalLM",
        "config": GROUPED | NO_SPECIAL,
    },
    "qwen2": {
        "config_class": "Qwen2Config",
        "model_class": "Qwen2ForCausalLM",
        "config": GROUPED | NO_SPECIAL,
    },
    "qwen3": {
        "config_class": "Qwen3Config",
        "model_class": "Qwen3ForCausalLM",
        "config": GROUPED | NO_SPECIAL | {"head_dim": 8},
    },
    "gemma3": {
        "config_class": "Gemma3TextConfig",
        "model_class": "Gemma3ForCausalLM",
        "config": GROUPED
        | {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    },
    "bert": {
        "config_class": "BertConfig",
        "model_class": "BertForSequenceClassification",
        "config": COMMON | {"num_labels": 3},
    },
    "gpt2": {
        "config_class": "GPT2Config",
        "model_class": "GPT2LMHeadModel",
        "config": {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32} | NO_SPECIAL,
    },
}
for _entry in MODELS.values():
    _entry.update(seed=7, ids=IDS, target=1 if "num_labels" in _entry["config"] else 11)

RULES = ("attnlrp", "cplrp")
DTYPES = ("float32", "float64")


def logit(entry: dict[str, Any], output: Any) -> torch.Tensor:
    """The explained number: a class, or a token at the last position."""
    logits = output.logits
    return logits[0, entry["target"]] if logits.ndim == 2 else logits[0, -1, entry["target"]]


def patch(name: str, rule: str) -> None:
    """Let LXT replace the methods of this family's classes."""
    from importlib import import_module

    from lxt.efficient import monkey_patch, patches

    modeling = import_module(f"transformers.models.{name}.modeling_{name}")
    attribute = {"attnlrp": "attnLRP", "cplrp": "cp_LRP"}[rule]
    if name != "bert":
        table = getattr(import_module(f"lxt.efficient.models.{name}"), attribute)
    else:
        from transformers.activations import GELUActivation

        activation = partial(patches.patch_method, patches.non_linear_forward, keep_original=True)
        attend = {"attnlrp": patches.patch_attention, "cplrp": patches.patch_cp_attention}[rule]
        table = {
            torch.nn.LayerNorm: partial(patches.patch_method, patches.layer_norm_forward),
            torch.nn.Dropout: partial(patches.patch_method, patches.dropout_forward),
            GELUActivation: activation,
            torch.nn.Tanh: activation,
            modeling: attend,
        }
    monkey_patch(modeling, table)


def run(name: str, rule: str, target: Path) -> None:
    """One model and rule set, every dtype and attention kernel, into one .npz."""
    patch(name, rule)
    entry = MODELS[name]
    found: dict[str, np.ndarray] = {}
    for dtype in DTYPES:
        for attention in ("sdpa", "eager"):
            model = build(entry, getattr(torch, dtype), attention)
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            embeds = model.get_input_embeddings()(torch.tensor(entry["ids"])).detach().requires_grad_()
            extra = {} if name == "bert" else {"use_cache": False}
            value = logit(entry, model(inputs_embeds=embeds, **extra))
            value.backward()
            key = f"{name}/{rule}/{dtype}/{attention}"
            found[key] = (embeds * embeds.grad)[0].detach().numpy()
            found[key + "/logit"] = value.detach().numpy()
    np.savez(target, **found)


def main(checkout: str) -> None:
    import transformers

    everything: dict[str, np.ndarray] = {}
    for name in MODELS:
        for rule in RULES:
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder, "part.npz")
                subprocess.run([sys.executable, __file__, checkout, name, rule, str(part)], check=True)
                with np.load(part) as found:
                    everything.update(found)
    kept = {}
    for key, value in everything.items():
        # The two kernels agree to rounding; one of them is enough beside the models' own weights.
        other = everything[key.replace("/eager", "/sdpa")]
        difference = np.abs(value - other).max() / np.abs(other).max()
        print(f"{key:40s} max {np.abs(value).max():9.3e} sum {value.sum():9.3e} kernels {difference:.1e}")
        if "/eager" not in key:
            kept[key] = value
    np.savez_compressed(HERE / "lxt.npz", **kept)
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
    settings = {
        "made_with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "lxt": commit.stdout.strip() or "f043441 (transformers 5)",
            "attention": "sdpa; eager agreed",
        },
        "models": MODELS,
    }
    (HERE / "lxt.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    # torchvision, where installed beside a torch it was not built for, imports only after these declarations
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    if len(sys.argv) == 5:
        run(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main(sys.argv[1])
