"""AttnLRP and CP-LRP against relevances that LXT's efficient form gave, on six families of language models.

The stored numbers say what the method's authors compute. They are no proof of it: `test_oracle.py` beside
this file derives the same relevance from the rules themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import relprop as rp
from tests.reference.recipe import HERE, build, settings
from tests.support.compare import assert_close

pytest.importorskip("transformers", reason="language models come from transformers")

SETTINGS = settings("lxt")["models"]
STORED = np.load(HERE / "lxt.npz")
PRESETS = {"attnlrp": rp.AttnLRP, "cplrp": rp.CPLRP}
# LXT divides f(x) by x + 1e-10; that shift, and RMSNorm's float32 inside float64 models, bound the agreement.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 2e-6}


def logit(entry: dict[str, Any]) -> Any:
    def target(output: Any) -> Tensor:
        logits = output.logits
        return logits[:, entry["target"]] if logits.ndim == 2 else logits[:, -1, entry["target"]]

    return target


def key(name: str, rule: str, dtype: torch.dtype) -> str:
    return f"{name}/{rule}/{str(dtype).removeprefix('torch.')}/sdpa"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rule", PRESETS)
@pytest.mark.parametrize("name", SETTINGS)
def test_relevance_per_dimension(name: str, rule: str, dtype: torch.dtype, attention: str) -> None:
    entry = SETTINGS[name]
    model = build(entry, dtype, attention)
    embeds = model.get_input_embeddings()(torch.tensor(entry["ids"])).detach()
    expected = torch.from_numpy(STORED[key(name, rule, dtype)])

    explanation = rp.LRP(model, PRESETS[rule]()).explain(inputs_embeds=embeds, target=logit(entry))

    value = logit(entry)(explanation.output)
    stored = torch.from_numpy(STORED[key(name, rule, dtype) + "/logit"])
    assert_close(value[0], stored, rtol=1e-5, label="not the model that the reference came from")
    found = explanation.relevance
    found = found["inputs_embeds"] if isinstance(found, dict) else found
    assert_close(found[0], expected, rtol=TOLERANCE[dtype], label=f"{name} {rule}")


@pytest.mark.parametrize("rule", PRESETS)
@pytest.mark.parametrize("name", SETTINGS)
def test_relevance_per_token_from_ids(name: str, rule: str) -> None:
    """Ids in: relevance at the embedding, and its sum over the width for each token."""
    entry = SETTINGS[name]
    model = build(entry)
    ids = torch.tensor(entry["ids"])
    explanation = rp.LRP(model, PRESETS[rule]()).explain(input_ids=ids, target=logit(entry))
    expected = torch.from_numpy(STORED[key(name, rule, torch.float32)])
    assert_close(explanation.relevance[0], expected, rtol=1e-5, label=f"{name} {rule}")
    assert explanation.per_token().shape == ids.shape
    assert_close(explanation.per_token()[0], expected.sum(-1), rtol=1e-5, label=f"{name} {rule}")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_two_rule_sets_differ(name: str) -> None:
    """A library that ignores the choice cannot pass: the stored relevances of the two are far apart."""
    attn, cp = (STORED[key(name, rule, torch.float64)] for rule in PRESETS)
    assert np.abs(attn - cp).max() > 0.05 * np.abs(attn).max()
